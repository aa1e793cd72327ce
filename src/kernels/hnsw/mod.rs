//! Searches of a graph that usearch wrote, over its file in place: [`Layers`] walks it, [`Distances`]
//! compares rows in the graph's own number format. The edge's `engines::usearch` builds, opens and asks.

mod distances;
mod tape;
mod walk;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use distances::{Distances, Query, fetch};
pub use tape::Tape;
pub use walk::{Layers, Met, Scratch};

/// What of two rows is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The negated dot product.
    Dot,
    /// The sum of the squared differences.
    SquaredEuclidean,
}

/// The format of a row's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// IEEE 754, 4 bytes.
    F32,
    /// IEEE 754, 2 bytes.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// A signed byte.
    I8,
}

impl Number {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }
}

//! Distances of one query to many rows of the graph's file at once, in the graph's own number format.
//! A walk calls it with the neighbours of a node. One call for all of them costs one dispatch, has
//! every row on its way before the first is summed, and lets four be summed at a time: reading, not
//! arithmetic, is what a search over rows in main memory waits for.
//!
//! Dot products of x86-64 with AVX-512 are our own; everything else is numkong's, row by row.

use numkong::{Dot, Euclidean, bf16, f16};

#[cfg(target_arch = "x86_64")]
use super::wide;
use super::{Form, Number};

/// A query in the number format that the distances are computed in.
pub enum Query {
    /// For rows of f32, and for all floats where a kernel of our own widens them.
    F32(Vec<f32>),
    /// For rows of f16.
    F16(Vec<f16>),
    /// For rows of bf16.
    Bf16(Vec<bf16>),
    /// For rows of i8.
    I8(Vec<i8>),
}

/// A kernel over rows: query, rows, bytes of a row, slots, where the distances go.
pub(super) type Wide = fn(&Query, &[u8], usize, &[u32], &mut Vec<f32>);

/// How distances in one graph are computed.
#[derive(Clone, Copy)]
pub struct Distances {
    form: Form,
    number: Number,
    /// Bytes of a row.
    stride: usize,
    wide: Option<Wide>,
}

impl Distances {
    /// With the best that this machine has.
    pub fn new(form: Form, number: Number, dimensions: usize) -> Self {
        Self {
            form,
            number,
            stride: dimensions * number.bytes(),
            wide: wide_kernel(form, number),
        }
    }

    /// The same without kernels of our own, as on other machines.
    #[cfg(test)]
    fn plain(self) -> Self {
        Self { wide: None, ..self }
    }

    /// Bytes of a row.
    pub fn stride(self) -> usize {
        self.stride
    }

    /// A query of floats, scaled as the rows were.
    pub fn floats(self, query: Vec<f32>) -> Query {
        match self.number {
            _ if self.wide.is_some() => Query::F32(query),
            Number::F16 => Query::F16(query.into_iter().map(f16::from_f32).collect()),
            Number::Bf16 => Query::Bf16(query.into_iter().map(bf16::from_f32).collect()),
            Number::F32 | Number::I8 => Query::F32(query),
        }
    }

    /// Puts the distances of rows into `out`: negated dot products, or squared Euclidean distances.
    /// `rows` holds whole rows, and every slot is one of them.
    pub fn measure(self, query: &Query, rows: &[u8], slots: &[u32], out: &mut Vec<f32>) {
        out.clear();
        if let Some(wide) = self.wide {
            return wide(query, rows, self.stride, slots, out);
        }
        out.extend(slots.iter().map(|&slot| {
            let start = slot as usize * self.stride;
            self.distance(query, &rows[start..start + self.stride])
        }));
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "an order of neighbours, not a result"
    )]
    fn distance(self, query: &Query, row: &[u8]) -> f32 {
        let distance = match (query, self.form) {
            (Query::F32(query), Form::SquaredEuclidean) => {
                <f32 as Euclidean>::sqeuclidean(query, seen(row)).map(|sum| sum as f32)
            }
            (Query::F32(query), _) => <f32 as Dot>::dot(query, seen(row)).map(|sum| -sum as f32),
            (Query::F16(query), Form::SquaredEuclidean) => {
                <f16 as Euclidean>::sqeuclidean(query, seen(row))
            }
            (Query::F16(query), _) => <f16 as Dot>::dot(query, seen(row)).map(|sum| -sum),
            (Query::Bf16(query), Form::SquaredEuclidean) => {
                <bf16 as Euclidean>::sqeuclidean(query, seen(row))
            }
            (Query::Bf16(query), _) => <bf16 as Dot>::dot(query, seen(row)).map(|sum| -sum),
            (Query::I8(query), Form::SquaredEuclidean) => {
                <i8 as Euclidean>::sqeuclidean(query, seen(row)).map(|sum| sum as f32)
            }
            (Query::I8(query), _) => <i8 as Dot>::dot(query, seen(row)).map(|sum| -sum as f32),
        };
        distance.expect("query and rows have the index's dimensions")
    }
}

/// A number that every pattern of its bits is.
trait Plain {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for bf16 {}
impl Plain for i8 {}

/// A row's numbers, in place.
fn seen<T: Plain>(row: &[u8]) -> &[T] {
    // SAFETY: `Plain` types are numbers without invalid patterns, and `align_to` minds boundaries.
    #[expect(unsafe_code, reason = "bytes seen as numbers without a copy")]
    let (before, numbers, after) = unsafe { row.align_to::<T>() };
    assert!(
        before.is_empty() && after.is_empty(),
        "rows of the file lie on boundaries of their numbers"
    );
    numbers
}

#[cfg(target_arch = "x86_64")]
fn wide_kernel(form: Form, number: Number) -> Option<Wide> {
    match form {
        Form::Dot => wide::dot(number),
        Form::SquaredEuclidean => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn wide_kernel(_: Form, _: Number) -> Option<Wide> {
    None
}

/// Has bytes brought near, without waiting for them.
pub fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        wide::fetch_line(line);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "small numbers"
    )]
    fn our_kernels_and_numkongs_agree_for_every_width_and_number_of_rows() {
        for dimensions in [1, 7, 16, 31, 63, 64, 65, 128, 200, 768] {
            let number = |at: usize| ((at * 37 + 11) % 101) as f32 / 50.0 - 1.0;
            for format in [Number::F32, Number::F16, Number::Bf16, Number::I8] {
                let rows: Vec<u8> = (0..9 * dimensions)
                    .flat_map(|at| match format {
                        Number::F32 => number(at).to_le_bytes().to_vec(),
                        Number::F16 => f16::from_f32(number(at)).0.to_le_bytes().to_vec(),
                        Number::Bf16 => bf16::from_f32(number(at)).0.to_le_bytes().to_vec(),
                        Number::I8 => ((number(at) * 100.0) as i8).to_le_bytes().to_vec(),
                    })
                    .collect();
                let floats: Vec<f32> = (0..dimensions).map(|at| number(at * 3 + 1)).collect();
                let distances = Distances::new(Form::Dot, format, dimensions);
                let query = |distances: Distances| match format {
                    Number::I8 => {
                        Query::I8(floats.iter().map(|value| (value * 100.0) as i8).collect())
                    }
                    _ => distances.floats(floats.clone()),
                };
                for slots in [&[][..], &[8], &[3, 1, 2], &[8, 7, 6, 5, 4, 3, 2, 1, 0]] {
                    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                    distances.measure(&query(distances), &rows, slots, &mut ours);
                    let plain = distances.plain();
                    plain.measure(&query(plain), &rows, slots, &mut theirs);
                    assert_eq!(ours.len(), theirs.len());
                    for (ours, theirs) in ours.iter().zip(&theirs) {
                        let near = (ours - theirs).abs() <= 0.01 * theirs.abs().max(1.0);
                        assert!(near, "{ours} {theirs} {dimensions} {format:?}");
                    }
                }
            }
        }
    }
}

//! Policies as they are carried out: row filters that cannot fail, redactions, and the lens that is
//! made of them for one reader. The catalog keeps the definitions; `view` puts a barrier around a lens.

pub mod filter;
pub mod lens;
pub mod redact;
pub mod serve;
mod values;

pub use filter::{CompiledFilter, compile};
pub use lens::{Described, Lens, LensStep, described};
pub use redact::RedactionKey;
pub use serve::{NoWay, Way, way};

//! Dot products on AVX-512, four rows at a time: i8 through VNNI, the float formats widened to f32.
//! `distances` asks once what the machine has. Rows need no alignment, but those that begin on a
//! boundary of 64 touch a cache line less each.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, __mmask64, _MM_HINT_T1, _mm_prefetch, _mm256_maskz_loadu_epi16,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_maskz_loadu_epi8, _mm512_maskz_loadu_ps, _mm512_reduce_add_epi32,
    _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_xor_si512,
};

use super::{
    Number,
    distances::{Query, Wide, fetch},
};

/// Rows that are summed together.
const TOGETHER: usize = 4;

/// The kernel for a number format, when the machine has what it takes.
pub(super) fn dot(number: Number) -> Option<Wide> {
    let base = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    let kernel: Wide = match number {
        Number::I8 => bytes,
        Number::F16 => |query, rows, stride, slots, out| {
            floats(query, rows, stride, 2, slots, out, halves);
        },
        Number::Bf16 => |query, rows, stride, slots, out| {
            floats(query, rows, stride, 2, slots, out, brains);
        },
        Number::F32 => |query, rows, stride, slots, out| {
            floats(query, rows, stride, 4, slots, out, singles);
        },
    };
    let vnni = number != Number::I8 || is_x86_feature_detected!("avx512vnni");
    (base && vnni).then_some(kernel)
}

/// Has a cache line brought into the second cache: it has room for all neighbours of a node, and takes
/// more lines at once than the first.
pub(super) fn fetch_line(line: &[u8]) {
    // SAFETY: a prefetch reads nothing that the program sees and faults at no address.
    #[expect(unsafe_code, reason = "the standard library has no prefetch")]
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
    }
}

/// The pointers of up to four rows; those beyond the last repeat it.
fn pointers(rows: &[u8], stride: usize, slots: &[u32]) -> [*const u8; TOGETHER] {
    std::array::from_fn(|at| {
        let slot = slots[at.min(slots.len() - 1)] as usize;
        rows[slot * stride..(slot + 1) * stride].as_ptr()
    })
}

/// Has all rows brought near before the first is summed.
fn fetch_rows(rows: &[u8], stride: usize, slots: &[u32]) {
    for &slot in slots {
        let slot = slot as usize;
        fetch(&rows[slot * stride..(slot + 1) * stride]);
    }
}

fn bytes(query: &Query, rows: &[u8], stride: usize, slots: &[u32], out: &mut Vec<f32>) {
    let Query::I8(query) = query else {
        unreachable!("a graph of bytes is asked with bytes");
    };
    assert_eq!(query.len(), stride, "checked at the door");
    fetch_rows(rows, stride, slots);
    for four in slots.chunks(TOGETHER) {
        let from = pointers(rows, stride, four);
        // SAFETY: the machine has the features (`dot` asked), the query has `stride` numbers, and
        // every pointer leads to a row of as many, by the bounds that `pointers` checked.
        #[expect(unsafe_code, reason = "vector instructions")]
        let sums = unsafe { four_bytes(query.as_ptr(), stride, from) };
        out.extend(&sums[..four.len()]);
    }
}

/// VNNI multiplies unsigned with signed numbers: the rows' sign bits are flipped, which adds 128
/// times the query's sum to every product alike. It is taken off again at the end.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[expect(unsafe_code, reason = "vector instructions")]
#[expect(clippy::cast_precision_loss, reason = "sums of an order, below 2^31")]
unsafe fn four_bytes(query: *const i8, length: usize, rows: [*const u8; 4]) -> [f32; 4] {
    let flip = _mm512_set1_epi8(-128);
    let mut sums: [__m512i; 4] = [_mm512_setzero_si512(); 4];
    let mut offset = _mm512_setzero_si512();
    let mut at = 0;
    while at < length {
        let mask: __mmask64 = if length - at >= 64 {
            !0
        } else {
            (1 << (length - at)) - 1
        };
        // SAFETY: the mask ends at `length`, which is what the caller has at each pointer.
        unsafe {
            let part = _mm512_maskz_loadu_epi8(mask, query.add(at));
            offset = _mm512_dpbusd_epi32(offset, flip, part);
            for (sum, row) in sums.iter_mut().zip(rows) {
                let row = _mm512_maskz_loadu_epi8(mask, row.add(at).cast());
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(row, flip), part);
            }
        }
        at += 64;
    }
    let offset = _mm512_reduce_add_epi32(offset);
    sums.map(|sum| (offset - _mm512_reduce_add_epi32(sum)) as f32)
}

/// Sums four rows of floats.
type Four = unsafe fn(*const f32, usize, [*const u8; 4]) -> [f32; 4];

fn floats(
    query: &Query,
    rows: &[u8],
    stride: usize,
    number_bytes: usize,
    slots: &[u32],
    out: &mut Vec<f32>,
    four_floats: Four,
) {
    let Query::F32(query) = query else {
        unreachable!("a graph of floats is asked with floats");
    };
    assert_eq!(query.len() * number_bytes, stride, "checked at the door");
    fetch_rows(rows, stride, slots);
    for four in slots.chunks(TOGETHER) {
        let from = pointers(rows, stride, four);
        // SAFETY: as in `bytes`; a row has `stride` bytes, which are as many numbers as the query has.
        #[expect(unsafe_code, reason = "vector instructions")]
        let sums = unsafe { four_floats(query.as_ptr(), query.len(), from) };
        out.extend(&sums[..four.len()]);
    }
}

fn mask16(left: usize) -> __mmask16 {
    if left >= 16 { !0 } else { (1 << left) - 1 }
}

/// Numbers of a row as loads without alignment take them.
fn numbers<T>(row: *const u8) -> *const T {
    row.cast()
}

/// Negated dot products with four rows whose numbers `widen` makes f32.
macro_rules! four_floats {
    ($name:ident, $widen:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        #[expect(unsafe_code, reason = "vector instructions")]
        unsafe fn $name(query: *const f32, length: usize, rows: [*const u8; 4]) -> [f32; 4] {
            let mut sums: [__m512; 4] = [_mm512_setzero_ps(); 4];
            let mut at = 0;
            while at < length {
                let mask = mask16(length - at);
                // SAFETY: the mask ends at `length`, which is what the caller has at each pointer.
                unsafe {
                    let part = _mm512_maskz_loadu_ps(mask, query.add(at));
                    for (sum, row) in sums.iter_mut().zip(rows) {
                        let row: __m512 = $widen(row, at, mask);
                        *sum = _mm512_fmadd_ps(row, part, *sum);
                    }
                }
                at += 16;
            }
            sums.map(|sum| -_mm512_reduce_add_ps(sum))
        }
    };
}

four_floats!(singles, |row: *const u8, at: usize, mask| {
    _mm512_maskz_loadu_ps(mask, numbers::<f32>(row).add(at))
});
four_floats!(halves, |row: *const u8, at: usize, mask| {
    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, numbers::<i16>(row).add(at)))
});
four_floats!(brains, |row: *const u8, at: usize, mask| {
    let bits = _mm256_maskz_loadu_epi16(mask, numbers::<i16>(row).add(at));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
});

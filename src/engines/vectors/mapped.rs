//! Files mapped into memory, and numbers seen in place: the unsafe steps of the engines that are not
//! calls of usearch. `column` and the usearch engine read through it.

use std::fs::File;

use memmap2::Mmap;

#[cfg(target_endian = "big")]
compile_error!("the files of an index are little-endian and read in place");

/// Maps a file of a generation for reading.
///
/// # Errors
/// What the system says.
pub fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: a generation's files are never written again once they are complete; the daemon owns
    // their directory, and whoever changes them behind its back can do so to its memory as well.
    #[expect(unsafe_code, reason = "mapping a file")]
    unsafe {
        Mmap::map(file)
    }
}

/// The numbers that `bytes` are; `None` when they do not lie on a boundary of 4 or are cut off.
pub fn floats(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every pattern of 32 bits is an f32, and `align_to` minds the boundaries.
    #[expect(unsafe_code, reason = "bytes seen as numbers without a copy")]
    let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(floats)
}

/// The bytes of `floats`, as they are stored.
pub fn bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: an f32 has no padding, and bytes have no alignment.
    #[expect(unsafe_code, reason = "numbers seen as bytes without a copy")]
    let (_, bytes, _) = unsafe { floats.align_to::<u8>() };
    bytes
}

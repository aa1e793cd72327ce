//! The knowledge base: `WordNet` 3.1's synsets with their glosses, packed into the binary.
//! The demo ingests and searches it. `tools/make-wordnet` packs it; the NOTICE beside it has the licence.

use std::io::{self, BufReader, Read};

use bytes::Bytes;

/// One JSON object a line: `id` (`n00001740`), `pos` (noun, verb, adj, adv), `lexname` (its category,
/// such as `noun.animal`), `lemmas` (its words, joined by commas), `gloss` (the definition) and
/// `example` (null where there is none).
static PACKED: &[u8] = include_bytes!("wordnet.ndjson.zst");

/// Synsets, and so lines, of the knowledge base.
pub const WORDNET_ROWS: u64 = 117_791;
/// Bytes of the knowledge base as NDJSON.
pub const WORDNET_BYTES: u64 = 21_985_146;

const CHUNK_BYTES: usize = 1 << 20;

/// The knowledge base as NDJSON, unpacked while it is read. It does not fail: the bytes are the binary's own.
pub fn wordnet_ndjson() -> impl Read + Send {
    let packed = BufReader::with_capacity(64 << 10, PACKED);
    zstd::Decoder::with_buffer(packed)
        .expect("a zstd context can be made")
        .single_frame()
}

/// The bytes of [`wordnet_ndjson`] in chunks of 1 MiB, for a streamed request body.
pub fn wordnet_chunks() -> impl Iterator<Item = Bytes> + Send {
    let mut reader = wordnet_ndjson();
    std::iter::from_fn(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        let filled =
            fill(&mut reader, &mut chunk).expect("the packed glosses are part of the binary");
        chunk.truncate(filled);
        (filled > 0).then(|| Bytes::from(chunk))
    })
}

/// Reads until the buffer is full or the input ends, and returns how many bytes it read.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

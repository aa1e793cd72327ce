//! The body on its way in: counted, hashed and spooled as received, decompressed, held to limits.
//! `mod.rs` opens one `Source` per ingest; the format readers see a plain `std::io::Read`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::error::{IngestError, from_read, into_read};
use super::{IngestLimits, Progress};

/// Bytes that are read before a format is chosen.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// The ratio limit applies only beyond this many decompressed bytes.
const RATIO_GRACE_BYTES: u64 = 1 << 20;

/// The sending half of a body: the async edge pushes chunks, then says that it was all.
pub struct BodySender {
    chunks: tokio::sync::mpsc::Sender<Option<Bytes>>,
}

/// The engine is no longer reading: it failed, or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ingest no longer reads its body")]
pub struct BodyRefused;

impl BodySender {
    /// Sends one chunk; waits while the channel is full.
    ///
    /// # Errors
    /// [`BodyRefused`] when the reader is gone.
    pub async fn send(&self, chunk: Bytes) -> Result<(), BodyRefused> {
        self.chunks.send(Some(chunk)).await.map_err(|_| BodyRefused)
    }

    /// Says that the body is complete. A sender dropped without it makes the ingest fail.
    ///
    /// # Errors
    /// [`BodyRefused`] when the reader is gone.
    pub async fn finish(self) -> Result<(), BodyRefused> {
        self.chunks.send(None).await.map_err(|_| BodyRefused)
    }
}

/// A blocking reader over a bounded channel of body chunks. Never use it on an async worker thread.
pub struct ChannelReader {
    chunks: tokio::sync::mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl ChannelReader {
    /// A sender and its reader with room for `chunks_max` chunks between them.
    pub fn bounded(chunks_max: usize) -> (BodySender, Self) {
        let (sender, receiver) = tokio::sync::mpsc::channel(chunks_max.max(1));
        let reader = Self {
            chunks: receiver,
            current: Bytes::new(),
            ended: false,
        };
        (BodySender { chunks: sender }, reader)
    }
}

impl Read for ChannelReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.ended = true,
                None => {
                    let text = "the sender went away before the end of the body";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
        }
        let length = out.len().min(self.current.len());
        out[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

/// A reader whose first bytes can be looked at before they are read.
struct Peek<R> {
    inner: R,
    head: Vec<u8>,
    position: usize,
}

impl<R: Read> Peek<R> {
    fn new(mut inner: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        inner
            .by_ref()
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut head)?;
        Ok(Self {
            inner,
            head,
            position: 0,
        })
    }
}

impl<R: Read> Read for Peek<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position == self.head.len() {
            return self.inner.read(out);
        }
        let length = out.len().min(self.head.len() - self.position);
        out[..length].copy_from_slice(&self.head[self.position..self.position + length]);
        self.position += length;
        Ok(length)
    }
}

/// The raw body: every byte that passes is counted, hashed, and written to the spool.
struct Tee<'a> {
    input: Box<dyn Read + Send + 'a>,
    hasher: blake3::Hasher,
    spool: Option<File>,
    count: Arc<AtomicU64>,
    bytes_max: u64,
    progress: Arc<Progress>,
}

impl Read for Tee<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(into_read(IngestError::Cancelled));
        }
        let length = match self.input.read(out) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            // Told apart here from whatever a decoder says of the bytes.
            Err(error) => return Err(into_read(IngestError::Disconnected(error))),
        };
        let total = self.count.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        if total > self.bytes_max {
            return Err(into_read(IngestError::TooLarge {
                what: "body",
                limit_bytes: self.bytes_max,
            }));
        }
        self.hasher.update(&out[..length]);
        if let Some(spool) = &mut self.spool {
            spool
                .write_all(&out[..length])
                .map_err(|error| into_read(IngestError::Staging(error)))?;
        }
        self.progress
            .bytes_in
            .fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

type Raw<'a> = Peek<Tee<'a>>;

/// The body with its compression, found by magic bytes, taken off.
enum Decoder<R: Read> {
    Plain(R),
    Gzip(Box<flate2::read::MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    fn new(head: &[u8], inner: R) -> io::Result<Self> {
        if head.starts_with(&[0x1F, 0x8B]) {
            return Ok(Self::Gzip(Box::new(flate2::read::MultiGzDecoder::new(
                inner,
            ))));
        }
        if head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
            let mut decoder = zstd::stream::read::Decoder::new(inner)?;
            decoder.window_log_max(27)?;
            return Ok(Self::Zstd(Box::new(decoder)));
        }
        Ok(Self::Plain(inner))
    }

    fn codec(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Gzip(_) => Some("gzip"),
            Self::Zstd(_) => Some("zstd"),
        }
    }

    fn into_inner(self) -> R {
        match self {
            Self::Plain(inner) => inner,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let codec = self.codec().unwrap_or("plain");
        let result = match self {
            Self::Plain(inner) => return inner.read(out),
            Self::Gzip(decoder) => decoder.read(out),
            Self::Zstd(decoder) => decoder.read(out),
        };
        result.map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<IngestError>() => error,
            _ => into_read(IngestError::Compression { codec }),
        })
    }
}

/// Holds the decompressed bytes to the limits.
struct Limited<R> {
    inner: R,
    raw_count: Arc<AtomicU64>,
    count: u64,
    bytes_max: u64,
    ratio_max: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(out)?;
        self.count += length as u64;
        if self.count > self.bytes_max {
            return Err(into_read(IngestError::TooLarge {
                what: "decompressed body",
                limit_bytes: self.bytes_max,
            }));
        }
        let raw = self.raw_count.load(Ordering::Relaxed).max(1);
        if self.count > RATIO_GRACE_BYTES && self.count / raw > self.ratio_max {
            return Err(into_read(IngestError::Bomb {
                ratio: self.ratio_max,
            }));
        }
        Ok(length)
    }
}

/// What was received, known once the body ended.
pub(super) struct Received {
    /// Bytes as received.
    pub bytes: u64,
    /// blake3 of the bytes as received, in hex.
    pub blake3: String,
}

/// One body, from its first byte to its hash.
pub(super) struct Source<'a> {
    reader: Peek<Limited<Decoder<Raw<'a>>>>,
    count: Arc<AtomicU64>,
    compressed: bool,
}

impl<'a> Source<'a> {
    /// Starts to read `input`; everything received also goes to `spool` when there is one.
    pub fn open(
        input: Box<dyn Read + Send + 'a>,
        spool: Option<File>,
        limits: &IngestLimits,
        progress: &Arc<Progress>,
    ) -> Result<Self, IngestError> {
        let count = Arc::new(AtomicU64::new(0));
        let tee = Tee {
            input,
            hasher: blake3::Hasher::new(),
            spool,
            count: Arc::clone(&count),
            bytes_max: limits.body_bytes_max,
            progress: Arc::clone(progress),
        };
        let raw = Peek::new(tee).map_err(from_read)?;
        if raw.head.is_empty() {
            return Err(IngestError::Empty);
        }
        let head = raw.head.clone();
        let decoder = Decoder::new(&head, raw).map_err(IngestError::Staging)?;
        let compressed = decoder.codec().is_some();
        let reader = Peek::new(Limited {
            inner: decoder,
            raw_count: Arc::clone(&count),
            count: 0,
            bytes_max: limits.uncompressed_bytes_max,
            ratio_max: limits.ratio_max,
        });
        Ok(Self {
            reader: reader.map_err(from_read)?,
            count,
            compressed,
        })
    }

    /// The first decompressed bytes.
    pub fn head(&self) -> &[u8] {
        &self.reader.head
    }

    /// Whether a compression was taken off.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Reads what is left and answers for the whole body.
    pub fn finish(self) -> Result<Received, IngestError> {
        let mut raw = self.reader.inner.inner.into_inner();
        io::copy(&mut raw, &mut io::sink()).map_err(from_read)?;
        Ok(Received {
            bytes: self.count.load(Ordering::Relaxed),
            blake3: raw.inner.hasher.finalize().to_hex().to_string(),
        })
    }
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader.read(out)
    }
}

/// Where the body can be read a second time, and removed if it was spooled.
pub(super) struct Replay {
    /// The spool, or the file that the caller named.
    pub path: PathBuf,
    /// Whether `path` is ours to remove.
    pub spooled: bool,
}

impl Replay {
    /// Reads the body again from its start, decompressed.
    pub fn open(&self) -> Result<Box<dyn Read + Send>, IngestError> {
        let file = File::open(&self.path).map_err(IngestError::Staging)?;
        let raw = Peek::new(file).map_err(IngestError::Staging)?;
        let head = raw.head.clone();
        let decoder = Decoder::new(&head, raw).map_err(IngestError::Staging)?;
        Ok(Box::new(DecodedFile(decoder)))
    }

    /// Removes the spool, if there is one.
    pub fn remove(&self) -> Result<(), IngestError> {
        if self.spooled {
            std::fs::remove_file(&self.path).map_err(IngestError::Staging)?;
        }
        Ok(())
    }
}

struct DecodedFile(Decoder<Peek<File>>);

impl Read for DecodedFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

/// Writes all of `reader` to a new file at `path`.
pub(super) fn copy_to_file(reader: &mut impl Read, path: &Path) -> Result<(), IngestError> {
    let mut file = File::create(path).map_err(IngestError::Staging)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = reader.read(&mut buffer).map_err(from_read)?;
        if length == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..length])
            .map_err(IngestError::Staging)?;
    }
}

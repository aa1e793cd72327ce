//! One file of kept vectors: a head, then frames, each a batch with its checksum. Appended and
//! synced; what a crash left half-written at the end is cut off at the next opening. In memory stand
//! 24 bytes a text: its key, and where its vector lies.

use std::{
    collections::{HashMap, HashSet},
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use lakehouse_actors::ports::TextVector;
use lakehouse_journal::record::Seq;

use super::TextKey;

/// `LHEV`, version 1, then dimensions and the position of the last sweep.
const MAGIC: [u8; 8] = *b"LHEV\x01\0\0\0";
const HEAD_BYTES: usize = 20;
/// Length and checksum before a frame's entries.
const FRAME_HEAD_BYTES: usize = 4 + 32;
/// A frame is never larger.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Entries of a frame when a file is written anew.
const REWRITE_ENTRIES: usize = 4_096;

const VECTOR: u8 = 0;
const REFUSED: u8 = 1;
const FORGOTTEN: u8 = 2;

/// A file of vectors, open.
pub struct VectorFile {
    path: PathBuf,
    /// Nothing until the first batch: an empty file would be a place to look at.
    file: Option<File>,
    dimensions: usize,
    end: u64,
    swept: Seq,
    /// Where each text's entry lies.
    places: HashMap<TextKey, u64>,
    refused: HashMap<TextKey, (String, String)>,
}

/// Through which deletion a file was swept; nothing when it is no file of vectors.
pub fn swept_through(path: &Path) -> Option<Seq> {
    let file = File::open(path).ok()?;
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, 0).ok()?;
    let (magic, rest) = head.split_at(8);
    let (_, swept) = rest.split_at(4);
    (magic == MAGIC).then(|| Some(Seq::from_le_bytes(swept.try_into().ok()?)))?
}

impl VectorFile {
    /// Opens a file, or begins one: by whom has seen every deletion up to `seen`, so that nothing of
    /// those is ever in it.
    ///
    /// # Errors
    /// When it cannot be read, or is of something else.
    pub fn open(path: &Path, dimensions: u32, seen: Seq) -> io::Result<Self> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut opened = Self {
            path: path.to_owned(),
            file,
            dimensions: dimensions as usize,
            end: HEAD_BYTES as u64,
            swept: seen,
            places: HashMap::new(),
            refused: HashMap::new(),
        };
        if let Some(file) = opened.file.take() {
            if file.metadata()?.len() < HEAD_BYTES as u64 {
                opened.begin(&file)?;
            } else {
                opened.read(&file, dimensions)?;
            }
            opened.file = Some(file);
        }
        Ok(opened)
    }

    /// Writes the head of a new file.
    fn begin(&self, file: &File) -> io::Result<()> {
        let dimensions = u32::try_from(self.dimensions).expect("it was one");
        file.set_len(0)?;
        file.write_all_at(&head(dimensions, self.swept), 0)?;
        file.sync_all()
    }

    /// The file, begun at the first use.
    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            if let Some(dir) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.path)?;
            self.begin(&file)?;
            self.file = Some(file);
        }
        self.file
            .as_ref()
            .ok_or_else(|| io::Error::other("a file that was opened is not there"))
    }

    /// The deletions up to here have left nothing in it.
    pub fn swept(&self) -> Seq {
        self.swept
    }

    /// What is known of a text.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, key: &TextKey) -> io::Result<Option<TextVector>> {
        if let Some(refusal) = self.refusal(key) {
            return Ok(Some(refusal));
        }
        let Some(&place) = self.places.get(key) else {
            return Ok(None);
        };
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let mut bytes = vec![0; self.dimensions * size_of::<f32>()];
        file.read_exact_at(&mut bytes, place)?;
        let numbers = bytes.as_chunks().0.iter();
        Ok(Some(TextVector::Vector(
            numbers.map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        )))
    }

    /// That a text was refused, and why.
    pub fn refusal(&self, key: &TextKey) -> Option<TextVector> {
        let (code, reason) = self.refused.get(key)?;
        Some(TextVector::Refused {
            code: code.clone(),
            reason: reason.clone(),
        })
    }

    /// Appends a batch and makes it durable.
    ///
    /// # Errors
    /// When it cannot be written: then nothing of it counts.
    pub fn put(&mut self, batch: &[(TextKey, TextVector)]) -> io::Result<()> {
        let mut body = Vec::new();
        for (key, found) in batch {
            encode(&mut body, key, found);
        }
        let at = self.append(&body)?;
        self.take(&body, at);
        Ok(())
    }

    /// Forgets the refusals, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn forget_refusals(&mut self) -> io::Result<u64> {
        let forgotten = self.refused.len() as u64;
        if forgotten == 0 {
            return Ok(0);
        }
        let mut body = Vec::new();
        for key in self.refused.keys() {
            body.extend_from_slice(key);
            body.push(FORGOTTEN);
        }
        let at = self.append(&body)?;
        self.take(&body, at);
        Ok(forgotten)
    }

    /// Writes the file anew with these texts only, and puts it in the place of the old one.
    ///
    /// # Errors
    /// When it cannot be written; the old one is still there then.
    pub fn keep_only(&mut self, keep: &HashSet<TextKey>, through: Seq) -> io::Result<()> {
        if self.file.is_none() {
            self.swept = self.swept.max(through);
            return Ok(());
        }
        let new = self.path.with_extension("new");
        let dimensions = u32::try_from(self.dimensions).expect("it was one");
        let mut out = BufWriter::new(
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?,
        );
        out.write_all(&head(dimensions, through.max(self.swept)))?;
        let mut stay: Vec<(&TextKey, u64)> = self.places.iter().map(|(k, at)| (k, *at)).collect();
        stay.retain(|(key, _)| keep.contains(*key));
        // In the order of the old file, so that it is read from front to back.
        stay.sort_unstable_by_key(|(_, at)| *at);
        let vectors = stay.into_iter().map(|(key, _)| key);
        let refusals = self.refused.keys().filter(|key| keep.contains(*key));
        let mut body = Vec::new();
        for (count, key) in vectors.chain(refusals).enumerate() {
            if let Some(found) = self.get(key)? {
                encode(&mut body, key, &found);
            }
            if (count + 1).is_multiple_of(REWRITE_ENTRIES) {
                out.write_all(&frame(&body))?;
                body.clear();
            }
        }
        if !body.is_empty() {
            out.write_all(&frame(&body))?;
        }
        out.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        *self = Self::open(&self.path, dimensions, through)?;
        Ok(())
    }

    /// Writes a frame at the end; returns where its entries begin.
    fn append(&mut self, body: &[u8]) -> io::Result<u64> {
        let framed = frame(body);
        let end = self.end;
        let file = self.file()?;
        file.write_all_at(&framed, end)?;
        file.sync_data()?;
        let at = self.end + FRAME_HEAD_BYTES as u64;
        self.end += framed.len() as u64;
        Ok(at)
    }

    fn read(&mut self, file: &File, dimensions: u32) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, file.try_clone()?);
        reader.seek(SeekFrom::Start(0))?;
        let mut found = [0; HEAD_BYTES];
        reader.read_exact(&mut found)?;
        let (fixed, swept) = found.split_at(12);
        if fixed != &head(dimensions, 0)[..12] {
            let text = "not a file of this model's vectors";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.swept = Seq::from_le_bytes(swept.try_into().expect("eight bytes are left"));
        while let Some(body) = next_frame(&mut reader)? {
            let at = self.end + FRAME_HEAD_BYTES as u64;
            self.end = at + body.len() as u64;
            self.take(&body, at);
        }
        // Behind the last whole frame lies what a crash left of the next.
        if file.metadata()?.len() > self.end {
            file.set_len(self.end)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Notes the entries of a frame that begin at `at` in the file.
    fn take(&mut self, body: &[u8], at: u64) {
        let mut rest = body;
        while let Some((key, tail)) = rest.split_first_chunk::<16>() {
            let Some((kind, tail)) = tail.split_first() else {
                return;
            };
            let place = at + (body.len() - tail.len()) as u64;
            let bytes = match *kind {
                VECTOR => {
                    self.refused.remove(key);
                    self.places.insert(*key, place);
                    self.dimensions * size_of::<f32>()
                }
                REFUSED => {
                    let Some((length, text)) = tail.split_first_chunk::<2>() else {
                        return;
                    };
                    let length = usize::from(u16::from_le_bytes(*length));
                    let text = text.get(..length).unwrap_or_default();
                    let text = String::from_utf8_lossy(text).into_owned();
                    let (code, reason) = text.split_once('\n').unwrap_or((text.as_str(), ""));
                    let why = (code.to_owned(), reason.to_owned());
                    self.places.remove(key);
                    self.refused.insert(*key, why);
                    2 + length
                }
                _ => {
                    self.refused.remove(key);
                    0
                }
            };
            rest = tail.get(bytes..).unwrap_or_default();
        }
    }
}

fn head(dimensions: u32, swept: Seq) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&dimensions.to_le_bytes());
    head[12..].copy_from_slice(&swept.to_le_bytes());
    head
}

fn encode(body: &mut Vec<u8>, key: &TextKey, found: &TextVector) {
    body.extend_from_slice(key);
    match found {
        TextVector::Vector(vector) => {
            body.push(VECTOR);
            for number in vector {
                body.extend_from_slice(&number.to_le_bytes());
            }
        }
        TextVector::Refused { code, reason } => {
            body.push(REFUSED);
            let text = format!("{code}\n{reason}");
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            body.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        }
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a batch is far smaller than 4 GiB");
    let mut framed = Vec::with_capacity(FRAME_HEAD_BYTES + body.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(blake3::hash(body).as_bytes());
    framed.extend_from_slice(body);
    framed
}

/// The next whole frame's entries; nothing where there is none.
fn next_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; FRAME_HEAD_BYTES];
    if !filled(reader, &mut head)? {
        return Ok(None);
    }
    let (length, hash) = head.split_at(4);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if length > FRAME_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; length];
    if !filled(reader, &mut body)? || blake3::hash(&body).as_bytes() != hash {
        return Ok(None);
    }
    Ok(Some(body))
}

/// Reads until the buffer is full; false when the file ends before.
fn filled(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

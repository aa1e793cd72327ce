//! Finished row groups go into files, in order; files are hashed while written, and synced.
//! `lanes` hands over row groups from any thread; `super` takes the finished files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use parquet::arrow::arrow_writer::ArrowColumnChunk;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use roaring::RoaringTreemap;

use crate::engines::ingest::error::IngestError;
use crate::engines::ingest::parallel::lock;
use crate::engines::ingest::staging::StagedFile;

/// The encoded columns of a row group.
pub(super) struct FinishedGroup {
    pub(super) chunks: Vec<ArrowColumnChunk>,
    pub(super) sorted: bool,
}

/// Puts finished row groups into files, in order.
pub(super) struct Appender {
    dir: PathBuf,
    descriptor: SchemaDescriptor,
    plain: WriterPropertiesPtr,
    sorted: WriterPropertiesPtr,
    file_bytes: u64,
    abandoned: AtomicBool,
    state: Mutex<AppenderState>,
}

#[derive(Default)]
struct AppenderState {
    next: u64,
    waiting: BTreeMap<u64, FinishedGroup>,
    file: Option<OpenFile>,
    files: Vec<StagedFile>,
}

struct OpenFile {
    path: PathBuf,
    sorted: bool,
    writer: SerializedFileWriter<HashedFile>,
}

impl Appender {
    pub(super) fn new(
        dir: PathBuf,
        descriptor: SchemaDescriptor,
        plain: WriterPropertiesPtr,
        sorted: WriterPropertiesPtr,
        file_bytes: u64,
    ) -> Self {
        Self {
            dir,
            descriptor,
            plain,
            sorted,
            file_bytes,
            abandoned: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Nobody wants the rows any more.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Takes a row group; writes it, and those that wait for it, when its turn has come.
    pub(super) fn append(&self, index: u64, group: FinishedGroup) -> Result<(), IngestError> {
        let mut state = lock(&self.state);
        state.waiting.insert(index, group);
        loop {
            let next = state.next;
            let Some(group) = state.waiting.remove(&next) else {
                return Ok(());
            };
            self.append_next(&mut state, group)?;
            state.next += 1;
        }
    }

    fn append_next(
        &self,
        state: &mut AppenderState,
        group: FinishedGroup,
    ) -> Result<(), IngestError> {
        let other_order = |file: &mut OpenFile| file.sorted != group.sorted;
        if let Some(file) = state.file.take_if(other_order) {
            state.files.push(file.finish()?);
        }
        let file = match &mut state.file {
            Some(file) => file,
            None => state
                .file
                .insert(self.open(state.files.len(), group.sorted)?),
        };
        let mut writer = file.writer.next_row_group().map_err(IngestError::Write)?;
        for chunk in group.chunks {
            chunk
                .append_to_row_group(&mut writer)
                .map_err(IngestError::Write)?;
        }
        writer.close().map_err(IngestError::Write)?;
        let full = |file: &mut OpenFile| file.writer.bytes_written() as u64 >= self.file_bytes;
        if let Some(file) = state.file.take_if(full) {
            state.files.push(file.finish()?);
        }
        Ok(())
    }

    fn open(&self, number: usize, sorted: bool) -> Result<OpenFile, IngestError> {
        let path = self.dir.join(format!("part-{number:05}.parquet"));
        let file = File::create_new(&path).map_err(IngestError::Staging)?;
        let output = HashedFile {
            file,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        };
        let properties = if sorted { &self.sorted } else { &self.plain };
        let root = self.descriptor.root_schema_ptr();
        let writer = SerializedFileWriter::new(output, root, Arc::clone(properties))
            .map_err(IngestError::Write)?;
        Ok(OpenFile {
            path,
            sorted,
            writer,
        })
    }

    /// Ends the last file and gives all of them.
    pub(super) fn finish(&self) -> Result<Vec<StagedFile>, IngestError> {
        let mut state = lock(&self.state);
        if let Some(file) = state.file.take() {
            let staged = file.finish()?;
            state.files.push(staged);
        }
        Ok(std::mem::take(&mut state.files))
    }
}

impl OpenFile {
    fn finish(mut self) -> Result<StagedFile, IngestError> {
        let metadata = self.writer.finish().map_err(IngestError::Write)?;
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default();
        self.writer.flush().map_err(IngestError::Staging)?;
        let output = self.writer.inner();
        output.file.sync_all().map_err(IngestError::Staging)?;
        Ok(StagedFile {
            path: self.path,
            rows,
            bytes: output.bytes,
            blake3: output.hasher.finalize().to_hex().to_string(),
            sorted_by_key: self.sorted,
            superseded: RoaringTreemap::new(),
        })
    }
}

/// A file that hashes what is written to it.
struct HashedFile {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for HashedFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.file.write(data)?;
        self.hasher.update(&data[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

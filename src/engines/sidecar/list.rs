//! The file that a list of deleted rows is: its columns, and a layout that keeps a short one short.
//! `super` fills it and puts it into a bucket; until then it lies in staging and goes when dropped.

use std::{fs::File, io, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use arrow::{
    array::{ArrayRef, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use lakehouse_actors::PortError;
use lakehouse_journal::{model::catalog::TombstoneBatch, record::Micros};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use tempfile::TempPath;

use crate::engines::{
    ingest::IngestError,
    tables::{of_ingest, of_staging},
};

/// A deleted row.
pub(super) struct Entry {
    row_key: String,
    deleted_at: Micros,
    actor: String,
    reason: String,
}

impl Entry {
    /// The row of this key, deleted by this batch.
    pub fn new(row_key: &str, batch: &TombstoneBatch) -> Self {
        let actor = batch.on_behalf_of.as_ref().unwrap_or(&batch.actor.name);
        Self {
            row_key: row_key.to_owned(),
            deleted_at: batch.at,
            actor: actor.clone(),
            reason: batch.reason.clone(),
        }
    }
}

/// A list in the making; there is no file before the first row.
pub(super) struct List {
    staging: PathBuf,
    writer: Option<(ArrowWriter<File>, TempPath)>,
}

impl List {
    /// An empty list, to be made in this directory.
    pub fn new(staging: PathBuf) -> Self {
        Self {
            staging,
            writer: None,
        }
    }

    /// Adds rows.
    pub fn add(&mut self, entries: &[Entry]) -> Result<(), PortError> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.writer.is_none() {
            self.writer = Some(self.start()?);
        }
        let (writer, _) = self.writer.as_mut().expect("started just above");
        let rows = rows(entries).map_err(|error| PortError::internal(error.to_string()))?;
        writer.write(&rows).map_err(of_writer)
    }

    fn start(&self) -> Result<(ArrowWriter<File>, TempPath), PortError> {
        let created = std::fs::create_dir_all(&self.staging).and_then(|()| {
            // Readable by whoever may read the data files: that is what it is for.
            let mode = std::fs::Permissions::from_mode(0o666);
            let mut named = tempfile::Builder::new();
            named
                .prefix("tombstones-")
                .permissions(mode)
                .tempfile_in(&self.staging)
        });
        let (file, path) = created.map_err(|error| of_staging(&error))?.into_parts();
        let options = ArrowWriterOptions::new()
            .with_properties(properties())
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema(), options);
        Ok((writer.map_err(of_writer)?, path))
    }

    /// The finished file, flushed; nothing when no row was added.
    pub fn finish(self) -> Result<Option<TempPath>, PortError> {
        let Some((writer, path)) = self.writer else {
            return Ok(None);
        };
        let file = writer.into_inner().map_err(of_writer)?;
        let flushed: io::Result<()> = file.sync_all();
        flushed.map_err(|error| of_staging(&error))?;
        Ok(Some(path))
    }
}

fn of_writer(error: ParquetError) -> PortError {
    of_ingest(&IngestError::Write(error))
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("row_key", DataType::Utf8, false),
        Field::new("deleted_at", time, false),
        Field::new("actor", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
    ]))
}

fn rows(entries: &[Entry]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |value: fn(&Entry) -> &String| -> ArrayRef {
        Arc::new(
            entries
                .iter()
                .map(|entry| Some(value(entry)))
                .collect::<StringArray>(),
        )
    };
    let times = entries.iter().map(|entry| entry.deleted_at);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let columns = vec![
        text(|entry| &entry.row_key),
        Arc::new(times),
        text(|entry| &entry.actor),
        text(|entry| &entry.reason),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// No dictionaries, statistics or page index: most lists are short, and are read whole. Names and
/// reasons that come again and again are left to the compression.
fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let time = ColumnPath::from("deleted_at");
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_column_encoding(time, Encoding::DELTA_BINARY_PACKED)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_created_by(concat!("lakehouse ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

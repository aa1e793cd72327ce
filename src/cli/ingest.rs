//! `lakehouse ingest`: files as streamed request bodies, with a bar for each; or a database (`database`).
//! A file is never held whole. Several files go into one dataset, one request each.

mod database;

use std::{
    ffi::OsStr,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::{Stream, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{
    Body, Method,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::Value;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use super::{CliError, Connection, client::Client, output};
use database::DatabaseArgs;

/// Bytes read from a file at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks of standard input that wait to be sent.
const CHUNKS_WAITING: usize = 4;

/// What `ingest` takes.
#[derive(Debug, Args)]
pub(super) struct IngestArgs {
    #[command(flatten)]
    connection: Connection,
    /// CSV, NDJSON, JSON, Parquet or Arrow files, plain or with .gz or .zst; `-` is standard input
    #[arg(required_unless_present = "db", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// The dataset that takes them
    #[arg(long, value_name = "NAME")]
    dataset: String,
    /// The column that names a row, or several with commas between them
    #[arg(long, value_name = "COLUMN[,…]")]
    key: Option<String>,
    /// What happens to rows that are there. With create and replace the first file is put so, and
    /// the others are appended
    #[arg(long, value_enum, default_value_t = Mode::Create)]
    mode: Mode,
    /// The format, where the file's name does not tell
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The bucket that takes the data
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Print the answers of the daemon, one a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Make the dataset; an error if it exists
    Create,
    /// Add rows of the same schema
    Append,
    /// Add rows, the newer one of a key wins
    Upsert,
    /// Put these rows in place of all others
    Replace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Csv,
    Ndjson,
    Json,
    Parquet,
    Arrow,
}

/// How a file is described to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    format: Format,
    encoding: Option<&'static str>,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Append => "append",
            Self::Upsert => "upsert",
            Self::Replace => "replace",
        }
    }

    /// The mode of the files after the first.
    fn of_later_files(self) -> Self {
        match self {
            Self::Create | Self::Append | Self::Replace => Self::Append,
            Self::Upsert => Self::Upsert,
        }
    }
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "json" => Some(Self::Json),
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Some(Self::Arrow),
            _ => None,
        }
    }
}

impl Kind {
    /// By `--format`, else by the name's ending, beneath `.gz` or `.zst`.
    fn of(path: &Path, named: Option<Format>) -> Option<Self> {
        let ending = |path: &Path| {
            let extension = path.extension().and_then(OsStr::to_str);
            extension.map(str::to_ascii_lowercase).unwrap_or_default()
        };
        let encoding = match ending(path).as_str() {
            "gz" => Some("gzip"),
            "zst" => Some("zstd"),
            _ => None,
        };
        let inner = if encoding.is_some() {
            path.with_extension("")
        } else {
            path.to_path_buf()
        };
        let format = named.or_else(|| Format::of_extension(&ending(&inner)))?;
        Some(Self { format, encoding })
    }
}

impl IngestArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let kinds = self.kinds()?;
        let client = self.connection.client()?;
        if self.database.db.is_some() {
            return self.database.run(&self, &client).await;
        }
        let mut mode = self.mode;
        for (file, kind) in self.files.iter().zip(kinds) {
            let answer = self.send(&client, file, kind, mode).await?;
            self.print(file, &answer)?;
            mode = self.mode.of_later_files();
        }
        Ok(())
    }

    /// The kind of every file, before the first is sent.
    fn kinds(&self) -> Result<Vec<Kind>, CliError> {
        let kind = |file: &PathBuf| {
            let unknown = || {
                let name = file.display();
                CliError::Usage(format!(
                    "`{name}`: the name tells no format; say it by --format"
                ))
            };
            Kind::of(file, self.format).ok_or_else(unknown)
        };
        self.files.iter().map(kind).collect()
    }

    async fn send(
        &self,
        client: &Client,
        file: &Path,
        kind: Kind,
        mode: Mode,
    ) -> Result<Value, CliError> {
        let mut query = vec![("dataset", self.dataset.as_str()), ("mode", mode.name())];
        if let Some(key) = &self.key {
            query.push(("key", key));
        }
        let (body, length, bar) = open(file).await?;
        let mut request = client
            .request(Method::POST, &["ingest", "file"])
            .query(&query)
            .header(CONTENT_TYPE, kind.format.content_type())
            .body(body);
        if let Some(encoding) = kind.encoding {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        if let Some(bucket) = &self.bucket {
            request = request.header("X-Lakehouse-Bucket", bucket);
        }
        let answer = client.answer(request).await;
        bar.finish_and_clear();
        Ok(answer?)
    }

    fn print(&self, file: &Path, answer: &Value) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{answer}")?;
        } else {
            writeln!(out, "{}", summary(file, answer))?;
        }
        Ok(())
    }
}

/// The file as a request body, its length where it has one, and the bar that shows how far it is.
async fn open(file: &Path) -> Result<(Body, Option<u64>, ProgressBar), CliError> {
    if file == Path::new("-") {
        let bar = ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {bytes_per_sec}"));
        return Ok((body(standard_input(), bar.clone()), None, bar));
    }
    let failed = |e: io::Error| CliError::Failed(format!("`{}`: {e}", file.display()));
    let opened = tokio::fs::File::open(file).await.map_err(failed)?;
    let metadata = opened.metadata().await.map_err(failed)?;
    if metadata.is_dir() {
        return Err(CliError::Failed(format!(
            "`{}` is a directory",
            file.display()
        )));
    }
    let length = metadata.is_file().then_some(metadata.len());
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let bar = ProgressBar::new(metadata.len()).with_style(style(template));
    bar.set_message(output::clean(&file.display().to_string()));
    let chunks = ReaderStream::with_capacity(opened, CHUNK_BYTES);
    Ok((body(chunks, bar.clone()), length, bar))
}

/// Standard input, read on a thread of its own: the process ends although a read may be waiting.
fn standard_input() -> ReceiverStream<io::Result<Bytes>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let chunk = match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Bytes::copy_from_slice(&buffer[..length])),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let is_error = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || is_error {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

fn body(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static, bar: ProgressBar) -> Body {
    Body::wrap_stream(chunks.inspect_ok(move |chunk| bar.inc(chunk.len() as u64)))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of this file's")
}

/// One line about an answer, for people.
fn summary(file: &Path, answer: &Value) -> String {
    let count = |name: &str| output::thousands(answer[name].as_u64().unwrap_or_default());
    let (name, dataset) = (file.display().to_string(), output::cell(&answer["dataset"]));
    if answer["deduplicated"] == true {
        let name = output::clean(&name);
        return format!("{name} → {dataset}: the same content is there already, nothing changed");
    }
    let elapsed = std::time::Duration::from_millis(answer["elapsed_ms"].as_u64().unwrap_or(0));
    format!(
        "{} → {dataset}: {} rows, {} columns, {} in {} (journal {})",
        output::clean(&name),
        count("rows"),
        columns(answer),
        output::bytes(answer["bytes"].as_u64().unwrap_or_default()),
        output::duration(elapsed),
        output::cell(&answer["journal_seq"]),
    )
}

/// How many columns: the answer holds the number, or the columns themselves.
fn columns(answer: &Value) -> u64 {
    let columns = &answer["columns"];
    let listed = columns.as_array().map(|list| list.len() as u64);
    listed.or_else(|| columns.as_u64()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_tells_format_and_compression() {
        let kind = |name: &str| Kind::of(Path::new(name), None);
        let plain = |format| {
            Some(Kind {
                format,
                encoding: None,
            })
        };
        assert_eq!(kind("a/b.csv"), plain(Format::Csv));
        assert_eq!(kind("b.JSONL"), plain(Format::Ndjson));
        assert_eq!(kind("b.parquet"), plain(Format::Parquet));
        let gzip = Kind {
            format: Format::Csv,
            encoding: Some("gzip"),
        };
        assert_eq!(kind("b.csv.gz"), Some(gzip));
        assert_eq!(kind("b.gz"), None);
        assert_eq!(kind("-"), None);
        let told = Kind::of(Path::new("b.dat.zst"), Some(Format::Json));
        assert_eq!(
            told,
            Some(Kind {
                format: Format::Json,
                encoding: Some("zstd")
            })
        );
    }

    #[test]
    fn files_after_the_first_are_added_to_it() {
        assert_eq!(Mode::Create.of_later_files(), Mode::Append);
        assert_eq!(Mode::Replace.of_later_files(), Mode::Append);
        assert_eq!(Mode::Upsert.of_later_files(), Mode::Upsert);
    }

    #[test]
    fn an_answer_is_one_line_for_a_person() {
        let answer = json!({
            "dataset": "d", "rows": 70_000, "columns": 13, "bytes": 2048, "elapsed_ms": 1500,
            "journal_seq": 9,
        });
        let line = summary(Path::new("d.csv"), &answer);
        assert_eq!(
            line,
            "d.csv → d: 70,000 rows, 13 columns, 2.0 KiB in 1.50 s (journal 9)"
        );
        let same = summary(
            Path::new("d.csv"),
            &json!({"dataset": "d", "deduplicated": true}),
        );
        assert!(same.contains("nothing changed"));
    }
}

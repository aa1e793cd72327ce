//! Builds one generation: takes rows in, links them, writes and seals the files.
//! The indexing worker drives it on a blocking thread. It never touches a generation that stands.
//!
//! Rows go straight to disk as they come; the graph is linked at the end, from the mapped vectors,
//! when their number and range are known. Meanwhile the rows are written as Parquet and made durable.
//! In memory stand the graph with its rounded vectors and about 60 bytes a row.

use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use roaring::RoaringBitmap;

use super::super::vectors::at_rest::AtRestWriter;
use super::super::vectors::column::{Column, ColumnWriter};
use super::super::vectors::files::{seal, sync_dir, write_new};
use super::super::vectors::keys::{SeenKeys, key_hash};
use super::super::vectors::{
    BuildOptions, Built, Chunk, FileDigest, HnswConfig, IndexStats, VectorError,
};
use super::graph::{self, Graph, Rounding};
use super::matrix::{Matrix, MatrixWriter, Range};
use super::{
    AT_REST_FILE, FORMAT, GRAPH_FILE, KEYS_FILE, LANDMARKS_FILE, MANIFEST_FILE, Manifest,
    TEXTS_FILE, TWINS_FILE, VECTORS_FILE, landmarks, order, twins,
};

/// Where the files are that are written anew without the rows that were replaced.
const RETAINED: [(&str, &str); 3] = [
    ("rows.keys.live", KEYS_FILE),
    ("rows.texts.live", TEXTS_FILE),
    ("vectors.f32.live", VECTORS_FILE),
];
/// The files of a generation that has rows, and of one that has none without the last three.
const FILES: [&str; 7] = [
    KEYS_FILE,
    TEXTS_FILE,
    VECTORS_FILE,
    AT_REST_FILE,
    TWINS_FILE,
    GRAPH_FILE,
    LANDMARKS_FILE,
];
/// How many of them hold the rows; the others link them.
const OF_ROWS: usize = 4;
/// Rows that are written between two looks at whether the build goes on.
const ROWS_BETWEEN_LOOKS: usize = 1_024;

/// Takes rows and makes a generation of them.
pub struct HnswBuilder {
    dir: PathBuf,
    dimensions: usize,
    config: HnswConfig,
    options: BuildOptions,
    started: Instant,
    rows: RowWriter,
    seen: SeenKeys,
}

impl HnswBuilder {
    /// Starts a generation in `dir`, which must not hold one.
    ///
    /// # Errors
    /// `Config` when a setting is out of range, `Io` when the files cannot be made or are there.
    pub fn new(
        dir: &Path,
        dimensions: usize,
        config: HnswConfig,
        options: BuildOptions,
    ) -> Result<Self, VectorError> {
        config.validate()?;
        if !(1..=65_536).contains(&dimensions) {
            return Err(VectorError::Config {
                reason: format!("{dimensions} dimensions, must be 1 to 65536"),
            });
        }
        fs::create_dir_all(dir).map_err(VectorError::io("."))?;
        let duplicates = options.duplicates;
        let rows = RowWriter::create(dir, &config, RETAINED.map(|(_, name)| name))?;
        Ok(Self {
            dir: dir.to_owned(),
            dimensions,
            config,
            options,
            started: Instant::now(),
            rows,
            seen: SeenKeys::new(duplicates),
        })
    }

    /// Takes rows in, in their order.
    ///
    /// # Errors
    /// What [`Chunk::check`] says, before anything is taken; `DuplicateKey` unless the last is to
    /// win; `TooMany`; `Cancelled`; `Io`. After an error the build cannot go on.
    pub fn add_chunk(&mut self, chunk: Chunk) -> Result<(), VectorError> {
        self.options.check_cancelled()?;
        chunk.check(self.dimensions, self.config.metric)?;
        for (index, (key, vector)) in chunk
            .keys
            .iter()
            .zip(chunk.vectors.chunks_exact(self.dimensions))
            .enumerate()
        {
            let hash = key_hash(key);
            self.seen.note(key, hash)?;
            self.rows.push(
                key,
                hash,
                chunk.texts.map(|texts| texts[index].as_str()),
                vector,
            )?;
        }
        Ok(())
    }

    /// Links the rows, writes the manifest and makes everything durable.
    ///
    /// # Errors
    /// `Cancelled`, `Io` or `Engine`; the directory is then of no use.
    pub fn finish(self) -> Result<Built, VectorError> {
        let Self {
            dir,
            dimensions,
            config,
            options,
            started,
            rows,
            seen,
        } = self;
        let replaced = seen.into_replaced();
        let mut count = rows.hashes.len();
        let mut range = rows.finish()?;
        if !replaced.is_empty() {
            range = retain(&dir, dimensions, &config, count, &replaced)?;
            count -= usize::try_from(replaced.len()).expect("no more rows than were taken");
        }
        let scale = Rounding::scale_for(&config, &range);
        let matrix = Matrix::open(&open(&dir, VECTORS_FILE)?, count, dimensions)?;
        let (of_rows, linked) = std::thread::scope(|scope| {
            let of_rows = scope.spawn(|| seal_rows(&dir, &matrix, &options));
            let linked = link(&dir, &matrix, &config, scale, &options);
            let of_rows = of_rows.join().unwrap_or_else(|panic| resume_unwind(panic));
            Ok::<_, VectorError>((of_rows?, linked?))
        })?;
        let mut files = of_rows;
        for name in file_names(count).skip(OF_ROWS) {
            files.push(seal(&dir, name)?);
        }
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            dimensions,
            config,
            scale,
            vectors: count as u64,
            linked,
            graph_start: graph::START_BYTES,
            build_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            files,
        };
        publish(&dir, manifest)
    }
}

/// The files of a generation of `rows` rows, without its manifest.
pub(super) fn file_names(rows: usize) -> impl Iterator<Item = &'static str> {
    let count = if rows > 0 { FILES.len() } else { OF_ROWS };
    FILES.into_iter().take(count)
}

/// Links the rows of `matrix` and looks for landmarks; gives how many are in the graph.
fn link(
    dir: &Path,
    matrix: &Matrix,
    config: &HnswConfig,
    scale: f32,
    options: &BuildOptions,
) -> Result<u64, VectorError> {
    if matrix.rows() == 0 {
        return Ok(0);
    }
    let mut rows = twins::chain(dir, matrix)?;
    let linked = rows.len() as u64;
    order::by_place(matrix, config.metric, &mut rows, options)?;
    graph::build(dir, matrix, &rows, config, scale, options)?;
    let graph = Graph::open(
        &open(dir, GRAPH_FILE)?,
        graph::START_BYTES,
        linked,
        matrix.dimensions(),
        Rounding::new(config, scale),
        config,
    )?;
    landmarks::find(dir, graph, matrix, config.expansion_search, options)?;
    Ok(linked)
}

/// Writes the rows as Parquet and makes everything durable that holds them.
fn seal_rows(
    dir: &Path,
    matrix: &Matrix,
    options: &BuildOptions,
) -> Result<Vec<FileDigest>, VectorError> {
    let keys = Column::open(KEYS_FILE, &open(dir, KEYS_FILE)?)?;
    let texts = Column::open(TEXTS_FILE, &open(dir, TEXTS_FILE)?)?;
    let mut at_rest = AtRestWriter::create(dir, AT_REST_FILE, matrix.dimensions())?;
    for row in 0..matrix.rows() {
        if row % ROWS_BETWEEN_LOOKS == 0 {
            options.check_cancelled()?;
        }
        let key = keys.get(row as u64).expect("every row was given a key");
        at_rest.push(key, texts.get(row as u64), Some(matrix.row(row)))?;
    }
    at_rest.finish()?;
    let sealed = FILES[..OF_ROWS].iter().map(|name| {
        options.check_cancelled()?;
        seal(dir, name)
    });
    sealed.collect()
}

fn publish(dir: &Path, manifest: Manifest) -> Result<Built, VectorError> {
    let json =
        serde_json::to_vec_pretty(&manifest).expect("a manifest is plain numbers and strings");
    write_new(dir, MANIFEST_FILE, &json)?;
    let digest = seal(dir, MANIFEST_FILE)?;
    sync_dir(dir)?;
    let Manifest {
        vectors,
        build_ms,
        dimensions,
        mut files,
        ..
    } = manifest;
    files.push(digest);
    let bytes = files.iter().map(|file: &FileDigest| file.bytes).sum();
    Ok(Built {
        files,
        stats: IndexStats {
            vectors,
            bytes,
            build_ms,
            dimensions,
        },
    })
}

/// Writes the rows anew without the replaced ones, so that nothing of those stays in a file.
fn retain(
    dir: &Path,
    dimensions: usize,
    config: &HnswConfig,
    count: usize,
    replaced: &RoaringBitmap,
) -> Result<Range, VectorError> {
    let keys = Column::open(KEYS_FILE, &open(dir, KEYS_FILE)?)?;
    let texts = Column::open(TEXTS_FILE, &open(dir, TEXTS_FILE)?)?;
    let matrix = Matrix::open(&open(dir, VECTORS_FILE)?, count, dimensions)?;
    let mut live = RowWriter::create(dir, config, RETAINED.map(|(name, _)| name))?;
    for row in (0..count)
        .filter(|&row| !replaced.contains(u32::try_from(row).expect("below the limit of rows")))
    {
        let key = keys.get(row as u64).expect("every row was given a key");
        live.push(key, key_hash(key), texts.get(row as u64), matrix.row(row))?;
    }
    let range = live.finish()?;
    for (from, to) in RETAINED {
        fs::rename(dir.join(from), dir.join(to)).map_err(VectorError::io(to))?;
    }
    Ok(range)
}

fn open(dir: &Path, name: &str) -> Result<File, VectorError> {
    File::open(dir.join(name)).map_err(VectorError::io(name))
}

/// The files that rows are written to.
struct RowWriter {
    keys: ColumnWriter,
    texts: ColumnWriter,
    vectors: MatrixWriter,
    hashes: Vec<u128>,
}

impl RowWriter {
    fn create(
        dir: &Path,
        config: &HnswConfig,
        [keys, texts, vectors]: [&'static str; 3],
    ) -> Result<Self, VectorError> {
        Ok(Self {
            keys: ColumnWriter::create(dir, keys)?,
            texts: ColumnWriter::create(dir, texts)?,
            vectors: MatrixWriter::create(dir, vectors, config)?,
            hashes: Vec::new(),
        })
    }

    fn push(
        &mut self,
        key: &str,
        hash: u128,
        text: Option<&str>,
        vector: &[f32],
    ) -> Result<(), VectorError> {
        self.hashes.push(hash);
        self.keys.push(Some(key))?;
        self.texts.push(text)?;
        self.vectors.push(vector)
    }

    fn finish(self) -> Result<Range, VectorError> {
        self.keys.finish(Some(&self.hashes))?;
        self.texts.finish(None)?;
        self.vectors.finish()
    }
}

//! Builds one generation: takes rows in, links them, writes and seals the files.
//! The indexing worker drives it on a blocking thread. It never touches a generation that stands.
//!
//! Rows go straight to disk as they come; the graph is linked at the end, from the mapped vectors,
//! when their number and range are known. In memory stand the graph with its rounded vectors and
//! about 40 bytes a row.

use std::fs::{self, File};
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
    TEXTS_FILE, TWINS_FILE, VECTORS_FILE, landmarks, twins,
};

/// Where the files are that are written anew without the rows that were replaced.
const RETAINED: [(&str, &str); 4] = [
    ("rows.keys.live", KEYS_FILE),
    ("rows.texts.live", TEXTS_FILE),
    ("vectors.f32.live", VECTORS_FILE),
    ("vectors.parquet.live", AT_REST_FILE),
];

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
        let rows = RowWriter::create(
            dir,
            &config,
            dimensions,
            [KEYS_FILE, TEXTS_FILE, VECTORS_FILE, AT_REST_FILE],
        )?;
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
        let mut linked = 0;
        if count > 0 {
            let matrix = Matrix::open(&open(&dir, VECTORS_FILE)?, count, dimensions)?;
            let firsts = twins::chain(&dir, &matrix)?;
            linked = firsts.len() as u64;
            graph::build(&dir, &matrix, &firsts, &config, scale, &options)?;
            let graph = Graph::open(
                &open(&dir, GRAPH_FILE)?,
                graph::START_BYTES,
                linked,
                dimensions,
                Rounding::new(&config, scale),
                &config,
            )?;
            let ef = config.expansion_search;
            landmarks::find(&dir, graph, &matrix, ef, &options)?;
        }
        let files = file_names(count)
            .map(|name| seal(&dir, name))
            .collect::<Result<Vec<_>, _>>()?;
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
    [KEYS_FILE, TEXTS_FILE, VECTORS_FILE, AT_REST_FILE]
        .into_iter()
        .chain(
            [TWINS_FILE, GRAPH_FILE, LANDMARKS_FILE]
                .into_iter()
                .filter(move |_| rows > 0),
        )
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
    let mut live = RowWriter::create(dir, config, dimensions, RETAINED.map(|(name, _)| name))?;
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
    at_rest: AtRestWriter,
    hashes: Vec<u128>,
}

impl RowWriter {
    fn create(
        dir: &Path,
        config: &HnswConfig,
        dimensions: usize,
        [keys, texts, vectors, at_rest]: [&'static str; 4],
    ) -> Result<Self, VectorError> {
        Ok(Self {
            keys: ColumnWriter::create(dir, keys)?,
            texts: ColumnWriter::create(dir, texts)?,
            vectors: MatrixWriter::create(dir, vectors, config)?,
            at_rest: AtRestWriter::create(dir, at_rest, dimensions)?,
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
        self.at_rest.push(key, text, Some(vector))?;
        self.vectors.push(vector)
    }

    fn finish(self) -> Result<Range, VectorError> {
        self.keys.finish(Some(&self.hashes))?;
        self.texts.finish(None)?;
        self.at_rest.finish()?;
        self.vectors.finish()
    }
}

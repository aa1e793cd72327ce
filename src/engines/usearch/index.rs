//! A generation that stands: opened only when every file is the one that was built, then read by key
//! and by slot. `search` holds its searches. It is never changed, and shared by any number of threads.

use std::path::Path;
use std::sync::OnceLock;

use super::super::vectors::column::Column;
use super::super::vectors::files::{open_verified, read_all, same_size};
use super::super::vectors::{FileDigest, HnswConfig, IndexStats, VectorError};
use super::builder::file_names;
use super::graph::{Graph, Rounding};
use super::matrix::Matrix;
use super::twins::Twins;
use super::{
    AT_REST_FILE, FORMAT, GRAPH_FILE, KEYS_FILE, LANDMARKS_FILE, MANIFEST_FILE, Manifest,
    TEXTS_FILE, TWINS_FILE, VECTORS_FILE, landmarks,
};

/// One generation of an HNSW index, mapped.
pub struct HnswIndex {
    /// `None` when there are no rows.
    pub(super) graph: Option<(Graph, Twins)>,
    /// The node that stands for each row, made when a scan first needs it.
    pub(super) nodes: OnceLock<Vec<u32>>,
    pub(super) matrix: Matrix,
    keys: Column,
    texts: Column,
    manifest: Manifest,
}

impl HnswIndex {
    /// Opens the generation in `dir` whose files are `expected`, as the build reported them.
    ///
    /// # Errors
    /// `Corrupt` when a file is missing, too much, or not what was built; `Io`; `Engine`.
    pub fn open(dir: &Path, expected: &[FileDigest]) -> Result<Self, VectorError> {
        let manifest = read_manifest(dir, expected)?;
        let rows = usize::try_from(manifest.vectors)
            .map_err(|_| VectorError::corrupt(MANIFEST_FILE, "is too large"))?;
        let mut names: Vec<&str> = file_names(rows).chain([MANIFEST_FILE]).collect();
        for file in expected {
            match names.iter().position(|name| *name == file.name) {
                Some(index) => names.swap_remove(index),
                None => {
                    return Err(VectorError::corrupt(
                        &file.name,
                        "does not belong to the index",
                    ));
                }
            };
        }
        // Generations of before have no rows for other engines, or no landmarks: their manifests do not
        // name them.
        let later = [AT_REST_FILE, LANDMARKS_FILE];
        let listed = |name: &str| manifest.files.iter().any(|file| file.name == name);
        if let Some(name) = names
            .iter()
            .find(|name| listed(name) || !later.contains(name))
        {
            return Err(VectorError::corrupt(name, "has no known content"));
        }
        Self::map(dir, expected, rows, manifest)
    }

    fn map(
        dir: &Path,
        expected: &[FileDigest],
        rows: usize,
        manifest: Manifest,
    ) -> Result<Self, VectorError> {
        let open = |name| open_verified(dir, digest_of(expected, name)?);
        let matrix = Matrix::open(&open(VECTORS_FILE)?, rows, manifest.dimensions)?;
        if let Ok(at_rest) = digest_of(expected, AT_REST_FILE) {
            same_size(dir, at_rest)?;
        }
        let keys = Column::open(KEYS_FILE, &open(KEYS_FILE)?)?;
        let texts = Column::open(TEXTS_FILE, &open(TEXTS_FILE)?)?;
        for (name, column) in [(KEYS_FILE, &keys), (TEXTS_FILE, &texts)] {
            if column.len() != rows {
                return Err(VectorError::corrupt(
                    name,
                    format!("does not hold {rows} rows"),
                ));
            }
        }
        let graph = if rows > 0 {
            let rounding = Rounding::new(&manifest.config, manifest.scale);
            let (linked, dimensions) = (manifest.linked, manifest.dimensions);
            let mut graph = Graph::open(
                &open(GRAPH_FILE)?,
                manifest.graph_start,
                linked,
                dimensions,
                rounding,
                &manifest.config,
            )?;
            if digest_of(expected, LANDMARKS_FILE).is_ok() {
                graph.layers.landmarks =
                    landmarks::read(&open(LANDMARKS_FILE)?, graph.layers.tape.nodes)?;
            }
            Some((graph, Twins::open(&open(TWINS_FILE)?, rows)?))
        } else {
            None
        };
        Ok(Self {
            graph,
            nodes: OnceLock::new(),
            matrix,
            keys,
            texts,
            manifest,
        })
    }

    /// How many rows there are; slots go from 0 to this.
    pub fn len(&self) -> u64 {
        self.manifest.vectors
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.manifest.dimensions
    }

    /// How it was built and is searched.
    pub fn config(&self) -> &HnswConfig {
        &self.manifest.config
    }

    /// Its measures.
    pub fn stats(&self) -> IndexStats {
        let Manifest {
            vectors,
            build_ms,
            dimensions,
            ref files,
            ..
        } = self.manifest;
        IndexStats {
            vectors,
            bytes: files.iter().map(|file| file.bytes).sum(),
            build_ms,
            dimensions,
        }
    }

    /// Bytes in memory once everything that searches touch was touched: graph, keys and what points
    /// to them. The vectors as they came and the texts are read a row at a time and not counted.
    pub fn memory_bytes(&self) -> usize {
        let graph = self
            .graph
            .as_ref()
            .map_or(0, |(graph, twins)| graph.memory_bytes() + twins.bytes());
        let nodes = self
            .nodes
            .get()
            .map_or(0, |nodes| nodes.len() * size_of::<u32>());
        graph + nodes + self.keys.bytes()
    }

    /// Reads a byte of every page that searches touch, so that the first of them finds it in memory.
    pub fn touch(&self) {
        if let Some((graph, _)) = &self.graph {
            graph.touch();
        }
    }

    /// Rows in the graph: the others have the vector of one that is.
    pub(super) fn linked(&self) -> usize {
        usize::try_from(self.manifest.linked).expect("no more than rows, which are in memory")
    }

    /// The key of a slot.
    pub fn key_of(&self, slot: u64) -> Option<&str> {
        self.keys.get(slot)
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> Option<u64> {
        self.keys.find(key)
    }

    /// The text that a slot's vector stands for, if it was given one.
    pub fn text_of(&self, slot: u64) -> Option<&str> {
        self.texts.get(slot)
    }

    /// The vector of a slot, as it came.
    pub fn vector_of(&self, slot: u64) -> Option<&[f32]> {
        let row = usize::try_from(slot)
            .ok()
            .filter(|&row| row < self.matrix.rows())?;
        Some(self.matrix.row(row))
    }
}

fn digest_of<'a>(expected: &'a [FileDigest], name: &str) -> Result<&'a FileDigest, VectorError> {
    let digest = expected.iter().find(|file| file.name == name);
    digest.ok_or_else(|| VectorError::corrupt(name, "has no known content"))
}

fn read_manifest(dir: &Path, expected: &[FileDigest]) -> Result<Manifest, VectorError> {
    let file = open_verified(dir, digest_of(expected, MANIFEST_FILE)?)?;
    let manifest: Manifest = serde_json::from_slice(&read_all(&file, MANIFEST_FILE)?)
        .map_err(|error| VectorError::corrupt(MANIFEST_FILE, format!("is no manifest: {error}")))?;
    if manifest.format == FORMAT {
        Ok(manifest)
    } else {
        Err(VectorError::corrupt(
            MANIFEST_FILE,
            format!("is of format `{}`, not `{FORMAT}`", manifest.format),
        ))
    }
}

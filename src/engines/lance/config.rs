//! Settings of an index on Lance. They stand in definitions, so that a build without Lance knows them too.

use serde::{Deserialize, Serialize};

use super::super::vectors::{Metric, VectorError};

/// What stands beside the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LanceKind {
    /// `IvfHnswSq` from 10,000 rows on, `Flat` below.
    #[default]
    Auto,
    /// Nothing: every search compares all rows.
    Flat,
    /// Partitions of product-quantised vectors: the smallest.
    IvfPq,
    /// Partitions with a graph over vectors of 8 bits a number: the fastest.
    IvfHnswSq,
}

/// How a Lance index is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanceConfig {
    /// What stands beside the rows.
    pub kind: LanceKind,
    /// The distance.
    pub metric: Metric,
    /// Partitions; Lance's choice for the number of rows when `None`.
    pub partitions: Option<usize>,
    /// Links of a node in a partition's graph.
    pub connectivity: usize,
    /// Candidates kept while a node is linked in.
    pub ef_construction: usize,
    /// Parts that a vector is cut into for product quantisation; it must divide the dimensions.
    /// About one for 8 numbers when `None`.
    pub sub_vectors: Option<usize>,
    /// Partitions that a search looks into first.
    pub nprobes: usize,
    /// Candidates kept while a graph is searched, unless the search says otherwise.
    pub ef_search: usize,
    /// Candidates for each hit that are compared in full precision: 3, or 10 for product
    /// quantisation, when `None`.
    pub refine_factor: Option<usize>,
}

impl Default for LanceConfig {
    fn default() -> Self {
        Self {
            kind: LanceKind::Auto,
            metric: Metric::Cosine,
            partitions: None,
            connectivity: 20,
            ef_construction: 150,
            sub_vectors: None,
            nprobes: 20,
            ef_search: 128,
            refine_factor: None,
        }
    }
}

impl LanceConfig {
    /// # Errors
    /// `Config` names the field that is out of range.
    pub fn validate(&self, dimensions: usize) -> Result<(), VectorError> {
        let ranges = [
            ("partitions", self.partitions.unwrap_or(1), 65_536),
            ("connectivity", self.connectivity, 256),
            ("ef_construction", self.ef_construction, 65_536),
            ("sub_vectors", self.sub_vectors.unwrap_or(1), dimensions),
            ("nprobes", self.nprobes, 65_536),
            ("ef_search", self.ef_search, 65_536),
            ("refine_factor", self.refine_factor.unwrap_or(1), 1_000),
        ];
        if let Some((name, value, max)) = ranges
            .into_iter()
            .find(|&(_, value, max)| !(1..=max).contains(&value))
        {
            return Err(VectorError::Config {
                reason: format!("`{name}` is {value}, must be 1 to {max}"),
            });
        }
        if dimensions.is_multiple_of(self.sub_vectors(dimensions)) {
            Ok(())
        } else {
            let reason = format!(
                "`sub_vectors` is {}, must divide {dimensions}",
                self.sub_vectors(dimensions)
            );
            Err(VectorError::Config { reason })
        }
    }

    pub(super) fn sub_vectors(&self, dimensions: usize) -> usize {
        let near = (dimensions / 8).max(1);
        let chosen = || {
            (1..=near)
                .rev()
                .find(|parts| dimensions.is_multiple_of(*parts))
                .unwrap_or(1)
        };
        self.sub_vectors.unwrap_or_else(chosen)
    }
}

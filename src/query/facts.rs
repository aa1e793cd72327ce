//! What a scan has to know of a file before it reads it: its footer, its statistics, and which rows
//! are left. Footers come through the engine's metadata cache, so each is fetched once: files never
//! change. Called by `table` while it plans.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::{Result, Statistics, stats::Precision},
    datasource::physical_plan::parquet::{
        ParquetAccessPlan, RowGroupAccess, metadata::DFParquetMetadata,
    },
    execution::cache::cache_manager::FileMetadataCache,
    parquet::{
        arrow::arrow_reader::{RowSelection, RowSelector},
        file::metadata::{PageIndexPolicy, ParquetMetaData, RowGroupMetaData},
    },
};
use lakehouse_journal::model::catalog::{DataFile, DeletionVector};
use object_store::{ObjectMeta, ObjectStore, path::Path};
use parking_lot::Mutex;

use super::{
    sift::{GroupRows, group_rows},
    store::lake_path,
    visible::Counted,
};

/// Statistics kept for files, at most twice as many.
const STATISTICS_KEPT: usize = 8_192;
/// Bytes read at the end of a file in the hope that the footer is in them.
pub(super) const FOOTER_HINT_BYTES: usize = 64 * 1024;

/// Parts of access plans kept, 16 bytes each.
const SELECTORS_KEPT: usize = 2 << 20;

/// What was found out before: of files their statistics in two generations, the older of which goes
/// when the younger is full, and the access plans of those with deleted rows; of views what they show.
#[derive(Debug, Default)]
pub struct FactsCache {
    kept: Mutex<[HashMap<String, Arc<Statistics>>; 2]>,
    plans: Mutex<Plans>,
    pub(super) counted: Counted,
}

/// Which rows of a file are read.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// The plan that leaves out the deleted rows; `None` when there are none.
    pub plan: Option<Arc<ParquetAccessPlan>>,
    /// The file's row groups.
    pub groups: Arc<[GroupRows]>,
}

/// Access plans by file. A plan belongs to one state of the file's deletions, which is one `DataFile`
/// in memory: a file with more rows deleted is another one.
#[derive(Debug, Default)]
struct Plans {
    by_file: HashMap<String, (Weak<DataFile>, Access)>,
    selectors: usize,
}

impl Plans {
    fn get(&self, file: &Arc<DataFile>) -> Option<Access> {
        let (of, access) = self.by_file.get(&file.entry.key)?;
        let same = std::ptr::eq(of.as_ptr(), Arc::as_ptr(file));
        same.then(|| access.clone())
    }

    fn put(&mut self, file: &Arc<DataFile>, access: &Access) {
        let parts = usize::try_from(file.deleted.len()).unwrap_or(usize::MAX);
        if self.selectors.saturating_add(parts) > SELECTORS_KEPT {
            *self = Self::default();
        }
        self.selectors = self.selectors.saturating_add(parts);
        let entry = (Arc::downgrade(file), access.clone());
        self.by_file.insert(file.entry.key.clone(), entry);
    }
}

impl FactsCache {
    fn get(&self, name: &str) -> Option<Arc<Statistics>> {
        let mut kept = self.kept.lock();
        if let Some(found) = kept[0].get(name) {
            return Some(Arc::clone(found));
        }
        let found = kept[1].remove(name)?;
        kept[0].insert(name.to_owned(), Arc::clone(&found));
        Some(found)
    }

    fn put(&self, name: String, statistics: Arc<Statistics>) {
        let mut kept = self.kept.lock();
        if kept[0].len() >= STATISTICS_KEPT {
            kept.swap(0, 1);
            kept[0].clear();
        }
        kept[0].insert(name, statistics);
    }

    /// Lets go of what a file's footer said.
    pub fn forget(&self, file: &Path) {
        let start = format!("{file}#");
        for kept in self.kept.lock().iter_mut() {
            kept.retain(|name, _| !name.starts_with(&start));
        }
        self.counted.forget();
        let bucket_key = file.as_ref();
        let mut plans = self.plans.lock();
        plans
            .by_file
            .retain(|key, _| !bucket_key.ends_with(key.as_str()));
    }

    /// Whether anything is kept of what a file's footer said.
    #[cfg(test)]
    pub fn knows(&self, file: &Path) -> bool {
        let start = format!("{file}#");
        let kept = self.kept.lock();
        kept.iter()
            .flat_map(HashMap::keys)
            .any(|name| name.starts_with(&start))
    }
}

/// The engine's picture of a dataset's file. Its times are fixed: the file never changes.
pub(super) fn object_meta(file: &DataFile) -> ObjectMeta {
    ObjectMeta {
        location: lake_path(&file.entry.bucket, &file.entry.key),
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: file.entry.bytes,
        e_tag: None,
        version: None,
    }
}

/// Reads footers and what follows from them.
pub(super) struct Facts<'a> {
    pub store: &'a dyn ObjectStore,
    pub footers: Arc<dyn FileMetadataCache>,
    pub cache: &'a FactsCache,
    pub schema: &'a SchemaRef,
    /// Names the schema in the cache.
    pub fingerprint: &'a str,
}

impl Facts<'_> {
    /// The footer of a file, from the cache where it is there.
    pub async fn footer(&self, meta: &ObjectMeta) -> Result<Arc<ParquetMetaData>> {
        DFParquetMetadata::new(self.store, meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
            .with_metadata_size_hint(Some(FOOTER_HINT_BYTES))
            .with_page_index_policy(Some(PageIndexPolicy::Optional))
            .fetch_metadata()
            .await
    }

    /// The statistics of a file's visible rows: the count exact; bounds and null counts exact while
    /// nothing is deleted, and only bounds of what is left otherwise.
    pub async fn statistics(&self, file: &DataFile, meta: &ObjectMeta) -> Result<Arc<Statistics>> {
        let name = format!("{}#{}", meta.location, self.fingerprint);
        let whole = if let Some(found) = self.cache.get(&name) {
            found
        } else {
            let footer = self.footer(meta).await?;
            let read = DFParquetMetadata::statistics_from_parquet_metadata(&footer, self.schema)?;
            let read = Arc::new(read);
            self.cache.put(name, Arc::clone(&read));
            read
        };
        if file.deleted.is_empty() {
            return Ok(whole);
        }
        let rows = usize::try_from(file.live_rows()).unwrap_or(usize::MAX);
        let mut rest = Statistics::clone(&whole).to_inexact();
        rest.num_rows = Precision::Exact(rows);
        Ok(Arc::new(rest))
    }

    /// Which rows of a file are read.
    pub async fn access(&self, file: &Arc<DataFile>, meta: &ObjectMeta) -> Result<Access> {
        if file.deleted.is_empty() {
            let groups = group_rows(&*self.footer(meta).await?, None);
            return Ok(Access { plan: None, groups });
        }
        if let Some(known) = self.cache.plans.lock().get(file) {
            return Ok(known);
        }
        let footer = self.footer(meta).await?;
        let groups = footer.row_groups().iter().map(RowGroupMetaData::num_rows);
        let plan = Arc::new(access_plan(&file.deleted, groups));
        let access = Access {
            groups: group_rows(&footer, Some(&plan)),
            plan: Some(plan),
        };
        self.cache.plans.lock().put(file, &access);
        Ok(access)
    }
}

/// The access plan that leaves out the deleted positions. `groups` are the rows of each row group.
pub fn access_plan(
    deleted: &DeletionVector,
    groups: impl Iterator<Item = i64>,
) -> ParquetAccessPlan {
    let mut start = 0_u64;
    let accesses = groups
        .map(|rows| {
            let end = start + rows.unsigned_abs();
            let access = group_access(deleted, start, end);
            start = end;
            access
        })
        .collect();
    ParquetAccessPlan::new(accesses)
}

/// Access to the rows `start..end` of a file, which are one row group.
fn group_access(deleted: &DeletionVector, start: u64, end: u64) -> RowGroupAccess {
    let position = |at: u64| u32::try_from(at).unwrap_or(u32::MAX);
    let mut selectors = Vec::new();
    let mut at = start;
    for gone in deleted.bitmap().range(position(start)..position(end)) {
        let gone = u64::from(gone);
        if gone > at {
            push(&mut selectors, gone - at, false);
        }
        push(&mut selectors, 1, true);
        at = gone + 1;
    }
    if selectors.is_empty() {
        return RowGroupAccess::Scan;
    }
    if at < end {
        push(&mut selectors, end - at, false);
    }
    if selectors.iter().all(|selector| selector.skip) {
        return RowGroupAccess::Skip;
    }
    RowGroupAccess::Selection(RowSelection::from(selectors))
}

fn push(selectors: &mut Vec<RowSelector>, rows: u64, skip: bool) {
    let rows = usize::try_from(rows).expect("a row group has fewer rows than addresses");
    match selectors.last_mut() {
        Some(last) if last.skip == skip => last.row_count += rows,
        _ => selectors.push(RowSelector {
            row_count: rows,
            skip,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_plan_names_every_row_once_and_skips_the_deleted_ones() {
        let deleted: DeletionVector = [0, 1, 5, 10, 11, 12, 13, 14, 29].into_iter().collect();
        let plan = access_plan(&deleted, [10, 5, 10, 5].into_iter());
        let sign = |skip| if skip { '-' } else { '+' };
        let shown: Vec<String> = plan
            .inner()
            .iter()
            .map(|access| match access {
                RowGroupAccess::Skip => "skip".to_owned(),
                RowGroupAccess::Scan => "scan".to_owned(),
                RowGroupAccess::Selection(selection) => {
                    let parts = selection.iter();
                    let parts = parts.map(|part| format!("{}{}", sign(part.skip), part.row_count));
                    parts.collect::<Vec<_>>().concat()
                }
            })
            .collect();
        assert_eq!(shown, ["-2+3-1+4", "skip", "scan", "+4-1"]);
    }
}

//! The baseline: `DataFusion` as its documentation has it, a `SessionContext` over Parquet files, with
//! the settings of the daemon's engine and threads of its own. `bench sql` and `bench deletes` ask it;
//! it reads the files of the daemon and knows nothing of the lakehouse.

use std::path::{Path, PathBuf};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::UInt64Type,
};
use datafusion::{
    common::Result as PlainResult,
    config::TableParquetOptions,
    dataframe::DataFrameWriteOptions,
    execution::{
        cache::cache_manager::CacheManagerConfig,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{ParquetReadOptions, SessionConfig, SessionContext},
};
use tokio::runtime::{Builder, Runtime};

use super::BenchError;
use crate::query::QueryConfig;

/// A session and its threads.
pub(super) struct Plain {
    context: SessionContext,
    threads: Runtime,
}

impl Plain {
    /// A session that spills to `spill_dir`.
    pub(super) fn new(spill_dir: &Path) -> Result<Self, BenchError> {
        let settings = QueryConfig::new(spill_dir);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut config = SessionConfig::new()
            .with_target_partitions(cores)
            .with_collect_statistics(true);
        let options = config.options_mut();
        options.execution.parquet.pushdown_filters = settings.pushdown_filters;
        options.execution.parquet.reorder_filters = settings.pushdown_filters;
        options.optimizer.repartition_file_min_size = settings.repartition_bytes_min;
        let spill = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![spill_dir.to_owned()]))
            .with_max_temp_directory_size(settings.spill_bytes_max);
        let caches =
            CacheManagerConfig::default().with_metadata_cache_limit(settings.footer_cache_bytes);
        let env = RuntimeEnvBuilder::new()
            .with_memory_pool(std::sync::Arc::new(FairSpillPool::new(
                settings.memory_limit_bytes,
            )))
            .with_disk_manager_builder(spill)
            .with_cache_manager(caches)
            .build_arc()?;
        Ok(Self {
            context: SessionContext::new_with_config_rt(config, env),
            threads: Builder::new_multi_thread()
                .worker_threads(cores.max(2))
                .thread_name("plain")
                .enable_all()
                .build()?,
        })
    }

    /// Makes a table of Parquet files, which are all that their folder holds.
    pub(super) async fn register(&self, table: &str, files: &[PathBuf]) -> Result<(), BenchError> {
        let folder = files.first().and_then(|file| file.parent());
        let folder = folder.ok_or_else(|| BenchError::wrong(table, "it has no files"))?;
        let there = std::fs::read_dir(folder).map_err(|error| BenchError::file(folder, error))?;
        if there.count() != files.len() {
            return Err(BenchError::wrong(
                table,
                "its folder holds other files, too",
            ));
        }
        let options = ParquetReadOptions::default();
        let place = folder.to_string_lossy();
        self.context.register_parquet(table, place, options).await?;
        Ok(())
    }

    /// Runs a query on the session's threads and collects its rows.
    pub(super) fn answer(&self, sql: &str) -> Result<Vec<RecordBatch>, BenchError> {
        let (context, sql) = (self.context.clone(), sql.to_owned());
        self.on_threads(async move { collected(&context, &sql).await })
    }

    /// Reads a table and writes it to a folder as Parquet, compressed as told (`zstd(1)`), otherwise
    /// with the default settings; flushes nothing to the disk. Returns the rows written.
    pub(super) fn rewrite(
        &self,
        table: &str,
        folder: &Path,
        compression: &str,
    ) -> Result<u64, BenchError> {
        let context = self.context.clone();
        let (table, compression) = (table.to_owned(), compression.to_owned());
        // The slash makes it a folder with a file for each partition.
        let folder = format!("{}/", folder.to_string_lossy());
        let batches = self.on_threads(async move {
            let mut parquet = TableParquetOptions::default();
            parquet.global.compression = Some(compression);
            let table = context.table(&table).await?;
            let options = DataFrameWriteOptions::new();
            table.write_parquet(&folder, options, Some(parquet)).await
        })?;
        // The only cell of each answer says how many rows there were.
        let counts = batches.iter().filter_map(|batch| {
            let counts = batch.column(0).as_primitive_opt::<UInt64Type>()?;
            Some(counts.values().iter().sum::<u64>())
        });
        Ok(counts.sum())
    }

    fn on_threads(
        &self,
        work: impl Future<Output = PlainResult<Vec<RecordBatch>>> + Send + 'static,
    ) -> Result<Vec<RecordBatch>, BenchError> {
        let rows = self.threads.spawn(work);
        match self.threads.block_on(rows) {
            Ok(rows) => Ok(rows?),
            Err(error) => Err(BenchError::wrong("plain DataFusion", error.to_string())),
        }
    }
}

async fn collected(context: &SessionContext, sql: &str) -> PlainResult<Vec<RecordBatch>> {
    context.sql(sql).await?.collect().await
}

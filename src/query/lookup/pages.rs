//! Which pages of a file can hold a key: by the bounds of row groups in the footer, and of pages in
//! the page index where there is one. Pure.

use std::ops::Range;

use datafusion::{
    common::{DataFusionError, Result},
    parquet::{
        arrow::{
            arrow_reader::{RowSelection, statistics::StatisticsConverter},
            parquet_to_arrow_schema,
        },
        file::{metadata::ParquetMetaData, page_index::offset_index::OffsetIndexMetaData},
    },
};

use super::keys::KeySet;

/// The rows of a file that are worth reading.
pub(super) struct Candidates {
    /// Row groups to read, ascending.
    pub groups: Vec<usize>,
    /// The rows to read of those groups.
    pub selection: RowSelection,
    /// The same rows as positions in the file.
    rows: Vec<Range<u64>>,
}

impl Candidates {
    /// Finds them by the bounds of `column`.
    pub fn of(footer: &ParquetMetaData, column: &str, keys: &KeySet) -> Result<Self> {
        let descriptor = footer.file_metadata().schema_descr();
        let schema =
            parquet_to_arrow_schema(descriptor, footer.file_metadata().key_value_metadata())?;
        let bounds = StatisticsConverter::try_new(column, &schema, descriptor)?;
        let mins = bounds.row_group_mins(footer.row_groups())?;
        let maxes = bounds.row_group_maxes(footer.row_groups())?;
        let possible = keys.between(&mins, &maxes).map_err(external)?;
        let leaf = bounds.parquet_column_index();
        let mut found = Self {
            groups: Vec::new(),
            selection: RowSelection::default(),
            rows: Vec::new(),
        };
        let mut kept: Vec<Range<usize>> = Vec::new();
        let mut start = 0_u64;
        let mut read = 0_usize;
        for (index, group) in footer.row_groups().iter().enumerate() {
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            if possible[index] {
                let pages = pages(footer, &bounds, leaf, index, rows, keys)?;
                if !pages.is_empty() {
                    found.groups.push(index);
                    for page in pages {
                        found
                            .rows
                            .push(start + page.start as u64..start + page.end as u64);
                        kept.push(read + page.start..read + page.end);
                    }
                    read += rows;
                }
            }
            start += rows as u64;
        }
        found.selection = RowSelection::from_consecutive_ranges(kept.into_iter(), read);
        Ok(found)
    }

    /// The position in the file of each row that is read, in order.
    pub fn positions(&self) -> impl Iterator<Item = u32> + use<> {
        self.rows
            .clone()
            .into_iter()
            .flatten()
            .map(|row| u32::try_from(row).unwrap_or(u32::MAX))
    }
}

/// The rows of a row group, from its first, whose pages can hold a key.
fn pages(
    footer: &ParquetMetaData,
    bounds: &StatisticsConverter<'_>,
    leaf: Option<usize>,
    group: usize,
    rows: usize,
    keys: &KeySet,
) -> Result<Vec<Range<usize>>> {
    let whole = || std::iter::once(0..rows).collect();
    let (Some(columns), Some(offsets), Some(leaf)) =
        (footer.column_index(), footer.offset_index(), leaf)
    else {
        return Ok(whole());
    };
    let mins = bounds.data_page_mins(columns, offsets, [&group])?;
    let maxes = bounds.data_page_maxes(columns, offsets, [&group])?;
    let possible = keys.between(&mins, &maxes).map_err(external)?;
    let Some(locations) = offsets
        .get(group)
        .and_then(|group| group.get(leaf))
        .map(OffsetIndexMetaData::page_locations)
        .filter(|locations| locations.len() == possible.len())
    else {
        return Ok(whole());
    };
    let first = |page: usize| {
        locations.get(page).map_or(rows, |location| {
            usize::try_from(location.first_row_index).unwrap_or_default()
        })
    };
    let mut kept: Vec<Range<usize>> = Vec::new();
    for (page, possible) in possible.into_iter().enumerate() {
        if !possible {
            continue;
        }
        let next = first(page)..first(page + 1);
        match kept.last_mut() {
            Some(last) if last.end == next.start => last.end = next.end,
            _ => kept.push(next),
        }
    }
    Ok(kept)
}

fn external(error: crate::query::QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

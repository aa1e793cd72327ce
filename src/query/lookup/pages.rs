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
    /// Finds them by the bounds of the key's columns.
    pub fn of(footer: &ParquetMetaData, columns: &[String], keys: &KeySet) -> Result<Self> {
        let mut rows: Option<Vec<Range<u64>>> = None;
        for (nth, column) in columns.iter().enumerate() {
            let possible = rows_of(footer, column, nth, keys)?;
            rows = Some(match rows {
                None => possible,
                Some(before) => in_both(&before, &possible),
            });
        }
        Ok(Self::of_rows(footer, rows.unwrap_or_default()))
    }

    /// To read these rows of a file.
    fn of_rows(footer: &ParquetMetaData, rows: Vec<Range<u64>>) -> Self {
        let mut groups = Vec::new();
        let mut kept: Vec<Range<usize>> = Vec::new();
        let (mut start, mut read) = (0_u64, 0_usize);
        let offset = |from: u64, to: u64| usize::try_from(to - from).unwrap_or_default();
        for (index, group) in footer.row_groups().iter().enumerate() {
            let length = u64::try_from(group.num_rows()).unwrap_or_default();
            let group = start..start + length;
            let first = rows.partition_point(|range| range.end <= group.start);
            let here = rows[first..]
                .iter()
                .take_while(|range| range.start < group.end);
            let before = kept.len();
            kept.extend(here.map(|range| {
                let from = offset(start, range.start.max(group.start));
                read + from..read + offset(start, range.end.min(group.end))
            }));
            if kept.len() > before {
                groups.push(index);
                read += offset(0, length);
            }
            start += length;
        }
        Self {
            groups,
            selection: RowSelection::from_consecutive_ranges(kept.into_iter(), read),
            rows,
        }
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

/// The rows of a file that can hold a key, by the bounds of the key's column `nth`.
fn rows_of(
    footer: &ParquetMetaData,
    column: &str,
    nth: usize,
    keys: &KeySet,
) -> Result<Vec<Range<u64>>> {
    let descriptor = footer.file_metadata().schema_descr();
    let schema = parquet_to_arrow_schema(descriptor, footer.file_metadata().key_value_metadata())?;
    let bounds = StatisticsConverter::try_new(column, &schema, descriptor)?;
    let mins = bounds.row_group_mins(footer.row_groups())?;
    let maxes = bounds.row_group_maxes(footer.row_groups())?;
    let possible = keys.between(nth, &mins, &maxes).map_err(external)?;
    let leaf = bounds.parquet_column_index();
    let mut found = Vec::new();
    let mut start = 0_u64;
    for (index, group) in footer.row_groups().iter().enumerate() {
        let rows = usize::try_from(group.num_rows()).unwrap_or_default();
        if possible[index] {
            let pages = pages(footer, &bounds, (leaf, nth), index, rows, keys)?;
            let in_file = |page: Range<usize>| start + page.start as u64..start + page.end as u64;
            found.extend(pages.into_iter().map(in_file));
        }
        start += rows as u64;
    }
    Ok(found)
}

/// The rows that are in both of two lists of ranges, each ascending and without overlap.
fn in_both(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut both = Vec::new();
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let shared = a.start.max(b.start)..a.end.min(b.end);
        if !shared.is_empty() {
            both.push(shared);
        }
        if a.end <= b.end {
            one.next();
        } else {
            other.next();
        }
    }
    both
}

/// The rows of a row group, from its first, whose pages can hold a key.
fn pages(
    footer: &ParquetMetaData,
    bounds: &StatisticsConverter<'_>,
    (leaf, nth): (Option<usize>, usize),
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
    let possible = keys.between(nth, &mins, &maxes).map_err(external)?;
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

#[cfg(test)]
mod tests {
    use super::in_both;

    #[test]
    fn rows_in_both_are_those_of_each() {
        let one = [0..10, 20..30, 40..41];
        let other = [5..22, 25..26, 29..50];
        assert_eq!(
            in_both(&one, &other),
            [5..10, 20..22, 25..26, 29..30, 40..41]
        );
        assert_eq!(in_both(&one, &[]), []);
    }
}

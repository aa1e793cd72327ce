//! The table that rows are deleted of: weekly timesheets under an integer key, the same every time.
//! Pure; the runner ingests the batches and checks answers against `totals`. A row follows from its
//! key alone, so what is left after a deletion can be worked out without the daemon.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray,
        TimestampMillisecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::index};

use super::super::tpch::{BATCH_ROWS, Batches};

/// The key column.
pub(in crate::bench) const KEY: &str = "id";
/// Digits of the decimals, and of them behind the point.
const HOURS: (u8, i8) = (6, 2);
const AMOUNT: (u8, i8) = (12, 2);
const MONDAY: i32 = 18_631;
const DAY_MS: i64 = 86_400_000;
const BRANCHES: [&str; 24] = [
    "Akron", "Austin", "Boise", "Boston", "Chicago", "Dallas", "Denver", "Detroit", "Fresno",
    "Houston", "Lincoln", "Memphis", "Miami", "Mobile", "Newark", "Omaha", "Phoenix", "Reno",
    "Salem", "Seattle", "Tampa", "Tucson", "Tulsa", "Wichita",
];

/// One timesheet.
pub(super) struct Row {
    placement: i64,
    week: i32,
    /// Hundredths of an hour.
    hours: u32,
    /// Cents.
    amount: u32,
    status: &'static str,
    /// The branch that it is booked on.
    pub branch: &'static str,
    approved_ms: Option<i64>,
}

/// Of one branch: rows, cents, hundredths of hours.
pub(super) type Totals = BTreeMap<&'static str, [u64; 3]>;

/// The row of a key, from 1.
pub(super) fn row(key: u64) -> Row {
    let mut number = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u32| {
        // The finaliser of `SplitMix64` (Steele, Lea, Flood), the upper half of it.
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        let drawn = ((number >> 32) * u64::from(bound)) >> 32;
        u32::try_from(drawn).expect("it is below a bound of 32 bits")
    };
    let hours = if below(10) < 6 {
        4_000
    } else {
        2_000 + 25 * below(120)
    };
    let rate = 25 + below(60);
    let week = i32::try_from(below(260)).expect("below 260");
    let status = match below(20) {
        0 => "pending",
        1 => "disputed",
        _ => "approved",
    };
    let approved = i64::from(MONDAY + 7 * week + 7) * DAY_MS + i64::from(below(30_000_000));
    Row {
        placement: i64::try_from(key / 26).expect("keys are row numbers"),
        week: MONDAY + 7 * week,
        hours,
        amount: hours * rate,
        status,
        branch: BRANCHES[below(24) as usize],
        approved_ms: (status == "approved").then_some(approved),
    }
}

/// The columns.
pub(in crate::bench) fn schema() -> SchemaRef {
    let field = |name: &str, kind| Field::new(name, kind, false);
    let approved = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        field(KEY, DataType::Int64),
        field("placement_id", DataType::Int64),
        field("week_start", DataType::Date32),
        field("hours", DataType::Decimal128(HOURS.0, HOURS.1)),
        field("amount", DataType::Decimal128(AMOUNT.0, AMOUNT.1)),
        field("status", DataType::Utf8),
        field("branch", DataType::Utf8),
        Field::new("approved_at", approved, true),
    ]))
}

/// The rows of the keys 1 to `rows`, in their order.
pub(in crate::bench) fn batches(rows: u64) -> Batches {
    let starts = (1..=rows).step_by(BATCH_ROWS);
    Box::new(starts.map(move |start| batch(start, rows.min(start + BATCH_ROWS as u64 - 1))))
}

fn batch(first: u64, last: u64) -> RecordBatch {
    let rows: Vec<Row> = (first..=last).map(row).collect();
    let rows = rows.as_slice();
    let decimal = |values: Decimal128Array, (precision, scale)| -> ArrayRef {
        let values = values.with_precision_and_scale(precision, scale);
        Arc::new(values.expect("the numbers have fewer digits"))
    };
    let hours = rows.iter().map(|row| i128::from(row.hours)).collect();
    let amounts = rows.iter().map(|row| i128::from(row.amount)).collect();
    let keys = (first..=last).map(|key| i64::try_from(key).expect("keys are row numbers"));
    let text = |of: fn(&Row) -> &'static str| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(of(row)))
                .collect::<StringArray>(),
        )
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys.collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.placement).collect::<Int64Array>()),
        Arc::new(
            rows.iter()
                .map(|row| Some(row.week))
                .collect::<Date32Array>(),
        ),
        decimal(hours, HOURS),
        decimal(amounts, AMOUNT),
        text(|row| row.status),
        text(|row| row.branch),
        Arc::new(
            rows.iter()
                .map(|row| row.approved_ms)
                .collect::<TimestampMillisecondArray>(),
        ),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema")
}

/// `count` different keys of 1 to `rows`, in no order.
pub(super) fn random_keys(rows: u64, count: u64, seed: u64) -> Vec<u64> {
    let size = |number: u64| usize::try_from(number).expect("rows are counted in memory");
    let mut random = StdRng::seed_from_u64(seed);
    let drawn = index::sample(&mut random, size(rows), size(count));
    drawn.into_iter().map(|index| index as u64 + 1).collect()
}

/// What the aggregate has to say of the keys 1 to `rows` without those that are gone.
pub(super) fn totals(rows: u64, gone: &[u64]) -> Totals {
    let gone: HashSet<u64> = gone.iter().copied().collect();
    let mut totals = Totals::new();
    for row in (1..=rows).filter(|key| !gone.contains(key)).map(row) {
        let sums = totals.entry(row.branch).or_default();
        sums[0] += 1;
        sums[1] += u64::from(row.amount);
        sums[2] += u64::from(row.hours);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_same_every_time_and_has_every_key_once() {
        let rows = 2 * BATCH_ROWS as u64 + 7;
        let keys: Vec<i64> = batches(rows)
            .flat_map(|batch| {
                let keys = batch.column(0).as_any().downcast_ref::<Int64Array>();
                keys.expect("the key is an integer").values().to_vec()
            })
            .collect();
        let expected: Vec<i64> = (1..).take(keys.len()).collect();
        assert_eq!((keys.len() as u64, &keys), (rows, &expected));
        assert_eq!(batches(9).next(), batches(9).next());
    }

    #[test]
    fn random_keys_are_different_ones_of_the_table() {
        let keys = random_keys(1_000, 1_000, 7);
        let distinct: HashSet<u64> = keys.iter().copied().collect();
        assert_eq!(distinct, (1..=1_000).collect());
        assert_ne!(random_keys(1_000, 10, 7), random_keys(1_000, 10, 8));
    }

    #[test]
    fn totals_leave_out_the_rows_that_are_gone() {
        let (all, rest) = (totals(500, &[]), totals(500, &[3]));
        let gone = row(3);
        assert_eq!(all.values().map(|sums| sums[0]).sum::<u64>(), 500);
        assert_eq!(all[gone.branch][0] - rest[gone.branch][0], 1);
        let hours = all[gone.branch][2] - rest[gone.branch][2];
        assert_eq!(hours, u64::from(gone.hours));
    }
}

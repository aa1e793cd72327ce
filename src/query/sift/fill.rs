//! Rows taken out of a batch where the order of the others is free: each gap is filled with a row
//! from the end, so that what is written is as much as what is deleted, not as what is left. `sift`
//! calls it for scans whose rows are in no order.

use arrow::{
    array::{ArrayData, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, make_array},
    buffer::{BooleanBuffer, Buffer, NullBuffer},
    compute::take,
    datatypes::DataType,
    error::ArrowError,
};

/// Width of a view of a text or of bytes.
const VIEW_BYTES: usize = 16;

/// Which rows go where.
struct Moves {
    /// (gap, row that fills it), the gaps ascending.
    pairs: Vec<(usize, usize)>,
    /// Rows that are left.
    kept: usize,
}

impl Moves {
    /// `gone` are rows of a batch of `rows`, ascending.
    fn new(rows: usize, gone: &[usize]) -> Self {
        let kept = rows - gone.len();
        let (gaps, behind) = gone.split_at(gone.partition_point(|row| *row < kept));
        let mut behind = behind.iter().copied().peekable();
        let fillers = (kept..rows).filter(|row| behind.next_if_eq(row).is_none());
        Self {
            pairs: gaps.iter().copied().zip(fillers).collect(),
            kept,
        }
    }

    fn indices(&self) -> UInt32Array {
        let index = |row: usize| u32::try_from(row).expect("a batch has few rows");
        let mut indices: Vec<u32> = (0..index(self.kept)).collect();
        for (gap, filler) in &self.pairs {
            indices[*gap] = index(*filler);
        }
        indices.into()
    }
}

/// The batch without the rows `gone`, which are ascending; the others come in any order.
///
/// # Errors
/// What `arrow` says of an array that is not what its type is.
pub(super) fn without(batch: RecordBatch, gone: &[usize]) -> Result<RecordBatch, ArrowError> {
    let moves = Moves::new(batch.num_rows(), gone);
    let (schema, columns, _) = batch.into_parts();
    let columns = columns
        .into_iter()
        .map(|column| match fixed_width(column.data_type()) {
            Some(width) => filled(column, width, &moves),
            None => take(&column, &moves.indices(), None),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(moves.kept));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

/// Bytes of a value in the first buffer of an array that has all of a row there, or a view of it.
fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => Some(VIEW_BYTES),
        other => other.primitive_width(),
    }
}

/// Fills the gaps of a column in its own memory, or in a copy when somebody else holds it, too.
fn filled(column: ArrayRef, width: usize, moves: &Moves) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data();
    if data.offset() != 0 {
        return take(&column, &moves.indices(), None);
    }
    drop(column);
    let (data_type, _, nulls, _, mut buffers, children) = data.into_parts();
    if let Some(values) = buffers.first_mut() {
        *values = moved(std::mem::take(values), width, moves);
    }
    let data = ArrayData::builder(data_type)
        .len(moves.kept)
        .nulls(nulls.map(|nulls| validity(&nulls, moves)))
        .buffers(buffers)
        .child_data(children);
    // SAFETY: each value is one that the array had before, with the validity that it had, and the
    // buffers that views point into are the same.
    #[expect(unsafe_code, reason = "checking would read every text of the column")]
    let data = unsafe { data.build_unchecked() };
    Ok(make_array(data))
}

fn moved(values: Buffer, width: usize, moves: &Moves) -> Buffer {
    let mut values = values.into_mutable().unwrap_or_else(|shared| {
        let mut copy = arrow::buffer::MutableBuffer::new(shared.len());
        copy.extend_from_slice(&shared);
        copy
    });
    let bytes = values.as_slice_mut();
    for (gap, filler) in &moves.pairs {
        bytes.copy_within(filler * width..(filler + 1) * width, gap * width);
    }
    values.into()
}

fn validity(nulls: &NullBuffer, moves: &Moves) -> NullBuffer {
    let mut bits = arrow::array::BooleanBufferBuilder::new(moves.kept);
    bits.append_buffer(&nulls.inner().slice(0, moves.kept));
    for (gap, filler) in &moves.pairs {
        bits.set_bit(*gap, nulls.is_valid(*filler));
    }
    let bits: BooleanBuffer = bits.finish();
    NullBuffer::new(bits)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            Array, BooleanArray, Decimal128Array, Int64Array, ListArray, StringArray,
            StringViewArray,
        },
        datatypes::Int32Type,
        util::display::array_value_to_string,
    };
    use proptest::prelude::*;

    use super::*;

    /// A column of each way to hold values; every text says which row it is of.
    fn batch(rows: usize, nulls: &[bool]) -> RecordBatch {
        let there = |row: usize| !nulls[row % nulls.len()];
        let number = |row: usize| i64::try_from(row).unwrap();
        let ids: Int64Array = (0..rows).map(number).collect();
        let some: Int64Array = (0..rows).map(|r| there(r).then(|| number(r))).collect();
        let cents: Decimal128Array = (0..rows).map(|row| Some(row as i128)).collect();
        let long = |row| format!("a text that is not kept in a view: {row}");
        let texts: StringViewArray = (0..rows).map(|r| there(r).then(|| long(r))).collect();
        let short: StringViewArray = (0..rows).map(|row| Some(format!("{row}"))).collect();
        let plain: StringArray = (0..rows).map(|r| there(r).then(|| long(r))).collect();
        let bits: BooleanArray = (0..rows).map(|row| Some(row % 3 == 0)).collect();
        let lists = (0..rows).map(|row| Some(vec![Some(i32::try_from(row).unwrap()); row % 3]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let columns: [(&str, ArrayRef); 8] = [
            ("id", Arc::new(ids)),
            ("some", Arc::new(some)),
            ("cents", Arc::new(cents)),
            ("texts", Arc::new(texts)),
            ("short", Arc::new(short)),
            ("plain", Arc::new(plain)),
            ("bits", Arc::new(bits)),
            ("lists", Arc::new(lists)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, c)| (name, c, true))).unwrap()
    }

    fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
        let row = |row| {
            let columns = batch.columns().iter();
            columns
                .map(|column| array_value_to_string(column, row).unwrap())
                .collect()
        };
        (0..batch.num_rows()).map(row).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_left_is_every_other_row_whole_and_once(
            gone in proptest::collection::vec(any::<bool>(), 1..60),
            nulls in proptest::collection::vec(any::<bool>(), 1..5),
            sliced in 0..3_usize,
            shared in any::<bool>(),
        ) {
            let whole = batch(gone.len() + sliced, &nulls).slice(sliced, gone.len());
            let mut expected: Vec<Vec<String>> = rows(&whole)
                .into_iter()
                .zip(&gone)
                .filter(|(_, gone)| !**gone)
                .map(|(row, _)| row)
                .collect();
            let kept = shared.then(|| (whole.clone(), rows(&whole)));
            let gone: Vec<usize> = (0..gone.len()).filter(|row| gone[*row]).collect();
            let left = without(whole, &gone).unwrap();
            for column in left.columns() {
                column.to_data().validate_full().unwrap();
            }
            let mut left = rows(&left);
            left.sort();
            expected.sort();
            prop_assert_eq!(left, expected);
            if let Some((other, before)) = kept {
                prop_assert_eq!(rows(&other), before, "somebody else's rows were changed");
            }
        }
    }

    #[test]
    fn a_batch_without_columns_has_fewer_rows() {
        let options = RecordBatchOptions::new().with_row_count(Some(9));
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let batch = RecordBatch::try_new_with_options(schema, Vec::new(), &options).unwrap();
        assert_eq!(without(batch, &[0, 3, 8]).unwrap().num_rows(), 6);
    }
}

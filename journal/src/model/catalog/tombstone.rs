//! Deleting rows for good, decided: one decision, in as many events as its keys need room for. Pure.

use super::{CatalogState, TombstoneRows};
use crate::model::{
    ModelError,
    event::{CatalogEvent, RowsTombstoned},
};

/// Bytes of row keys that one event is given: it lists them twice, as rows and as what it is about, and
/// its record has a limit.
const KEY_BYTES_OF_EVENT: usize = 12 << 20;
/// What a key takes beside its own bytes, both times: quotes, commas, the name of the dataset.
const KEY_BYTES_BESIDE: usize = 16;

impl CatalogState {
    pub(super) fn tombstone_rows(
        &self,
        command: &TombstoneRows,
    ) -> Result<Vec<CatalogEvent>, ModelError> {
        let dataset = self.dataset(&command.dataset)?;
        dataset.must_be_as_read(command.read_seq)?;
        let mut deleted = dataset.still_there(&command.deleted);
        if deleted.is_empty() {
            return Ok(Vec::new());
        }
        let beside = KEY_BYTES_BESIDE + command.dataset.len();
        let mut missing = parts(&command.missing, beside);
        let mut rows = parts(&command.rows, beside);
        let mut next = || {
            let parts = (rows.next(), missing.next());
            (parts != (None, None)).then_some(parts)
        };
        let event = |(rows, missing): (Option<&[String]>, Option<&[String]>)| -> CatalogEvent {
            RowsTombstoned {
                dataset: command.dataset.clone(),
                rows: rows.unwrap_or_default().to_vec(),
                // All positions at once: whatever comes after the first event is about rows that are gone.
                deleted: std::mem::take(&mut deleted),
                missing: missing.unwrap_or_default().to_vec(),
                reason: command.reason.clone(),
                on_behalf_of: command.on_behalf_of.clone(),
            }
            .into()
        };
        Ok(std::iter::from_fn(&mut next).map(event).collect())
    }
}

/// Keys in parts that fit into an event each; at least one part.
fn parts(keys: &[String], beside: usize) -> impl Iterator<Item = &[String]> {
    let mut rest = Some(keys);
    std::iter::from_fn(move || {
        let keys = rest?;
        let mut bytes = 0;
        let fits = |key: &&String| {
            bytes += key.len() + beside;
            bytes <= KEY_BYTES_OF_EVENT
        };
        let count = keys.iter().take_while(fits).count().max(1).min(keys.len());
        let (part, others) = keys.split_at(count);
        rest = (!others.is_empty()).then_some(others);
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            CatalogCommand,
            tests::{Given, create, tombstone},
        },
        *,
    };

    #[test]
    fn keys_that_do_not_fit_into_one_event_are_one_decision_of_several() {
        let mut given = Given::default();
        given.when(&create("people", "f1")).expect("made");
        let mut command = tombstone("people", "f1", 3, given.seq());
        let keys: Vec<String> = (0..30)
            .map(|n| format!("{}{n}", "x".repeat(1_000_000)))
            .collect();
        if let CatalogCommand::TombstoneRows(command) = &mut command {
            command.rows.clone_from(&keys);
            command.missing = vec!["m".repeat(10 << 20); 5];
        }
        let events = given.when(&command).expect("allowed");
        assert_eq!(events.len(), 5);
        let (mut rows, mut missing) = (Vec::new(), 0);
        for event in &events {
            let CatalogEvent::RowsTombstoned(event) = event else {
                panic!("{event:?}");
            };
            rows.extend(event.rows.clone());
            missing += event.missing.len();
        }
        assert_eq!((rows, missing), (keys.clone(), 5));
        let dataset = &given.state.datasets["people"];
        assert_eq!(dataset.tombstones.len(), keys.len());
        assert_eq!(
            (dataset.row_count(), dataset.tombstone_batches.len()),
            (9, 5)
        );
        assert_eq!(given.when(&command).expect("allowed"), []);
    }

    #[test]
    fn a_key_longer_than_an_event_is_given_is_a_part_of_its_own() {
        let keys = ["a".repeat(KEY_BYTES_OF_EVENT + 1), "b".to_owned()];
        let parts: Vec<usize> = parts(&keys, 0).map(<[String]>::len).collect();
        assert_eq!(parts, [1, 1]);
        assert_eq!(super::parts(&[], 0).count(), 1);
    }
}

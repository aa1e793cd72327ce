//! The past against a plain model: whatever was appended, replaced, deleted, rewritten and merged
//! since, an old state shows what was visible then, less what was deleted for good.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    model::{
        catalog::{
            CatalogCommand, CatalogState, CompactFiles, Dataset, DeletionVector, FileEntry,
            IngestMode, RewrittenFile, ScrubFiles,
            tests::{Given, commit, create, tombstone},
        },
        event::{DeletedRows, Scrub},
    },
    record::Seq,
};

fn entry(key: &str, rows: u64) -> FileEntry {
    FileEntry {
        bucket: "primary".to_owned(),
        key: key.to_owned(),
        rows,
        bytes: rows,
        blake3: key.to_owned(),
        sorted_by_key: false,
        superseded: DeletionVector::default(),
        erased: DeletionVector::default(),
    }
}

/// Every file that holds erased rows, rewritten into two.
pub(in crate::model::catalog) fn scrub(
    state: &CatalogState,
    name: &str,
    seq: Seq,
) -> CatalogCommand {
    let mut scrubs = Vec::new();
    if let Some(dataset) = state.datasets.get(name) {
        for file in dataset.all_files().filter(|file| !file.erased.is_empty()) {
            let left = file.entry.rows - file.erased.len();
            let added = [(0, left / 2), (1, left - left / 2)]
                .into_iter()
                .filter(|(_, rows)| *rows > 0)
                .map(|(part, rows)| entry(&format!("{}~{seq}.{part}", file.entry.key), rows));
            scrubs.push(Scrub {
                file: file.entry.key.clone(),
                removed: file.erased.clone(),
                added: added.collect(),
            });
        }
    }
    CatalogCommand::ScrubFiles(ScrubFiles {
        dataset: name.to_owned(),
        scrubs,
    })
}

/// All live files of a dataset, one after the other in a new one.
pub(in crate::model::catalog) fn compact(
    state: &CatalogState,
    name: &str,
    new: &str,
) -> CatalogCommand {
    let files = state.datasets.get(name).map(|dataset| &dataset.files);
    let files: Vec<_> = files.into_iter().flatten().collect();
    CatalogCommand::CompactFiles(CompactFiles {
        dataset: name.to_owned(),
        read_seq: 0,
        added: vec![entry(new, files.iter().map(|file| file.live_rows()).sum())],
        retired: files
            .iter()
            .map(|file| RewrittenFile {
                key: file.entry.key.clone(),
                deleted: file.deleted.len(),
                erased: file.erased.len(),
            })
            .collect(),
        content_hash: String::new(),
    })
}

/// A dataset `d` whose rows have numbers, beside what was visible after each event.
#[derive(Default)]
struct World {
    given: Given,
    /// The rows of every file that ever was.
    files: BTreeMap<String, Vec<u32>>,
    /// What was there after each event: the state and the visible rows.
    past: Vec<(CatalogState, BTreeSet<u32>)>,
    erased: BTreeSet<u32>,
    rows: u32,
}

#[derive(Debug, Clone)]
enum Step {
    Append,
    Supersede(u8, u32),
    Replace,
    Tombstone(u8, u32),
    Scrub,
    Compact,
    Purge,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Append),
        (0..6_u8, 0..10_u32).prop_map(|(file, row)| Step::Supersede(file, row)),
        Just(Step::Replace),
        (0..6_u8, 0..10_u32).prop_map(|(file, row)| Step::Tombstone(file, row)),
        (0..6_u8, 0..10_u32).prop_map(|(file, row)| Step::Tombstone(file, row)),
        Just(Step::Scrub),
        Just(Step::Compact),
        Just(Step::Purge),
    ]
}

impl World {
    fn dataset(&self) -> &Dataset {
        &self.given.state.datasets["d"]
    }

    fn visible(&self, dataset: &Dataset) -> BTreeSet<u32> {
        let rows = dataset.files.iter().flat_map(|file| {
            self.files[&file.entry.key]
                .iter()
                .zip(0..)
                .filter(|(_, position)| !file.deleted.contains(*position))
                .map(|(row, _)| *row)
        });
        rows.collect()
    }

    fn new_file(&mut self) -> String {
        let name = format!("f{}", self.files.len());
        let rows = (self.rows..self.rows + 10).collect();
        self.rows += 10;
        self.files.insert(name.clone(), rows);
        name
    }

    fn does(&mut self, command: &CatalogCommand) {
        let events = self.given.when(command).expect("a step that is allowed");
        if events.is_empty() {
            return;
        }
        let visible = self.visible(self.dataset());
        self.past.push((self.given.state.clone(), visible));
    }

    fn any_file(&self, number: u8) -> (String, u64) {
        let files: Vec<_> = self.dataset().all_files().collect();
        let file = files[usize::from(number) % files.len()];
        (file.entry.key.clone(), file.entry.rows)
    }

    fn step(&mut self, step: &Step) {
        let seq = self.given.seq();
        match step {
            Step::Append | Step::Replace => {
                let mode = match step {
                    Step::Append => IngestMode::Append,
                    _ => IngestMode::Replace,
                };
                let file = self.new_file();
                self.does(&CatalogCommand::CommitFiles(commit("d", mode, &file, seq)));
            }
            Step::Supersede(file, row) => {
                let (old, rows) = self.any_file(*file);
                let new = self.new_file();
                let mut upsert = commit("d", IngestMode::Append, &new, seq);
                upsert.deleted = vec![DeletedRows {
                    file: old,
                    positions: [u32::try_from(u64::from(*row) % rows.max(1)).expect("few rows")]
                        .into_iter()
                        .collect(),
                }];
                self.does(&CatalogCommand::CommitFiles(upsert));
            }
            Step::Tombstone(file, row) => {
                let (file, rows) = self.any_file(*file);
                if rows == 0 {
                    return;
                }
                let position = u32::try_from(u64::from(*row) % rows).expect("few rows");
                let row = self.files[&file][position as usize];
                // Like a lookup by key: wherever a copy of the row lies.
                let copies: Vec<DeletedRows> = self
                    .dataset()
                    .all_files()
                    .filter_map(|other| {
                        let at = self.files[&other.entry.key]
                            .iter()
                            .position(|known| *known == row)?;
                        Some(DeletedRows {
                            file: other.entry.key.clone(),
                            positions: [u32::try_from(at).expect("few rows")].into_iter().collect(),
                        })
                    })
                    .collect();
                let mut command = tombstone("d", &file, position, seq);
                if let CatalogCommand::TombstoneRows(command) = &mut command {
                    command.deleted = copies;
                }
                self.erased.insert(row);
                self.does(&command);
            }
            Step::Scrub => {
                let command = scrub(&self.given.state, "d", seq);
                self.note_scrubs(&command);
                self.does(&command);
            }
            Step::Compact => {
                let name = format!("f{}", self.files.len());
                let command = compact(&self.given.state, "d", &name);
                let rows = self
                    .dataset()
                    .files
                    .iter()
                    .flat_map(|file| {
                        self.files[&file.entry.key]
                            .iter()
                            .zip(0..)
                            .filter(|(_, position)| !file.deleted.contains(*position))
                            .map(|(row, _)| *row)
                    })
                    .collect();
                self.files.insert(name, rows);
                self.does(&command);
            }
            Step::Purge => self.does(&CatalogCommand::PurgeFiles {
                dataset: "d".to_owned(),
                horizon: 1_000_000,
            }),
        }
    }

    fn note_scrubs(&mut self, command: &CatalogCommand) {
        let CatalogCommand::ScrubFiles(command) = command else {
            return;
        };
        for scrub in &command.scrubs {
            let mut left = self.files[&scrub.file]
                .iter()
                .zip(0..)
                .filter(|(_, position)| !scrub.removed.contains(*position))
                .map(|(row, _)| *row)
                .collect::<Vec<_>>()
                .into_iter();
            for entry in &scrub.added {
                let rows = usize::try_from(entry.rows).expect("few rows");
                self.files
                    .insert(entry.key.clone(), left.by_ref().take(rows).collect());
            }
        }
    }
}

proptest! {
    #[test]
    fn the_past_shows_what_was_there_less_what_was_deleted_for_good(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::default();
        let first = world.new_file();
        world.does(&create("d", &first));
        for step in &steps {
            world.step(step);
        }
        let now = world.dataset().clone();
        let visible = world.visible(&now);
        prop_assert!(visible.is_disjoint(&world.erased));
        for (state, visible_then) in &world.past {
            let then = &state.datasets["d"];
            let position = then.files_seq.max(then.rows_seq).max(then.last_tombstone_seq());
            match now.as_it_was(then) {
                Ok(past) => {
                    let expected: BTreeSet<u32> =
                        visible_then.difference(&world.erased).copied().collect();
                    prop_assert_eq!(world.visible(&past), expected);
                }
                Err(oldest) => prop_assert!(position < oldest, "{position} is not before {oldest}"),
            }
        }
    }
}

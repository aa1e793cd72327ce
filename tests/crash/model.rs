//! What a writer may do, and a plain model of what must be there after it: maps, no cleverness.
//! A writer owns its datasets and tokens alone, so that the order of its own requests decides everything.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;

/// The dataset that every writer adds rows to, each in a range of ids of its own.
pub const SHARED: &str = "shared";
/// Datasets that a writer keeps at a time.
const DATASETS_MAX: usize = 3;
/// Tokens that a writer keeps at a time.
const TOKENS_MAX: usize = 3;
/// Ids of rows from one writer to the next.
const ID_RANGE: i64 = 1_000_000_000;

/// Rows of `id,v`.
pub type Rows = BTreeMap<i64, String>;

/// One mutation.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    Create {
        dataset: String,
        rows: Rows,
    },
    Append {
        dataset: String,
        rows: Rows,
    },
    Upsert {
        dataset: String,
        rows: Rows,
    },
    Replace {
        dataset: String,
        rows: Rows,
    },
    Tombstone {
        dataset: String,
        keys: Vec<i64>,
    },
    Patch {
        dataset: String,
        description: String,
    },
    Compact {
        dataset: String,
    },
    Drop {
        dataset: String,
    },
    Issue {
        name: String,
    },
    Revoke {
        name: String,
    },
}

/// A dataset as it must be.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub rows: Rows,
    pub description: String,
}

/// A token as it must be; the id and the secret are known when an answer brought them.
#[derive(Debug, Clone, Default)]
pub struct Token {
    pub id: Option<String>,
    pub secret: Option<String>,
    pub revoked: bool,
}

/// Everything that one writer made.
#[derive(Debug, Clone)]
pub struct Model {
    pub writer: usize,
    pub tables: BTreeMap<String, Table>,
    pub tokens: BTreeMap<String, Token>,
    next: i64,
}

impl Op {
    /// How many events its decision has; a compaction with nothing to do has none.
    pub fn events(&self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Create { .. } => 2..=2,
            Self::Compact { .. } => 0..=1,
            _ => 1..=1,
        }
    }
}

impl Model {
    /// A writer that has done nothing yet.
    pub fn new(writer: usize) -> Self {
        let tables = BTreeMap::from([(SHARED.to_owned(), Table::default())]);
        Self {
            writer,
            tables,
            tokens: BTreeMap::new(),
            next: 0,
        }
    }

    /// A mutation that must succeed on what is there.
    pub fn draw(&mut self, rng: &mut StdRng) -> Op {
        if self.own().count() == 0 {
            return self.create(rng);
        }
        let dataset = self.any_own(rng);
        match rng.random_range(0..100) {
            0..8 if self.own().count() < DATASETS_MAX => self.create(rng),
            8..12 if self.own().count() == DATASETS_MAX => Op::Drop { dataset },
            12..18 => Op::Replace {
                dataset,
                rows: self.fresh(rng),
            },
            18..34 => Op::Upsert {
                rows: self.mixed(rng, &dataset),
                dataset,
            },
            34..52 => self.tombstone(rng, &dataset),
            52..64 => Op::Patch {
                dataset,
                description: self.name("text"),
            },
            // That of all writers too: it is merged under their hands, and else has a file for every append.
            64..68 if rng.random_bool(0.3) => Op::Compact {
                dataset: SHARED.to_owned(),
            },
            64..68 => Op::Compact { dataset },
            68..78 => self.token(rng),
            78..88 => Op::Append {
                dataset: SHARED.to_owned(),
                rows: self.fresh(rng),
            },
            _ => Op::Append {
                dataset,
                rows: self.fresh(rng),
            },
        }
    }

    /// What is there after the mutation took effect.
    pub fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::Create { dataset, rows } => {
                self.tables.insert(
                    dataset,
                    Table {
                        rows,
                        description: String::new(),
                    },
                );
            }
            Op::Append { dataset, rows } | Op::Upsert { dataset, rows } => {
                self.table(&dataset).rows.extend(rows);
            }
            Op::Replace { dataset, rows } => self.table(&dataset).rows = rows,
            Op::Tombstone { dataset, keys } => {
                let table = self.table(&dataset);
                table.rows.retain(|id, _| !keys.contains(id));
            }
            Op::Patch {
                dataset,
                description,
            } => self.table(&dataset).description = description,
            Op::Compact { .. } => {}
            Op::Drop { dataset } => {
                self.tables.remove(&dataset);
            }
            Op::Issue { name } => {
                self.tokens.entry(name).or_default();
            }
            Op::Revoke { name } => self.tokens.entry(name).or_default().revoked = true,
        }
    }

    fn table(&mut self, dataset: &str) -> &mut Table {
        self.tables
            .get_mut(dataset)
            .expect("only datasets that are there are drawn")
    }

    fn own(&self) -> impl Iterator<Item = &String> {
        self.tables.keys().filter(|name| *name != SHARED)
    }

    fn any_own(&self, rng: &mut StdRng) -> String {
        let nth = rng.random_range(0..self.own().count());
        self.own().nth(nth).expect("there are that many").clone()
    }

    fn create(&mut self, rng: &mut StdRng) -> Op {
        Op::Create {
            dataset: self.name("data"),
            rows: self.fresh(rng),
        }
    }

    fn tombstone(&mut self, rng: &mut StdRng, dataset: &str) -> Op {
        let name = if rng.random_bool(0.2) {
            SHARED
        } else {
            dataset
        };
        let rows = &self.tables[name].rows;
        let keys: Vec<i64> = rows
            .keys()
            .copied()
            .filter(|_| rng.random_bool(0.2))
            .take(20)
            .collect();
        if keys.is_empty() {
            return Op::Append {
                dataset: name.to_owned(),
                rows: self.fresh(rng),
            };
        }
        Op::Tombstone {
            dataset: name.to_owned(),
            keys,
        }
    }

    fn token(&mut self, rng: &mut StdRng) -> Op {
        let valid: Vec<&String> = self
            .tokens
            .iter()
            .filter(|(_, t)| !t.revoked && t.id.is_some())
            .map(|(n, _)| n)
            .collect();
        if valid.len() >= TOKENS_MAX || (!valid.is_empty() && rng.random_bool(0.3)) {
            return Op::Revoke {
                name: valid[rng.random_range(0..valid.len())].clone(),
            };
        }
        Op::Issue {
            name: self.name("token"),
        }
    }

    /// Rows that were never there: an id is used once, so that a deleted row has no successor.
    fn fresh(&mut self, rng: &mut StdRng) -> Rows {
        (0..rng.random_range(1..=40))
            .map(|_| (self.id(), format!("v{}", rng.random::<u32>())))
            .collect()
    }

    /// Some rows that are there, with new values, and some that are not.
    fn mixed(&mut self, rng: &mut StdRng, dataset: &str) -> Rows {
        let ids: Vec<i64> = self.tables[dataset]
            .rows
            .keys()
            .copied()
            .filter(|_| rng.random_bool(0.3))
            .collect();
        let mut rows = self.fresh(rng);
        rows.extend(
            ids.into_iter()
                .map(|id| (id, format!("w{}", rng.random::<u32>()))),
        );
        rows
    }

    fn id(&mut self) -> i64 {
        self.next += 1;
        i64::try_from(self.writer).expect("few writers") * ID_RANGE + self.next
    }

    fn name(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}_{}_{}", self.writer, self.next)
    }
}

/// Rows as CSV.
pub fn csv(rows: &Rows) -> String {
    let mut text = String::from("id,v\n");
    for (id, v) in rows {
        writeln!(text, "{id},{v}").unwrap();
    }
    text
}

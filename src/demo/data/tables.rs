//! The seven staffing tables: their names, columns, keys and how many rows each has at a scale.
//! The demo lists them from here; the generators write their fields in this order.

use super::random::share;

/// Rows of all seven tables together unless another number is asked for.
pub const DEFAULT_ROWS: u64 = 2_469_278;

/// One of the seven tables, in an order in which nothing refers to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Companies that hire.
    Clients,
    /// People who look for work.
    Candidates,
    /// Open and filled jobs of the clients.
    Jobs,
    /// A candidate at work in a job for some weeks.
    Placements,
    /// One week of one placement: the big table.
    Timesheets,
    /// Calls, interviews and the like, with a note.
    Activities,
    /// Mails to and from candidates.
    Emails,
}

/// What a column holds, in the words of the demo's narration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// A whole number.
    Int,
    /// A decimal with two places.
    Decimal,
    /// UTF-8 text.
    Text,
    /// `YYYY-MM-DD`.
    Date,
    /// `YYYY-MM-DDTHH:MM:SS`, UTC.
    Time,
}

/// A column of a staffing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name in the CSV header.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// Whether a field may be empty.
    pub nullable: bool,
    /// `public`, `internal`, `pii` or `secret`, as `PATCH /catalog/datasets/{name}` takes it.
    pub sensitivity: &'static str,
}

/// A table at a scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Which one.
    pub table: Table,
    /// The dataset's name.
    pub name: &'static str,
    /// Rows at this scale.
    pub rows: u64,
    /// The key column.
    pub key: &'static str,
    /// The columns in the order of the CSV.
    pub columns: &'static [Column],
}

const fn column(name: &'static str, kind: ColumnKind, sensitivity: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: false,
        sensitivity,
    }
}

const fn nullable(name: &'static str, kind: ColumnKind, sensitivity: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: true,
        sensitivity,
    }
}

use ColumnKind::{Date, Decimal, Int, Text, Time};

const CLIENTS: &[Column] = &[
    column("id", Int, "public"),
    column("name", Text, "public"),
    column("industry", Text, "public"),
    column("city", Text, "public"),
    column("state", Text, "public"),
    column("tier", Text, "internal"),
    column("contact_name", Text, "pii"),
    column("contact_email", Text, "pii"),
    column("contact_phone", Text, "pii"),
    column("since", Date, "public"),
];

const CANDIDATES: &[Column] = &[
    column("id", Int, "public"),
    column("first_name", Text, "pii"),
    column("last_name", Text, "pii"),
    column("email", Text, "pii"),
    column("phone", Text, "pii"),
    column("ssn", Text, "secret"),
    column("city", Text, "internal"),
    column("state", Text, "public"),
    column("years_experience", Int, "public"),
    column("headline", Text, "public"),
    column("skills", Text, "public"),
    column("status", Text, "internal"),
    column("created_at", Time, "internal"),
];

const JOBS: &[Column] = &[
    column("id", Int, "public"),
    column("client_id", Int, "public"),
    column("title", Text, "public"),
    column("category", Text, "public"),
    column("city", Text, "public"),
    column("state", Text, "public"),
    column("rate", Decimal, "internal"),
    column("openings", Int, "public"),
    column("status", Text, "public"),
    column("opened_at", Date, "public"),
    column("description", Text, "public"),
];

const PLACEMENTS: &[Column] = &[
    column("id", Int, "public"),
    column("candidate_id", Int, "internal"),
    column("job_id", Int, "public"),
    column("start_date", Date, "public"),
    nullable("end_date", Date, "public"),
    column("pay_rate", Decimal, "internal"),
    column("bill_rate", Decimal, "internal"),
    column("status", Text, "public"),
];

const TIMESHEETS: &[Column] = &[
    column("id", Int, "public"),
    column("placement_id", Int, "public"),
    column("week_start", Date, "public"),
    column("hours", Decimal, "public"),
    column("overtime", Decimal, "public"),
    column("amount", Decimal, "internal"),
    column("status", Text, "public"),
    nullable("approved_at", Time, "internal"),
];

const ACTIVITIES: &[Column] = &[
    column("id", Int, "public"),
    column("candidate_id", Int, "internal"),
    nullable("job_id", Int, "public"),
    column("at", Time, "internal"),
    column("kind", Text, "public"),
    nullable("minutes", Int, "public"),
    column("note", Text, "pii"),
];

const EMAILS: &[Column] = &[
    column("id", Int, "public"),
    column("candidate_id", Int, "internal"),
    column("sent_at", Time, "internal"),
    column("direction", Text, "public"),
    column("sender", Text, "pii"),
    column("recipient", Text, "pii"),
    column("subject", Text, "internal"),
    column("body", Text, "pii"),
];

impl Table {
    /// All seven, in an order in which nothing refers to a later one.
    pub const ALL: [Self; 7] = [
        Self::Clients,
        Self::Candidates,
        Self::Jobs,
        Self::Placements,
        Self::Timesheets,
        Self::Activities,
        Self::Emails,
    ];

    /// The dataset's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Candidates => "candidates",
            Self::Jobs => "jobs",
            Self::Placements => "placements",
            Self::Timesheets => "timesheets",
            Self::Activities => "activities",
            Self::Emails => "emails",
        }
    }

    /// The table of a dataset's name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The columns in the order of the CSV; the first one is the key.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Clients => CLIENTS,
            Self::Candidates => CANDIDATES,
            Self::Jobs => JOBS,
            Self::Placements => PLACEMENTS,
            Self::Timesheets => TIMESHEETS,
            Self::Activities => ACTIVITIES,
            Self::Emails => EMAILS,
        }
    }
}

/// Rows at the default scale, in the order of [`Table::ALL`].
const DEFAULT_SPLIT: [u64; 7] = [3_000, 70_000, 30_000, 70_000, 1_840_000, 376_278, 80_000];

/// Rows of each table, in the order of [`Table::ALL`], when there are to be `rows` in all.
/// Every table has at least one, so fewer than seven in all become seven; what rounding leaves
/// over goes to the timesheets.
pub(super) fn split(rows: u64) -> [u64; 7] {
    let rows = rows.max(Table::ALL.len() as u64);
    let mut counts = DEFAULT_SPLIT.map(|part| share(part, DEFAULT_ROWS, rows).max(1));
    let rest: u64 = counts.iter().sum::<u64>() - counts[Table::Timesheets as usize];
    counts[Table::Timesheets as usize] = (rows - rest).max(1);
    counts
}

/// The seven tables with `rows` rows in all (seven at least), referenced tables first.
pub fn tables(rows: u64) -> Vec<TableSpec> {
    let counts = split(rows);
    let spec = |table: Table| TableSpec {
        table,
        name: table.name(),
        rows: counts[table as usize],
        key: table.columns()[0].name,
        columns: table.columns(),
    };
    Table::ALL.into_iter().map(spec).collect()
}

//! Statements made by a grammar out of a seed, for lakes that differ only in what a view hides: whoever asks
//! both must not be able to tell them apart. Deterministic: the same seed is the same statement.

/// A small generator of numbers (splitmix64), so that a failure can be asked again by its seed.
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.roll() % most as u64).unwrap_or(0)
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const COLUMNS: [&str; 6] = ["id", "name", "city", "skill", "score", "hired"];
const NUMBERS: [&str; 8] = ["0", "1", "7", "17", "42", "70", "1000000", "-3"];
const TEXTS: [&str; 6] = ["'Ulm'", "'Bonn'", "'rust'", "''", "'A***'", "'%a%'"];

/// A statement of the grammar.
pub fn statement(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    match dice.below(8) {
        0 => grouped(&mut dice),
        1 => joined(&mut dice),
        2 => windowed(&mut dice),
        3 => nested(&mut dice),
        4 => united(&mut dice),
        _ => plain(&mut dice),
    }
}

fn source(dice: &mut Dice) -> &'static str {
    // Now and then a name or a column that is not there for an agent, whether or not it exists.
    match dice.below(24) {
        0 => "candidates",
        1 => "payroll",
        2 => "salaries_of_2024",
        _ => "candidates_safe",
    }
}

fn column(dice: &mut Dice) -> &'static str {
    match dice.below(30) {
        0 => "email",
        1 => "ssn",
        2 => "extra",
        _ => COLUMNS[dice.below(COLUMNS.len())],
    }
}

fn value(dice: &mut Dice) -> String {
    match dice.below(8) {
        0 | 1 => column(dice).to_owned(),
        2 => format!("CAST({} AS BIGINT)", column(dice)),
        3 => format!("{} / (id - {})", dice.pick(&NUMBERS), dice.pick(&NUMBERS)),
        4 => format!("length(CAST({} AS VARCHAR))", column(dice)),
        5 => format!("id % {}", dice.pick(&["2", "3", "10", "0"])),
        6 => format!(
            "CASE WHEN id > {} THEN score ELSE id END",
            dice.pick(&NUMBERS)
        ),
        _ => format!("upper({})", dice.pick(&["city", "skill", "name"])),
    }
}

fn predicate(dice: &mut Dice) -> String {
    let operator = dice.pick(&["=", "<>", "<", ">", "<=", ">="]);
    match dice.below(9) {
        0 => format!("id {operator} {}", dice.pick(&NUMBERS)),
        1 => format!("score {operator} {}", dice.pick(&NUMBERS)),
        2 => format!("city {operator} {}", dice.pick(&TEXTS)),
        3 => format!("hired {operator} DATE '20{}-06-01'", 10 + dice.below(20)),
        4 => format!("{} IS NOT NULL", column(dice)),
        5 => format!("{} {operator} {}", value(dice), dice.pick(&NUMBERS)),
        6 => format!("skill LIKE {}", dice.pick(&TEXTS)),
        7 => format!("({} OR NOT {})", predicate(dice), predicate(dice)),
        _ => format!("({} AND {})", predicate(dice), predicate(dice)),
    }
}

fn filter(dice: &mut Dice) -> String {
    if dice.below(3) == 0 {
        String::new()
    } else {
        format!(" WHERE {}", predicate(dice))
    }
}

fn limit(dice: &mut Dice) -> String {
    match dice.below(3) {
        0 => String::new(),
        1 => format!(" LIMIT {}", dice.below(20)),
        _ => format!(" LIMIT {} OFFSET {}", dice.below(20), dice.below(40)),
    }
}

/// Every column in the order by, so that the order is whole.
fn plain(dice: &mut Dice) -> String {
    let count = 1 + dice.below(4);
    let values: Vec<String> = (0..count).map(|_| value(dice)).collect();
    let order: Vec<String> = (1..=count).map(|at| at.to_string()).collect();
    let distinct = dice.pick(&["", "", "DISTINCT "]);
    let named: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(at, v)| format!("{v} AS c{at}"))
        .collect();
    format!(
        "SELECT {distinct}{} FROM {}{} ORDER BY {}{}",
        named.join(", "),
        source(dice),
        filter(dice),
        order.join(", "),
        limit(dice)
    )
}

fn grouped(dice: &mut Dice) -> String {
    let call = dice.pick(&[
        "count(*)",
        "sum(id)",
        "min(score)",
        "max(hired)",
        "count(DISTINCT skill)",
        "max(city)",
        "avg(id)",
        "min(name)",
        "sum(score)",
        "approx_distinct(id)",
        "bool_or(id > 7)",
        "array_agg(id ORDER BY id)",
    ]);
    let by = dice.pick(&[
        "city",
        "skill",
        "name",
        "id % 3",
        "date_part('year', hired)",
    ]);
    format!(
        "SELECT {by} AS g, {call} AS a FROM {}{} GROUP BY {by} HAVING count(*) > {} ORDER BY 1{}",
        source(dice),
        filter(dice),
        dice.below(4),
        limit(dice)
    )
}

fn joined(dice: &mut Dice) -> String {
    let kind = dice.pick(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
    let on = dice.pick(&[
        "a.id = b.id",
        "a.city = b.city",
        "a.skill = b.skill AND a.id < b.id",
        "a.id = b.id + 1",
    ]);
    format!(
        "SELECT a.id, b.id, b.city FROM {} a {kind} candidates_safe b ON {on} WHERE a.id <> {} OR b.{} ORDER BY 1, 2, 3{}",
        source(dice),
        dice.pick(&NUMBERS),
        predicate_of(dice),
        limit(dice)
    )
}

fn predicate_of(dice: &mut Dice) -> String {
    format!("id > {}", dice.pick(&NUMBERS))
}

fn windowed(dice: &mut Dice) -> String {
    let call = dice.pick(&[
        "row_number()",
        "rank()",
        "lag(id)",
        "sum(id)",
        "count(*)",
        "first_value(city)",
        "max(score)",
    ]);
    let by = dice.pick(&["city", "skill", "id % 5"]);
    format!(
        "SELECT id, {call} OVER (PARTITION BY {by} ORDER BY id) AS w FROM {}{} ORDER BY 1, 2{}",
        source(dice),
        filter(dice),
        limit(dice)
    )
}

fn nested(dice: &mut Dice) -> String {
    let inner = source(dice);
    let how = dice.pick(&["IN", "NOT IN"]);
    let (outer, within) = (predicate(dice), predicate(dice));
    match dice.below(3) {
        0 => format!(
            "SELECT id, city FROM candidates_safe WHERE id {how} (SELECT id FROM {inner} WHERE {within}) AND {outer} ORDER BY 1, 2"
        ),
        1 => format!(
            "WITH s AS (SELECT id, city, score FROM {inner} WHERE {within}) SELECT city, count(*) FROM s GROUP BY city ORDER BY 1, 2"
        ),
        _ => format!(
            "SELECT id FROM candidates_safe c WHERE EXISTS (SELECT 1 FROM {inner} s WHERE s.id = c.id AND {}) ORDER BY 1",
            predicate_of(dice).replace("id", "s.id")
        ),
    }
}

fn united(dice: &mut Dice) -> String {
    let how = dice.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
    format!(
        "SELECT id, city FROM candidates_safe{} {how} SELECT id, city FROM {}{} ORDER BY 1, 2{}",
        filter(dice),
        source(dice),
        filter(dice),
        limit(dice)
    )
}

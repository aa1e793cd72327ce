//! `lakehouse bench access`: whether the time of looking a token up tells how near a wrong secret is to a
//! right one (Welch's t over two classes in turns, as dudect has it), beside a look-up that does tell it;
//! and how soon a revoked token ends.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use lakehouse_journal::{
    model::access::{AccessState, Role, Token},
    record::Micros,
};
use serde_json::{Value, json};

use super::{
    BenchError,
    daemon::{Daemon, client_runtime},
    error::Doing as _,
    make_dir, options,
    report::{Limit, Report, Series, ms, number, print, progress},
    scratch,
};
use crate::{
    cli::{client::Client, output},
    engines::token_hashes::TokenHashes,
};

/// Tokens that there are.
const TOKENS: usize = 100;
/// Letters in which a near secret is wrong.
const LAST_LETTERS: usize = 8;
/// Secrets that are made before they are looked up.
const MADE_AT_A_TIME: u64 = 1_000;
/// |t| from which two classes count as told apart.
const T_MAX: f64 = 4.5;
/// The share of the slowest measurements that is cut off: interrupts are no signal.
const KEPT: f64 = 0.95;
/// Milliseconds after which a revoked token must be refused.
const REVOKED_MS_MAX: f64 = 1_000.0;
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures tokens.
#[derive(Debug, Parser)]
#[command(bin_name = "lakehouse bench access")]
struct Options {
    /// Look-ups that are timed
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    lookups: u64,
    /// Tokens that are revoked
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    revocations: u32,
    /// Where to write; a directory in it is made and removed [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the benchmark that `words` describe and returns its figures.
///
/// # Errors
/// [`BenchError`]. A missed gate is no error.
pub fn run(words: &[String]) -> Result<Value, BenchError> {
    let options: Options = options(words);
    let dir = scratch(options.dir.as_deref())?;
    let mut report = Report::new("access", dir.path());
    report.set(
        "options",
        json!({ "lookups": options.lookups, "revocations": options.revocations }),
    );
    let hashes = TokenHashes::open(&make_dir(dir.path(), "keys")?);
    let hashes = hashes.map_err(|error| BenchError::wrong("the key", error.to_string()))?;
    let secrets: Vec<String> = (0..TOKENS as u64).map(secret_of).collect();
    let access = with_tokens(&hashes, &secrets);
    let right = &secrets[TOKENS / 2];
    progress("access: timing of secrets");
    let now: Micros = 1;
    let t = told_apart(right, options.lookups, |shown| {
        hashes.token(&access, shown, now).is_some()
    });
    progress("access: timing of a look-up that leaks");
    let leaking = told_apart(right, options.lookups, |shown| leaks(&secrets, shown));
    let ends = client_runtime()?.block_on(revoked(
        &Daemon::start(&make_dir(dir.path(), "data")?)?,
        options.revocations,
    ))?;
    let rows = [
        vec!["|t| of near and far secrets".to_owned(), number(t)],
        vec!["|t| of a look-up that leaks".to_owned(), number(leaking)],
        vec![
            "revoked token refused after, ms (worst)".to_owned(),
            number(ends.max()),
        ],
    ];
    print(&output::table(&["access", "figure"], &rows))?;
    report.set("t", json!(t));
    report.set("t_of_a_leak", json!(leaking));
    report.set("revoked_ms", ends.json());
    report.gate("timing of secrets, |t|", t, Limit::AtMost(T_MAX));
    let what = "timing of a look-up that leaks, |t|";
    report.gate(what, leaking, Limit::AtLeast(T_MAX));
    let what = "a revoked token is refused after, ms (worst)";
    report.gate(what, ends.max(), Limit::AtMost(REVOKED_MS_MAX));
    report.finish()
}

/// Tokens of these secrets.
fn with_tokens(hashes: &TokenHashes, secrets: &[String]) -> AccessState {
    let mut access = AccessState::default();
    for (number, secret) in secrets.iter().enumerate() {
        let token = Token {
            id: number.to_string(),
            name: number.to_string(),
            role: Role::Analyst,
            secret_hash: hashes.of(secret),
            expires_at: None,
            issued_at: 0,
            revoked_at: None,
            views: Vec::new(),
            tools: Vec::new(),
            limits: None,
        };
        access
            .by_hash
            .insert(token.secret_hash.clone(), token.id.clone());
        access.tokens.insert(token.id.clone(), Arc::new(token));
    }
    access
}

/// What no look-up may be: every secret compared letter by letter, up to the first that is wrong.
fn leaks(secrets: &[String], shown: &str) -> bool {
    secrets.iter().any(|secret| {
        let mut letters = secret.bytes().zip(shown.bytes());
        letters.all(|(letter, shown)| letter == shown)
    })
}

/// |t| between look-ups of secrets that differ from the right one in the last letters, and of others.
fn told_apart(right: &str, lookups: u64, look_up: impl Fn(&str) -> bool) -> f64 {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut left = lookups;
    while left > 0 {
        // Made beforehand: what making them takes must not reach into what is timed.
        let shown: Vec<(usize, String)> = (0..left.min(MADE_AT_A_TIME))
            .map(|_| some_secret(right, &mut random))
            .collect();
        for (class, shown) in &shown {
            let clock = Instant::now();
            std::hint::black_box(look_up(std::hint::black_box(shown)));
            let nanos = u32::try_from(clock.elapsed().as_nanos()).unwrap_or(u32::MAX);
            times[*class].push(f64::from(nanos));
        }
        left -= shown.len() as u64;
    }
    let mut all: Vec<f64> = times.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of what was counted"
    )]
    let longest = all[((all.len() - 1) as f64 * KEPT) as usize];
    let [near, far] = times.map(|mut times| {
        times.retain(|time| *time <= longest);
        moments(&times)
    });
    let spread = (near.1 / near.2 + far.1 / far.2).sqrt();
    if spread == 0.0 {
        return 0.0;
    }
    ((near.0 - far.0) / spread).abs()
}

/// A secret as tokens have them, out of a number.
fn secret_of(number: u64) -> String {
    let digits = blake3::hash(&number.to_le_bytes()).to_hex();
    format!("lh_{}", &digits[..43])
}

/// A secret that begins as the right one does and is wrong in its last letters, or altogether; of the same
/// length, and hardly ever the same twice: what was looked up before is found sooner. With its class.
fn some_secret(right: &str, random: &mut u64) -> (usize, String) {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random
    };
    let class = usize::from(next() & (1 << 40) != 0);
    let letter = |number: u64| char::from(b'a' + u8::try_from(number % 26).unwrap_or_default());
    let last: String = (0..LAST_LETTERS).map(|_| letter(next())).collect();
    let far = secret_of(next());
    let begins = if class == 0 { right } else { &far };
    let kept = right.len() - LAST_LETTERS;
    (class, format!("{}{last}", &begins[..kept]))
}

/// Mean, variance and number.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
fn moments(values: &[f64]) -> (f64, f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (count - 1.0), count)
}

/// How long tokens are still let in after the answer that they are revoked, in milliseconds.
async fn revoked(daemon: &Daemon, revocations: u32) -> Result<Series, BenchError> {
    progress("access: revoked tokens");
    let admin = daemon.client();
    let mut ends = Series::default();
    for number in 0..revocations {
        let asked = json!({ "name": format!("t{number}"), "role": "analyst" });
        let issued = admin.post(&["auth", "tokens"], &asked).await;
        let issued = issued.doing("a token")?;
        let words = |name: &str| issued[name].as_str().unwrap_or_default().to_owned();
        let url = format!("http://{}", daemon.address());
        let client = Client::new(&url, Some(&words("secret"))).doing("connect")?;
        let datasets = ["catalog", "datasets"];
        client.get(&datasets, &[]).await.doing("its use")?;
        let id = words("id");
        let gone = admin.delete(&["auth", "tokens", id.as_str()]).await;
        gone.doing("its revocation")?;
        let clock = Instant::now();
        let mut last = Duration::ZERO;
        while client.get(&datasets, &[]).await.is_ok() {
            last = clock.elapsed();
            if last > PATIENCE {
                break;
            }
        }
        ends.push(ms(last));
    }
    Ok(ends)
}

//! `lakehouse erasure`: where a deleted row still is, the signed receipt that it is nowhere, and the
//! check of one. `verify` needs no daemon: whoever has a receipt and the key can do it.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{CliError, Connection, block_on, client::items, output};
use crate::engines::receipts::{
    ALGORITHM, ErasureReceipt, PlaceState, ReceiptError, Verified, verify,
};

/// The longest receipt that is read: a row with a million events.
const RECEIPT_BYTES_MAX: u64 = 64 << 20;
/// What names standard input.
const STANDARD_INPUT: &str = "-";

/// What `erasure` takes.
#[derive(Debug, Args)]
pub(super) struct ErasureArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a receipt, without a daemon; the exit status is 1 when it proves nothing
    Verify {
        /// The receipt's file, or - for standard input
        #[arg(value_name = "RECEIPT.json")]
        receipt: PathBuf,
        /// The public key that it must be signed by, as `erasure key` prints it
        #[arg(long, value_name = "HEX")]
        key: Option<String>,
    },
    /// Show the public key that the daemon signs receipts with
    Key {
        #[command(flatten)]
        connection: Connection,
    },
    /// Show in which places a deleted row is looked for, and what is there of it
    Show {
        #[command(flatten)]
        connection: Connection,
        /// The dataset
        dataset: String,
        /// The row's key
        key: String,
        /// Write the signed receipt to this file; there is one when the row is erased
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl ErasureArgs {
    pub(super) fn run(self) -> Result<(), CliError> {
        match self.action {
            Action::Verify { receipt, key } => check(&receipt, key.as_deref()),
            Action::Key { connection } => block_on(show_key(connection)),
            Action::Show {
                connection,
                dataset,
                key,
                out,
            } => block_on(show(connection, dataset, key, out)),
        }
    }
}

fn check(path: &Path, key: Option<&str>) -> Result<(), CliError> {
    let document =
        read(path).map_err(|error| CliError::Failed(format!("`{}`: {error}", path.display())))?;
    let proven = proven(&document, key).map_err(|error| match error {
        ReceiptError::BadExpectedKey => CliError::Usage(error.to_string()),
        error => CliError::Failed(format!("the receipt proves nothing: {error}")),
    })?;
    write!(io::stdout().lock(), "{proven}")?;
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let source: Box<dyn Read> = if path.as_os_str() == STANDARD_INPUT {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(path)?)
    };
    let mut document = Vec::new();
    source
        .take(RECEIPT_BYTES_MAX + 1)
        .read_to_end(&mut document)?;
    if document.len() as u64 > RECEIPT_BYTES_MAX {
        return Err(io::Error::other("longer than any receipt"));
    }
    Ok(document)
}

/// What a document proves, in a few lines.
fn proven(document: &[u8], key: Option<&str>) -> Result<String, ReceiptError> {
    let verified = verify(document, key)?;
    let receipt = ErasureReceipt::read(&verified.receipt)?;
    Ok(told(&verified, &receipt, key.is_some()))
}

fn told(verified: &Verified, receipt: &ErasureReceipt, key_was_given: bool) -> String {
    let ErasureReceipt {
        dataset,
        dataset_id,
        tombstoned_at,
        tombstone_seq,
        reason,
        actor,
        erased_at,
        erased_seq,
        journal_seq,
        journal_head_hash,
        issued_at,
        ..
    } = receipt;
    let key = match (&receipt.row_key, &receipt.row_key_hash) {
        (Some(key), _) => key.clone(),
        (None, Some(hash)) => format!("(hash) {hash}"),
        (None, None) => "(not named)".to_owned(),
    };
    let signer = &verified.key;
    let lines = [
        ("dataset", format!("{dataset} ({dataset_id})")),
        ("key", key),
        (
            "deleted",
            format!("{tombstoned_at} by {actor}, event {tombstone_seq}: {reason}"),
        ),
        ("erased", format!("{erased_at}, event {erased_seq}")),
        ("places", places(receipt)),
        (
            "issued",
            format!("{issued_at} at event {journal_seq}, hash {journal_head_hash}"),
        ),
        (
            "signed by",
            format!("{ALGORITHM} key {} ({})", signer.key_id, signer.hex),
        ),
    ];
    let mut text = String::from("ok: the signature fits, nothing was changed\n");
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<10} {}", output::clean(&value));
    }
    if !key_was_given {
        text.push_str(
            "The key is the document's own: compare it with GET /compliance/key of the lakehouse \
             (`lakehouse erasure key`), or give it with --key.\n",
        );
    }
    text
}

/// How many places there are, and each with its state unless nothing is there.
fn places(receipt: &ErasureReceipt) -> String {
    let all = receipt.places.iter().map(|place| {
        let state = match place.state {
            PlaceState::Absent => String::new(),
            other => format!(" {}", other.as_str().to_uppercase()),
        };
        format!("{}{state} ({} checked)", place.place, place.checked)
    });
    let absent = receipt.places.iter();
    let absent = absent.filter(|place| place.state == PlaceState::Absent);
    let listed = all.collect::<Vec<_>>().join(", ");
    format!(
        "absent from {} of {}: {listed}",
        absent.count(),
        receipt.places.len()
    )
}

async fn show_key(connection: Connection) -> Result<(), CliError> {
    let answer = connection
        .client()?
        .get(&["compliance", "key"], &[])
        .await?;
    let mut out = io::stdout().lock();
    for field in ["algorithm", "public_key", "key_id", "created_at"] {
        if !answer[field].is_null() {
            let value = output::clean(&output::cell(&answer[field]));
            writeln!(out, "{field:<10} {value}")?;
        }
    }
    Ok(())
}

async fn show(
    connection: Connection,
    dataset: String,
    key: String,
    out: Option<PathBuf>,
) -> Result<(), CliError> {
    let path = ["compliance", "erasure", &dataset, &key];
    let answer = connection.client()?.get(&path, &[]).await?;
    writeln!(io::stdout().lock(), "{}", state_text(&answer))?;
    if let Some(file) = out {
        keep(&answer, &file)?;
        writeln!(io::stdout().lock(), "receipt written to {}", file.display())?;
    }
    Ok(())
}

/// Whether the row is erased, and its places as a table.
fn state_text(answer: &Value) -> String {
    let columns = ["place", "state", "checked", "detail"];
    let row = |place: &Value| {
        let cells = columns.iter().map(|column| output::cell(&place[*column]));
        cells.collect()
    };
    let rows: Vec<Vec<String>> = items(&answer["places"]).iter().map(row).collect();
    let word = |name: &str| output::clean(&output::cell(&answer[name]));
    let state = if answer["erased"] == true {
        "erased"
    } else {
        "not erased yet"
    };
    format!(
        "{}\n`{}`, deleted {}: {state}",
        output::table(&columns, &rows),
        word("key"),
        word("tombstoned_at"),
    )
}

/// Writes the receipt of an answer to a file.
fn keep(answer: &Value, file: &Path) -> Result<(), CliError> {
    let signed = &answer["signed"];
    if signed.is_null() {
        let text = "there is no receipt, because the row is not erased yet";
        return Err(CliError::Failed(text.to_owned()));
    }
    std::fs::write(file, format!("{signed:#}\n"))
        .map_err(|error| CliError::Failed(format!("`{}`: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engines::receipts::SigningKey;

    fn receipt() -> Value {
        json!({
            "version": 1, "dataset": "people", "dataset_id": "d1", "row_key": "4\n2",
            "tombstoned_at": "2026-01-01T00:00:00.000000Z", "tombstone_seq": 17,
            "reason": "they asked", "actor": "admin",
            "erased_at": "2026-01-01T00:00:09.000000Z", "erased_seq": 21,
            "places": [
                {"place": "files", "state": "absent", "checked": 3},
                {"place": "spill", "state": "hidden", "checked": 1, "detail": "swept at start"},
            ],
            "events": [17, 21], "journal_seq": 40, "journal_head_hash": "abcd",
            "issued_at": "2026-01-02T00:00:00.000000Z",
        })
    }

    fn signed(receipt: &Value) -> (tempfile::TempDir, SigningKey, Value) {
        let dir = tempfile::tempdir().expect("a directory");
        let key = SigningKey::open_or_make(dir.path()).expect("a key");
        let signed = key.sign(receipt).expect("it has no fraction");
        let document = serde_json::to_value(signed).expect("it is JSON");
        (dir, key, document)
    }

    #[test]
    fn what_is_proven_is_told_in_a_few_lines() {
        let (_dir, key, document) = signed(&receipt());
        let document = document.to_string();
        let text = proven(document.as_bytes(), None).expect("it verifies");
        for part in [
            "ok: ",
            "dataset    people (d1)\n",
            "key        4 2\n",
            "deleted    2026-01-01T00:00:00.000000Z by admin, event 17: they asked\n",
            "erased     2026-01-01T00:00:09.000000Z, event 21\n",
            "places     absent from 1 of 2: files (3 checked), spill HIDDEN (1 checked)\n",
            "at event 40, hash abcd\n",
            &key.public_key().key_id,
            &key.public_key().hex,
            "the document's own",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let expected = Some(key.public_key().hex.as_str());
        let text = proven(document.as_bytes(), expected).expect("it verifies");
        assert!(!text.contains("document's own"), "{text}");
    }

    #[test]
    fn a_hashed_key_is_shown_as_one() {
        let mut hashed = receipt();
        let members = hashed.as_object_mut().expect("an object");
        members.remove("row_key");
        members.insert("row_key_hash".to_owned(), json!("beef"));
        let (_dir, _key, document) = signed(&hashed);
        let text = proven(document.to_string().as_bytes(), None).expect("it verifies");
        assert!(text.contains("key        (hash) beef\n"), "{text}");
    }

    #[test]
    fn a_signature_over_something_else_proves_no_erasure() {
        let (_dir, _key, document) = signed(&json!({ "version": 1, "paid": true }));
        let error = proven(document.to_string().as_bytes(), None).expect_err("no receipt");
        assert!(matches!(error, ReceiptError::NoErasure(_)), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_ends_with_status_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("receipt.json");
        let error = check(&path, None).expect_err("it is not there");
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("receipt.json"), "{error}");
        let (_dir, _key, mut document) = signed(&receipt());
        document["receipt"]["row_key"] = json!("43");
        std::fs::write(&path, document.to_string()).expect("it is ours");
        let error = check(&path, None).expect_err("it was changed");
        assert_eq!(error.exit_code(), 1);
        assert_eq!(
            error.to_string(),
            "the receipt proves nothing: the signature does not fit: the receipt is not what was signed"
        );
        let error = check(&path, Some("no key")).expect_err("the key is none");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_receipt_of_an_answer_is_kept_as_it_can_be_verified() {
        let (_dir, key, document) = signed(&receipt());
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("receipt.json");
        let answer = json!({
            "key": "42", "tombstoned_at": "2026-01-01T00:00:00.000000Z", "erased": true,
            "places": receipt()["places"], "events": [], "signed": document,
        });
        keep(&answer, &file).expect("it is written");
        check(&file, Some(&key.public_key().hex)).expect("it verifies");
        let text = state_text(&answer);
        assert!(text.ends_with("`42`, deleted 2026-01-01T00:00:00.000000Z: erased"));
        assert!(
            text.contains("files") && text.contains("swept at start"),
            "{text}"
        );
    }

    #[test]
    fn there_is_no_receipt_before_the_row_is_erased() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("receipt.json");
        let answer = json!({"key": "42", "erased": false, "places": [], "signed": null});
        assert!(state_text(&answer).ends_with("not erased yet"));
        let error = keep(&answer, &file).expect_err("there is none");
        assert_eq!(error.exit_code(), 1);
        assert!(!file.exists());
    }
}

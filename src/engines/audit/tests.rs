//! The audit is there before it is told so, goes on after a crash, and shows what was changed in it.

use std::{fs, path::Path};

use super::*;

const SECRET: [u8; 32] = [7; 32];

fn entry(principal: &str, object: &str, key: &str) -> AuditEntry {
    AuditEntry {
        principal: principal.to_owned(),
        role: "agent".to_owned(),
        action: "query".to_owned(),
        objects: vec![object.to_owned()],
        rows: Some(1),
        row_keys: vec![entry::SeenRows {
            dataset: "id-1".to_owned(),
            keys: vec![key.to_owned()],
        }],
        allowed: object != "secret",
        request_id: "r".to_owned(),
        ..AuditEntry::default()
    }
}

async fn filled(dir: &Path, lines: u64) -> AuditLog {
    let log = AuditLog::open(dir, SECRET).unwrap();
    for at in 1..=lines {
        let line = entry("ada", "safe", &format!("k{at}"));
        let seq = log.append(i64::try_from(at).unwrap(), line).await;
        assert_eq!(seq.unwrap(), at);
    }
    log
}

fn all() -> AuditFilter {
    AuditFilter {
        limit: 1000,
        ..AuditFilter::default()
    }
}

fn only_segment(dir: &Path) -> PathBuf {
    let segments = files::segments(dir).unwrap();
    assert_eq!(segments.len(), 1);
    segments[0].clone()
}

#[tokio::test]
async fn lines_are_found_newest_first_by_whom_what_when_and_which_row() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 5).await;
    log.append(6, entry("eve", "secret", "k3")).await.unwrap();
    let numbers = async |filter: AuditFilter| -> Vec<u64> {
        let lines = log.read(filter).await.unwrap();
        lines.iter().map(|line| line.seq).collect()
    };
    assert_eq!(numbers(all()).await, [6, 5, 4, 3, 2, 1]);
    let by = |change: &dyn Fn(&mut AuditFilter)| {
        let mut filter = all();
        change(&mut filter);
        filter
    };
    assert_eq!(numbers(by(&|f| f.limit = 2)).await, [6, 5]);
    assert_eq!(numbers(by(&|f| f.before = Some(3))).await, [2, 1]);
    assert_eq!(
        numbers(by(&|f| f.principal = Some("eve".into()))).await,
        [6]
    );
    assert_eq!(
        numbers(by(&|f| f.object = Some("secret".into()))).await,
        [6]
    );
    assert_eq!(numbers(by(&|f| f.allowed = Some(false))).await, [6]);
    assert_eq!(numbers(by(&|f| f.since = Some(5))).await, [6, 5]);
    assert_eq!(numbers(by(&|f| f.until = Some(2))).await, [2, 1]);
    let row = by(&|f| f.row = Some(("id-1".into(), "k3".into())));
    assert_eq!(numbers(row).await, [6, 3], "who has seen this row");
}

#[tokio::test]
async fn it_goes_on_where_it_ended_and_cuts_off_what_a_crash_left_of_a_line() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3).await);
    let whole = fs::read(only_segment(dir.path())).unwrap();
    let last = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n');
    for torn in [whole.len() - 1, last.unwrap() + 2, last.unwrap() + 1] {
        fs::write(only_segment(dir.path()), &whole[..torn]).unwrap();
        let log = AuditLog::open(dir.path(), SECRET).unwrap();
        assert_eq!(log.append(9, entry("eve", "safe", "k")).await.unwrap(), 3);
        let verified = log.verify().await.unwrap();
        assert!(verified.ok && verified.checked == 3, "{verified:?}");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_and_the_damaged_audit_takes_no_line() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3).await);
    let path = only_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() - 1 {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let verified = chain::verify(dir.path()).unwrap();
        assert!(!verified.ok, "bit in byte {at}");
    }
    let mut changed = whole.clone();
    changed[100] ^= 1;
    fs::write(&path, &changed).unwrap();
    let log = AuditLog::open(dir.path(), SECRET).unwrap();
    let refused = log.append(9, entry("eve", "safe", "k")).await;
    assert!(matches!(refused, Err(AuditError::Closed)));
    let broken = log.verify().await.unwrap().broken.unwrap();
    assert_eq!(broken.seq, 1);
}

#[tokio::test]
async fn a_line_that_is_taken_out_or_put_in_is_found() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 4).await);
    let path = only_segment(dir.path());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for order in [vec![0, 2, 3], vec![0, 1, 1, 2, 3], vec![1, 0, 2, 3]] {
        let changed: String = order.iter().flat_map(|at| [lines[*at], "\n"]).collect();
        fs::write(&path, changed).unwrap();
        assert!(!chain::verify(dir.path()).unwrap().ok, "{order:?}");
    }
    // One who knows the format can write a line with a good hash, but not one that the next line follows.
    let (_, json) = files::parts(lines[1]).unwrap();
    let forged = json.replace("ada", "eve");
    let (forged, _) = chain::Head::line(&forged);
    fs::write(&path, format!("{}\n{forged}{}\n", lines[0], lines[2])).unwrap();
    let broken = chain::verify(dir.path()).unwrap().broken.unwrap();
    assert_eq!(broken.seq, 3);
}

#[tokio::test]
async fn after_a_write_that_failed_nothing_is_taken_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit");
    let mut writer = Writer::open(&audit).unwrap();
    writer.fail_from_now_on();
    let (jobs, waiting) = mpsc::channel(8);
    let thread = std::thread::spawn(move || writer.run(waiting));
    let log = AuditLog {
        dir: audit.clone(),
        secret: SECRET,
        seal: Seal::new(&SECRET),
        written: Arc::default(),
        jobs,
    };
    for _ in 0..2 {
        let refused = log.append(1, entry("ada", "safe", "k")).await;
        assert!(matches!(refused, Err(AuditError::Closed)));
    }
    drop(log);
    thread.join().unwrap();
}

#[test]
fn a_hash_is_of_one_row_of_one_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), SECRET).unwrap();
    let other = AuditLog::open(&dir.path().join("other"), [8; 32]).unwrap();
    assert_eq!(log.row_hash("a", "bc"), log.row_hash("a", "bc"));
    assert_ne!(log.row_hash("a", "bc"), log.row_hash("ab", "c"));
    assert_ne!(log.row_hash("a", "bc"), other.row_hash("a", "bc"));
    assert_ne!(
        log.statement_hash("SELECT 1"),
        log.statement_hash("SELECT 2")
    );
}

#[tokio::test]
async fn two_hundred_flipped_bytes_of_a_running_audit_are_found_its_last_one_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 40).await;
    let path = only_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    let mut places: Vec<usize> = (0..199).map(|at| at * whole.len() / 199).collect();
    places.push(whole.len() - 1);
    for at in places {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&path, &changed).unwrap();
        let verified = log.verify().await.unwrap();
        assert!(!verified.ok, "byte {at} of {}", whole.len());
    }
    fs::write(&path, &whole).unwrap();
    assert!(log.verify().await.unwrap().ok);
}

#[tokio::test]
async fn the_line_of_a_receipt_is_found_again_and_no_other_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 3).await;
    let id = log.receipt_id();
    let told = AuditEntry {
        receipt: Some(id.clone()),
        sealed: log.seal(&id, "SELECT 1"),
        ..entry("ada", "safe", "k")
    };
    let rest = AuditEntry {
        goes_on: true,
        ..told.clone()
    };
    log.append(4, rest).await.unwrap();
    log.append(5, told).await.unwrap();
    let line = log.receipt(&id).await.unwrap().unwrap();
    assert_eq!(line.seq, 5);
    let sealed = line.entry.sealed.unwrap();
    assert_eq!(log.unseal(&id, &sealed).as_deref(), Some("SELECT 1"));
    for other in ["r1-00", "r9-00", "nonsense", ""] {
        assert!(log.receipt(other).await.unwrap().is_none(), "{other}");
    }
}

#[tokio::test]
async fn who_may_have_seen_a_row_is_found_and_who_was_refused_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), SECRET).unwrap();
    let unnamed = AuditEntry {
        row_keys: Vec::new(),
        unnamed: vec!["id-1".to_owned()],
        ..entry("ada", "safe", "")
    };
    let refused = AuditEntry {
        allowed: false,
        ..unnamed.clone()
    };
    log.append(1, unnamed).await.unwrap();
    log.append(2, refused).await.unwrap();
    let filter = AuditFilter {
        row: Some(("id-1".to_owned(), "k".to_owned())),
        ..all()
    };
    let lines = log.read(filter).await.unwrap();
    assert_eq!(lines.len(), 1);
    assert!(!lines[0].entry.names("id-1", "k"), "possibly");
}

//! The chain: every line is hashed and names the hash of the one before. Follows it and says where it
//! breaks: a changed, missing or foreign line does break it. Lines cut off at the very end are missed by the
//! daemon that wrote them; after a restart only by whoever kept an older answer, which says how many there were.

use std::{io, path::Path};

use serde::Serialize;

use super::{
    entry::AuditLine,
    files::{lines, parts, segments},
};

/// What following the chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether every line is as it was written.
    pub ok: bool,
    /// Lines that are.
    pub checked: u64,
    /// Hash (hex) of the last of them.
    pub head: String,
    /// The first that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

impl Verified {
    /// The same, and broken if it ends before this line.
    pub(super) fn reaching(mut self, last: u64) -> Self {
        if self.ok && self.checked < last {
            self.ok = false;
            self.broken = Some(Broken {
                seq: self.checked + 1,
                reason: "lines at the end are missing",
            });
        }
        self
    }
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The number that the line should have.
    pub seq: u64,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The end of a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Number of the last line; 0 before the first.
    pub seq: u64,
    /// Its hash (hex).
    pub hash: String,
}

impl Head {
    /// The text of the line that follows, with its end.
    pub(super) fn line(json: &str) -> (String, String) {
        let hash = blake3::hash(json.as_bytes()).to_hex().to_string();
        (format!("{hash} {json}\n"), hash)
    }

    /// Goes on to a line, or says why it is not the next one.
    pub(super) fn follow(&mut self, line: &str) -> Result<(), &'static str> {
        let (hash, json) = parts(line).ok_or("it is no line of the audit")?;
        if blake3::hash(json.as_bytes()).to_hex().as_str() != hash {
            return Err("its text is not the one that was hashed");
        }
        let line: AuditLine =
            serde_json::from_str(json).map_err(|_| "it is no entry of the audit")?;
        if line.seq != self.seq + 1 {
            return Err("lines before it are missing");
        }
        if line.previous != self.hash {
            return Err("it follows another line than the one before it");
        }
        self.seq = line.seq;
        hash.clone_into(&mut self.hash);
        Ok(())
    }
}

/// Follows the chain through all segments.
pub(super) fn verify(dir: &Path) -> io::Result<Verified> {
    let mut head = Head::default();
    for segment in segments(dir)? {
        for line in lines(&segment)? {
            if let Err(reason) = head.follow(&line?) {
                let seq = head.seq + 1;
                return Ok(verified(head, Some(Broken { seq, reason })));
            }
        }
    }
    Ok(verified(head, None))
}

fn verified(head: Head, broken: Option<Broken>) -> Verified {
    Verified {
        ok: broken.is_none(),
        checked: head.seq,
        head: head.hash,
        broken,
    }
}

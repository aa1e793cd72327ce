//! What a signed receipt is worth: nobody changes a sign of it unseen, and each thing that is wrong
//! with a document has words of its own.

use super::*;

fn key() -> (tempfile::TempDir, SigningKey) {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::open_or_make(dir.path()).unwrap();
    (dir, key)
}

fn receipt() -> ErasureReceipt {
    ErasureReceipt {
        version: RECEIPT_VERSION,
        dataset: "people".to_owned(),
        dataset_id: "d1".to_owned(),
        row_key: Some("4/2 ä".to_owned()),
        row_key_hash: None,
        tombstoned_at: "2026-01-01T00:00:00.000000Z".to_owned(),
        tombstone_seq: 17,
        reason: "they asked".to_owned(),
        actor: "admin".to_owned(),
        erased_at: "2026-01-01T00:00:09.000000Z".to_owned(),
        erased_seq: 21,
        places: vec![PlaceChecked {
            place: "files".to_owned(),
            state: PlaceState::Absent,
            checked: 3,
            detail: None,
        }],
        events: vec![17, 19, 21],
        journal_seq: 40,
        journal_head_hash: "ab".repeat(32),
        issued_at: "2026-01-02T00:00:00.000000Z".to_owned(),
    }
}

fn signed(key: &SigningKey) -> Value {
    let receipt = serde_json::to_value(receipt()).unwrap();
    serde_json::to_value(key.sign(&receipt).unwrap()).unwrap()
}

fn checked(document: &Value, expected: Option<&str>) -> Result<Verified, ReceiptError> {
    verify(&serde_json::to_vec_pretty(document).unwrap(), expected)
}

#[test]
fn a_receipt_verifies_in_any_layout_and_says_what_was_signed() {
    let (_dir, key) = key();
    let document = signed(&key);
    let public = key.public_key();
    let verified = checked(&document, Some(&public.hex.to_uppercase())).unwrap();
    assert_eq!(verified.key, *public);
    assert_eq!(ErasureReceipt::read(&verified.receipt).unwrap(), receipt());
    assert!(verify(document.to_string().as_bytes(), None).is_ok());
    let mut turned = Map::new();
    for (name, member) in document.as_object().unwrap().iter().rev() {
        turned.insert(name.clone(), member.clone());
    }
    assert!(
        checked(&turned.into(), None).is_ok(),
        "the order of members"
    );
    assert_eq!(public.hex.len(), 64);
    let hash = blake3::hash(&from_hex::<32>(&public.hex).unwrap()).to_hex();
    assert_eq!(public.key_id, hash[..16]);
}

#[test]
fn every_change_of_the_receipt_is_seen() {
    let (_dir, key) = key();
    let document = signed(&key);
    for (field, value) in [
        ("row_key", json!("43")),
        ("dataset", json!("People")),
        ("erased_seq", json!(22)),
        ("places", json!([])),
        ("version", json!("1")),
        ("extra", json!(null)),
    ] {
        let mut changed = document.clone();
        changed["receipt"][field] = value;
        let error = checked(&changed, None).unwrap_err();
        assert_eq!(error, ReceiptError::SignatureMismatch, "{field}");
    }
    let text = document.to_string();
    let mut seen = 0;
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        seen += usize::from(verify(&bytes, Some(&key.public_key().hex)).is_ok());
    }
    // A digit of hex in upper case would be the same bytes; one flipped bit never makes that.
    assert_eq!(seen, 0, "flips of one bit that nobody sees");
}

#[test]
fn what_is_wrong_with_a_document_is_said() {
    let (_dir, key) = key();
    let good = signed(&key);
    let with = |field: &str, value: Value| {
        let mut document = good.clone();
        document[field] = value;
        checked(&document, None).unwrap_err().to_string()
    };
    for field in MEMBERS {
        let mut document = good.clone();
        document.as_object_mut().unwrap().shift_remove(field);
        let said = checked(&document, None).unwrap_err().to_string();
        assert_eq!(said, format!("the document has no `{field}`"));
    }
    for text in ["", "no receipt", "[]", "{\"receipt\":{},\"receipt\":{}}"] {
        let error = verify(text.as_bytes(), None).unwrap_err();
        assert!(matches!(error, ReceiptError::NotJson(_)), "{text}: {error}");
    }
    assert_eq!(
        with("algorithm", json!("none")),
        "the algorithm `none` is not known, only `Ed25519` is"
    );
    assert_eq!(with("algorithm", json!(1)), "`algorithm` is not a text");
    assert_eq!(
        with("public_key", json!("ab")),
        "`public_key` is not 64 hex digits"
    );
    assert_eq!(
        with("signature", json!("x".repeat(128))),
        "`signature` is not 128 hex digits"
    );
    assert!(with("key_id", json!("0")).starts_with("`key_id` is `0`, but"));
    assert!(with("note", json!("erased")).contains("`note`"));
    let fraction = with("receipt", json!({ "version": 1.5 }));
    assert!(
        fraction.starts_with("`1.5` is no whole number"),
        "{fraction}"
    );
    assert_eq!(
        with("signature", json!("0".repeat(128))),
        "the signature does not fit: the receipt is not what was signed"
    );
    assert_eq!(
        checked(&good, Some("beef")).unwrap_err(),
        ReceiptError::BadExpectedKey
    );
}

#[test]
fn a_receipt_signed_by_somebody_else_is_not_the_expected_one() {
    let ((_dir, key), (_other_dir, other)) = (key(), key());
    let forged = signed(&other);
    assert!(checked(&forged, None).is_ok(), "it has its own key");
    let expected = &key.public_key().hex;
    let error = checked(&forged, Some(expected)).unwrap_err();
    assert!(matches!(error, ReceiptError::OtherKey { .. }), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
    let mut claimed = forged;
    claimed["public_key"] = json!(expected);
    claimed["key_id"] = json!(key.public_key().key_id);
    let error = checked(&claimed, Some(expected)).unwrap_err();
    assert_eq!(error, ReceiptError::SignatureMismatch);
}

#[test]
fn fractions_are_not_signed() {
    let (_dir, key) = key();
    let error = key.sign(&json!({ "checked": [0.5] })).unwrap_err();
    assert_eq!(error, ReceiptError::Float("0.5".to_owned()));
}

#[test]
fn a_receipt_of_another_kind_or_version_is_told_apart() {
    let newer = ErasureReceipt::read(&json!({ "version": 2 })).unwrap_err();
    assert_eq!(
        newer.to_string(),
        "the receipt has version 2, and this program reads version 1"
    );
    for other in [json!({}), json!({ "version": 1 }), json!("x")] {
        let error = ErasureReceipt::read(&other).unwrap_err();
        assert!(matches!(error, ReceiptError::NoErasure(_)), "{error}");
    }
    let shown = serde_json::to_value(receipt()).unwrap();
    assert_eq!(shown["places"][0]["state"], "absent");
    assert!(shown.get("row_key_hash").is_none(), "absent, not null");
}

/// The first test of RFC 8032, section 7.1: the empty message.
#[test]
fn the_algorithm_is_that_of_the_standard() {
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
    let public = from_hex::<32>(public).unwrap();
    let signature = from_hex::<64>(signature).unwrap();
    let verifier = UnparsedPublicKey::new(&ED25519, public);
    verifier.verify(b"", &signature).unwrap();
    assert!(verifier.verify(b" ", &signature).is_err());
}

//! What the door of the vector engines lets in and what it refuses.

use super::*;

fn chunk<'a>(keys: &'a [String], vectors: &'a [f32]) -> Chunk<'a> {
    Chunk {
        keys,
        texts: None,
        vectors,
    }
}

#[test]
fn bad_vectors_are_refused_at_the_door_by_key() {
    let keys = ["a".to_owned(), "b".to_owned()];
    let check = |vectors: &[f32], metric| chunk(&keys, vectors).check(2, metric);
    assert!(check(&[1.0, 0.0, 0.0, 1.0], Metric::Cosine).is_ok());
    assert!(matches!(
        check(&[1.0, 0.0, 0.0], Metric::Cosine),
        Err(VectorError::Shape {
            rows: 2,
            numbers: 3,
            ..
        })
    ));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = check(&[1.0, 0.0, 0.0, bad], Metric::L2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "vector of key `b` holds a number that is not finite at position 1"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let error = check(&[1.0, 0.0, 0.0, 0.0], Metric::Cosine).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vector of key `b` is all zeros, which has no cosine"
    );
    assert!(check(&[1.0, 0.0, 0.0, 0.0], Metric::Dot).is_ok());
    assert!(matches!(
        check_vector(&[1.0], 2, Metric::Dot),
        Err(VectorError::Dimensions {
            expected: 2,
            found: 1,
            ..
        })
    ));
}

#[test]
fn texts_must_be_as_many_as_keys() {
    let keys = ["a".to_owned()];
    let chunk = Chunk {
        keys: &keys,
        texts: Some(&[]),
        vectors: &[1.0],
    };
    assert!(matches!(
        chunk.check(1, Metric::Dot),
        Err(VectorError::Shape { texts: 0, .. })
    ));
}

#[test]
fn a_configuration_out_of_range_names_its_field() {
    let config = HnswConfig {
        connectivity: 1,
        ..HnswConfig::default()
    };
    let error = config.validate().unwrap_err();
    assert_eq!(
        error.to_string(),
        "index configuration: `connectivity` is 1, must be 2 to 256"
    );
    assert!(HnswConfig::default().validate().is_ok());
}

#[test]
fn a_configuration_is_read_by_either_name_and_an_unknown_one_is_refused() {
    let config: HnswConfig =
        serde_json::from_str(r#"{"ef_construction": 200, "quantization": "i8"}"#).unwrap();
    assert_eq!(
        (config.expansion_add, config.quantization),
        (200, Quantization::I8)
    );
    assert!(serde_json::from_str::<HnswConfig>(r#"{"ef": 200}"#).is_err());
}

#[test]
fn the_number_of_visible_rows_is_known_or_well_estimated() {
    let set: RoaringBitmap = (0..50).chain(5_000..5_050).collect();
    assert_eq!(Visible::All.estimate(100), 100);
    assert_eq!(Visible::Except(&set).estimate(100), 50);
    assert_eq!(Visible::Only(&set).estimate(100), 50);
    assert_eq!(Visible::Where(&|slot| slot < 7).estimate(100), 7);
    let estimate = Visible::Where(&|slot| slot % 100 < 10).estimate(1_000_000);
    assert!((80_000..120_000).contains(&estimate), "{estimate}");
}

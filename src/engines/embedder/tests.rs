//! The static embedder against its reference vectors, its tokeniser against arbitrary text.

use lakehouse_kernels::wordpiece::ROWS_PER_CARRY;
use proptest::prelude::*;

use super::*;

/// The bits of a vector: equal means equal on every machine.
fn bits(text: &str) -> Vec<u32> {
    embed(text).iter().map(|value| value.to_bits()).collect()
}

fn embed(text: &str) -> [f32; DIMENSIONS] {
    StaticEmbedder::built_in()
        .embed(text)
        .expect("a text with a known word")
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// blake3 of the vector's little-endian bytes, cut to 8 characters.
fn fingerprint(text: &str) -> String {
    let Some(vector) = StaticEmbedder::built_in().embed(text) else {
        return "none".to_owned();
    };
    let bytes: Vec<u8> = vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    blake3::hash(&bytes).to_hex()[..8].to_owned()
}

#[test]
fn the_same_text_has_the_same_bits_on_every_machine() {
    let golden = [
        ("wine", "15c7ef1e"),
        ("The quick brown fox jumps over the lazy dog.", "aad319f1"),
        (
            "Senior Rust engineer, 8 years; PostgreSQL & Kafka",
            "49c3b14c",
        ),
        ("Crème brûlée à la carte", "d08cd71d"),
        ("Ärger über Öl in Zürich", "93d0a3da"),
        ("naïve façade résumé", "060fb427"),
        ("東京タワー", "9e2d1d31"),
        ("北京 university", "89c3d560"),
        ("hello 😀 world", "b3f5eff4"),
        ("family 👨‍👩‍👧 picnic 🎉", "8c56069f"),
        ("don't   panic\n\t(42.5%)", "cbac05e3"),
        ("телефон και भारत", "7d625bd1"),
        ("한국어 text", "e87b7482"),
        ("\u{1F9FF}", "none"),
        ("unbelievably electroencephalographically", "16746370"),
        ("İstanbul ﬁne", "81203cea"),
    ];
    let found = golden.map(|(text, _)| (text, fingerprint(text)));
    assert_eq!(
        found
            .each_ref()
            .map(|(text, print)| (*text, print.as_str())),
        golden
    );
}

#[test]
fn a_paraphrase_without_a_shared_word_is_nearer_than_the_rest() {
    let pairs = [
        ("repairs cars", "automobile mechanic"),
        ("a physician treats patients", "doctor at the hospital"),
        ("prepares meals in a restaurant", "chef cooking food"),
        ("teaches children", "school instructor for kids"),
        ("flies airplanes", "pilot of an aircraft"),
        ("writes software", "computer programmer"),
        ("guards prisoners", "jail officer"),
        ("sells houses", "real estate agent"),
    ];
    for (index, (query, _)) in pairs.iter().enumerate() {
        let query = embed(query);
        let nearest = (0..pairs.len()).max_by(|&a, &b| {
            dot(&query, &embed(pairs[a].1)).total_cmp(&dot(&query, &embed(pairs[b].1)))
        });
        assert_eq!(nearest, Some(index), "{:?}", pairs[index]);
    }
}

#[test]
fn the_vector_has_length_one_and_order_of_words_does_not_matter() {
    let vector = embed("red wine from Bordeaux");
    assert!((dot(&vector, &vector) - 1.0).abs() < 1e-6);
    assert_eq!(
        bits("red wine from Bordeaux"),
        bits("bordeaux FROM wine, red".replace(',', "").as_str())
    );
}

#[test]
fn a_text_without_a_known_word_has_no_vector() {
    let embedder = StaticEmbedder::built_in();
    for text in ["", "   ", "\u{1F9FF}", "\u{0}\u{1}", &"x".repeat(101)] {
        assert_eq!(embedder.embed(text), None, "{text:?}");
    }
}

#[test]
fn an_unknown_word_is_skipped_and_changes_nothing() {
    assert_eq!(bits("good \u{1F9FF} wine"), bits("good wine"));
    assert_eq!(
        bits(&format!("good {} wine", "x".repeat(101))),
        bits("good wine")
    );
    assert_ne!(
        bits(&format!("good {} wine", "x".repeat(100))),
        bits("good wine")
    );
}

#[test]
fn words_split_into_the_longest_known_pieces() {
    let embedder = StaticEmbedder::built_in();
    let split = |word: &str| {
        let mut pieces = Vec::new();
        let known = embedder.vocabulary().split(word, &mut pieces);
        let lines: Vec<&str> = VOCABULARY.lines().collect();
        (
            known,
            pieces
                .iter()
                .map(|&token| lines[token as usize])
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(split("unaffable"), (true, vec!["una", "##ffa", "##ble"]));
    assert_eq!(
        split("embeddings"),
        (true, vec!["em", "##bed", "##ding", "##s"])
    );
    assert_eq!(
        split("telecommunications"),
        (true, vec!["telecommunications"])
    );
    assert!(!split("\u{1F9FF}").0);
}

#[test]
fn a_text_of_more_tokens_than_one_carry_holds_is_exact_enough() {
    let long = "wine ".repeat(ROWS_PER_CARRY + 7);
    assert_eq!(bits(&long), bits("wine"));
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    assert!(StaticModel::parse(&WEIGHTS[..WEIGHTS.len() - 1], VOCABULARY).is_err());
    assert!(StaticModel::parse(WEIGHTS, &VOCABULARY[..VOCABULARY.len() / 2]).is_err());
    assert!(StaticModel::parse(b"LHSE", VOCABULARY).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_text_gives_a_unit_vector_or_none(text in any::<String>()) {
        if let Some(vector) = StaticEmbedder::built_in().embed(&text) {
            prop_assert!((dot(&vector, &vector) - 1.0).abs() < 1e-5);
        }
    }
}

#[tokio::test]
async fn the_port_gives_the_bits_of_the_embedder_whatever_the_batch() {
    use lakehouse_actors::ports::{Embedder as _, TextVector};

    let texts: Vec<String> = (0..1_000)
        .map(|n| format!("letter {n} of the harbour {}", n % 7))
        .chain(["\u{1F9FF}".to_owned()])
        .collect();
    let port = super::InProcess::new();
    let many = port.embed(&texts).await.unwrap();
    assert_eq!(many.calls, 0, "nobody is called");
    for (text, made) in texts.iter().zip(&many.vectors) {
        let alone = StaticEmbedder::built_in().embed(text);
        match (made, alone) {
            (TextVector::Vector(made), Some(alone)) => assert_eq!(made[..], alone[..]),
            (TextVector::Refused { code, .. }, None) => assert_eq!(code, "text_without_vector"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

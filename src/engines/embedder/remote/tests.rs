//! The remote embedders against a server that speaks both protocols, and misbehaves when told.

use std::time::Duration;

use super::*;
use crate::engines::{
    egress::EgressPolicy,
    embedder::standin::{StandIn, Trouble},
    secrets::{EnvironmentSecrets, SecretsProvider},
};

const DIMENSIONS: usize = 96;

fn config(wire: Wire, server: &StandIn) -> ClientConfig {
    ClientConfig {
        wire,
        url: match wire {
            Wire::Ollama => server.ollama_url(),
            Wire::Openai => server.openai_url(),
        },
        secret: None,
        external: false,
        batch_texts: 16,
        batch_bytes: 1 << 20,
        concurrency: 2,
        timeout: Duration::from_secs(20),
        attempts_max: 3,
        response_bytes_max: 1 << 20,
    }
}

fn loopback() -> EgressPolicy {
    EgressPolicy {
        allow: Vec::new(),
        allow_loopback: true,
    }
}

fn secrets() -> Arc<dyn SecretsProvider> {
    let known = ("LAKEHOUSE_SECRET__KNOWN".to_owned(), "k-1".to_owned());
    Arc::new(EnvironmentSecrets::of(std::iter::once(known)))
}

fn client(config: ClientConfig) -> Arc<Client> {
    Arc::new(Client::new(config, loopback(), secrets()).expect("loopback is allowed"))
}

async fn embedder(wire: Wire, server: &StandIn) -> RemoteEmbedder {
    let client = client(config(wire, server));
    let found = RemoteEmbedder::probe(client, "m")
        .await
        .expect("it answers");
    server.forget();
    found
}

fn texts(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("a cat sleeps on mat {n}"))
        .collect()
}

fn vector(found: &TextVector) -> &[f32] {
    match found {
        TextVector::Vector(vector) => vector,
        TextVector::Refused { code, reason } => panic!("{code}: {reason}"),
    }
}

fn code(found: &TextVector) -> &str {
    match found {
        TextVector::Refused { code, .. } => code,
        TextVector::Vector(_) => "",
    }
}

#[tokio::test]
async fn both_protocols_give_a_unit_vector_a_text_and_count_tokens() {
    for wire in [Wire::Ollama, Wire::Openai] {
        let server = StandIn::start(DIMENSIONS).unwrap();
        let embedder = embedder(wire, &server).await;
        assert_eq!(embedder.identity().dimensions as usize, DIMENSIONS);
        assert_eq!(embedder.identity().provider, wire.provider());
        let texts = texts(5);
        let done = embedder.embed(&texts).await.unwrap();
        assert_eq!((done.calls, done.tokens), (1, Some(30)), "{wire:?}");
        assert_eq!((server.calls(), server.texts()), (1, 5));
        for (text, found) in texts.iter().zip(&done.vectors) {
            let alone = embedder.embed(std::slice::from_ref(text)).await.unwrap();
            assert_eq!(&alone.vectors[0], found, "in the order of the texts");
            let square: f32 = vector(found).iter().map(|v| v * v).sum();
            assert!((square - 1.0).abs() < 1e-5);
        }
    }
}

#[tokio::test]
async fn what_may_pass_is_asked_again() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Openai, &server).await;
    for trouble in [
        Trouble::Status(500),
        Trouble::Status(503),
        Trouble::Truncated,
        Trouble::OneShort,
    ] {
        server.forget();
        server.once(trouble.clone());
        let done = embedder.embed(&texts(3)).await.unwrap();
        assert_eq!((done.calls, server.calls()), (2, 2), "{trouble:?}");
        vector(&done.vectors[2]);
    }
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Ollama, &server).await;
    server.once(Trouble::RateLimit(1));
    let began = std::time::Instant::now();
    let done = embedder.embed(&texts(1)).await.unwrap();
    assert_eq!(done.calls, 2);
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    server.once(Trouble::RateLimit(86_400));
    let error = embedder.embed(&texts(1)).await.unwrap_err();
    assert_eq!(error.code, "embedder_unavailable", "a day is too long");
}

#[tokio::test]
async fn a_server_that_stays_down_is_given_up_and_health_says_so() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let client = client(config(Wire::Ollama, &server));
    let embedder = RemoteEmbedder::probe(Arc::clone(&client), "m")
        .await
        .unwrap();
    server.forget();
    server.always(Some(Trouble::Status(500)));
    let error = embedder.embed(&texts(2)).await.unwrap_err();
    assert_eq!(
        (error.kind, &*error.code),
        (ErrorKind::Unavailable, "embedder_unavailable")
    );
    assert_eq!(server.calls(), 3, "as many attempts as are allowed");
    assert!(client.health().down.is_some());
    server.always(None);
    embedder.embed(&texts(2)).await.unwrap();
    assert_eq!(client.health().down, None);
}

#[tokio::test]
async fn a_slow_answer_ends_at_the_deadline() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let patient = embedder(Wire::Ollama, &server).await;
    let hasty = client(ClientConfig {
        timeout: Duration::from_millis(150),
        attempts_max: 2,
        ..config(Wire::Ollama, &server)
    });
    let hasty = RemoteEmbedder::new(hasty, patient.identity().clone());
    server.always(Some(Trouble::Slow(Duration::from_secs(5))));
    let error = hasty.embed(&texts(1)).await.unwrap_err();
    assert!(error.message.contains("does not answer in time"), "{error}");
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn another_dimension_ends_everything_and_is_no_vector() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Openai, &server).await;
    server.once(Trouble::Dimensions(DIMENSIONS + 1));
    let error = embedder.embed(&texts(2)).await.unwrap_err();
    assert_eq!(error.code, "embedder_dimensions");
    assert_eq!(server.calls(), 1, "another try would give the same");
}

#[tokio::test]
async fn what_is_no_number_or_zero_is_no_vector() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    for wire in [Wire::Ollama, Wire::Openai] {
        let embedder = embedder(wire, &server).await;
        for (trouble, expected) in [
            (Trouble::Null, "not_finite"),
            (Trouble::NotANumber, "text_refused"),
            (Trouble::Zeros, "zero_vector"),
        ] {
            server.once(trouble.clone());
            let done = embedder.embed(&texts(1)).await.unwrap();
            assert_eq!(code(&done.vectors[0]), expected, "{wire:?} {trouble:?}");
        }
    }
}

#[tokio::test]
async fn a_text_that_is_refused_is_found_and_the_others_have_vectors() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Ollama, &server).await;
    server.refuse_word(Some("endless"));
    let mut asked = texts(16);
    asked[11] = "an endless text".to_owned();
    let done = embedder.embed(&asked).await.unwrap();
    for (at, found) in done.vectors.iter().enumerate() {
        if at == 11 {
            assert_eq!(code(found), "text_refused");
        } else {
            vector(found);
        }
    }
    assert_eq!(done.calls, 9, "halves of sixteen: 1 + 2 x 4");
}

#[tokio::test]
async fn a_server_that_refuses_every_text_is_set_up_wrongly() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Ollama, &server).await;
    server.refuse_word(Some("cat"));
    let error = embedder.embed(&texts(16)).await.unwrap_err();
    assert_eq!(error.code, "embedder_refuses");
}

#[tokio::test]
async fn what_a_server_writes_is_in_no_error() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Openai, &server).await;
    // The stand-in repeats what it was sent, as servers do.
    for status in [401, 404, 500] {
        server.always(Some(Trouble::Status(status)));
        let error = embedder.embed(&texts(1)).await.unwrap_err();
        assert!(!error.message.contains("cat"), "{status}: {error}");
    }
    server.always(Some(Trouble::Echo));
    let error = embedder.embed(&texts(1)).await.unwrap_err();
    assert_eq!(error.code, "embedder_protocol");
    assert!(!error.message.contains("cat"), "{error}");
}

#[tokio::test]
async fn a_missing_model_and_a_wrong_key_are_told_at_once() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let plain = client(config(Wire::Openai, &server));
    let error = RemoteEmbedder::probe(Arc::clone(&plain), "missing-model")
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, "embedder_model_not_found");
    assert_eq!(plain.health().down, None, "the server is well");
    server.require_key("k-1");
    let error = RemoteEmbedder::probe(plain, "m").await.err().unwrap();
    assert_eq!(error.code, "embedder_denied");
    let with = |handle: &str| {
        client(ClientConfig {
            secret: Some(handle.to_owned()),
            ..config(Wire::Openai, &server)
        })
    };
    RemoteEmbedder::probe(with("known"), "m").await.unwrap();
    let error = RemoteEmbedder::probe(with("unknown"), "m")
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, "secret_not_found");
    assert!(!error.message.contains("k-1"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = embedder(Wire::Ollama, &server).await;
    server.once(Trouble::Padded(2 << 20));
    let error = embedder.embed(&texts(1)).await.unwrap_err();
    assert_eq!(error.code, "embedder_protocol");
    assert!(error.message.contains("more than"), "{error}");
}

#[tokio::test]
async fn calls_at_a_time_are_limited() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let embedder = Arc::new(embedder(Wire::Ollama, &server).await);
    server.pace(Duration::from_millis(20));
    let calls = (0..8).map(|_| {
        let embedder = Arc::clone(&embedder);
        tokio::spawn(async move { embedder.embed(&texts(1)).await.map(|done| done.calls) })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }
    assert_eq!(server.most_running(), 2);
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_refused_before_any_call() {
    let server = StandIn::start(DIMENSIONS).unwrap();
    let nowhere = EgressPolicy::default();
    let refused = Client::new(config(Wire::Ollama, &server), nowhere, secrets());
    assert_eq!(refused.err().unwrap().code, "embedder_address");
    assert_eq!(server.calls(), 0);
}

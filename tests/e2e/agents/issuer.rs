//! Tokens of an issuer elsewhere: a stand-in on loopback publishes keys that the test signs with.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Lake, VIEW};
use crate::support::api::Api;

/// A pair of keys, by its id.
struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
                .unwrap();
        Self {
            id: id.to_owned(),
            pair,
        }
    }

    fn published(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": URL.encode(&point[1..33]), "y": URL.encode(&point[33..]) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), text.as_bytes())
            .unwrap();
        format!("{text}.{}", URL.encode(signature.as_ref()))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(
            &json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }),
            claims,
        )
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        URL.encode(header.to_string()),
        URL.encode(claims.to_string())
    )
}

/// An issuer that publishes what it is told to.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<u32>>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys: Arc<Mutex<Vec<Value>>> = Arc::default();
        let asked: Arc<Mutex<u32>> = Arc::default();
        let (mine, published, count) = (url.clone(), Arc::clone(&keys), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let body = if request.starts_with("GET /.well-known/openid-configuration ") {
                    json!({ "issuer": mine, "jwks_uri": format!("{mine}/keys") })
                } else {
                    *count.lock().unwrap() += 1;
                    json!({ "keys": *published.lock().unwrap() })
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, keys, asked }
    }

    fn publishes(&self, keys: &[&Key]) {
        *self.keys.lock().unwrap() = keys.iter().map(|key| key.published()).collect();
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }

    /// The claims of a good token.
    fn claims(&self, role: &str) -> Value {
        let now = chrono::Utc::now().timestamp();
        json!({ "iss": self.url, "aud": "lakehouse", "sub": "u-1", "email": "ada@example.org",
            "iat": now, "exp": now + 300, "realm": { "roles": ["other", role] } })
    }

    async fn lake(&self) -> Lake {
        let issuers = format!(
            r#"[{{ name = "corp", issuer = "{}", audience = "lakehouse", role_claim = "realm.roles", name_claim = "email", leeway_s = 0, refresh_min_s = 1, roles = [
                {{ value = "lake-agent", role = "agent", views = ["{VIEW}"] }}, {{ value = "lake-auditor", role = "auditor" }} ] }}]"#,
            self.url
        );
        Lake::with(&[("LAKEHOUSE__AUTH__ISSUERS", &issuers)]).await
    }
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

fn client(lake: &Lake, token: &str) -> Api {
    lake.daemon.client(Some(token))
}

const ASKED: &str = "SELECT count(*) FROM candidates_safe";

#[tokio::test]
async fn a_token_of_the_issuer_is_what_its_claims_say_and_stands_so_in_the_audit() {
    let issuer = Issuer::start().await;
    let key = Key::new("k1");
    issuer.publishes(&[&key]);
    let lake = issuer.lake().await;
    let agent = client(&lake, &key.token(&issuer.claims("lake-agent")));
    assert_eq!(agent.cell(ASKED).await, json!(20));
    agent.sql("SELECT * FROM candidates").await.problem(404);
    agent.get("/auth/tokens").await.problem(403);
    let auditor = client(&lake, &key.token(&issuer.claims("lake-auditor")));
    let lines = auditor
        .get("/audit?principal=corp:ada@example.org")
        .await
        .ok();
    assert_eq!(crate::support::api::list(&lines).len(), 3);
    assert_eq!(issuer.asked(), 1, "the keys are asked for once");
}

#[tokio::test]
async fn a_token_that_is_not_good_in_any_way_is_answered_like_none() {
    let issuer = Issuer::start().await;
    let key = Key::new("k1");
    issuer.publishes(&[&key]);
    let lake = issuer.lake().await;
    let good = issuer.claims("lake-agent");
    let now = chrono::Utc::now().timestamp();
    let header = json!({ "alg": "ES256", "kid": "k1" });
    let mut forged = key.token(&good);
    forged.truncate(forged.len() - 4);
    let signature = forged.rsplit_once('.').unwrap().1.to_owned();
    let other = Key::new("k1");
    // The public key taken for a shared secret.
    let point = key.pair.public_key().as_ref().to_vec();
    let hs = unsigned(&json!({ "alg": "HS256", "kid": "k1" }), &good);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &point), hs.as_bytes());
    let published = key.published().to_string();
    let tag_of_text = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, published.as_bytes()),
        hs.as_bytes(),
    );
    let bad = [
        (
            "wrong audience",
            key.token(&with(&good, "aud", json!("other"))),
        ),
        ("no audience", key.token(&with(&good, "aud", Value::Null))),
        ("expired", key.token(&with(&good, "exp", json!(now - 1)))),
        ("no end", key.token(&with(&good, "exp", Value::Null))),
        ("not yet", key.token(&with(&good, "nbf", json!(now + 600)))),
        (
            "another issuer",
            key.token(&with(&good, "iss", json!("http://127.0.0.1:9"))),
        ),
        ("no subject", key.token(&with(&good, "sub", Value::Null))),
        ("no role", key.token(&issuer.claims("stranger"))),
        ("a role of ours", key.token(&issuer.claims("admin"))),
        ("unknown key", Key::new("k9").token(&good)),
        ("another key by this id", other.token(&good)),
        ("cut signature", forged.clone()),
        ("no signature", format!("{}.", unsigned(&header, &good))),
        (
            "none",
            format!("{}.", unsigned(&json!({ "alg": "none" }), &good)),
        ),
        (
            "None with a signature",
            format!(
                "{}.{signature}",
                unsigned(&json!({ "alg": "None", "kid": "k1" }), &good)
            ),
        ),
        (
            "HS256 with the public key",
            format!("{hs}.{}", URL.encode(tag.as_ref())),
        ),
        (
            "HS256 with the published text",
            format!("{hs}.{}", URL.encode(tag_of_text.as_ref())),
        ),
        (
            "another algorithm",
            key.sign(&json!({ "alg": "RS256", "kid": "k1" }), &good),
        ),
        (
            "a key of its own",
            key.sign(
                &json!({ "alg": "ES256", "kid": "k2", "jwk": other.published() }),
                &good,
            ),
        ),
    ];
    let uniform = lake.daemon.client(None).sql(ASKED).await.problem(401);
    let began = Instant::now();
    for (what, token) in &bad {
        let refused = client(&lake, token).sql(ASKED).await;
        assert_eq!(refused.problem(401), uniform, "{what}");
    }
    assert_eq!(
        client(&lake, &key.token(&good)).cell(ASKED).await,
        json!(20),
        "and a good one still is"
    );
    let most = 2 + u32::try_from(began.elapsed().as_secs()).unwrap();
    assert!(
        issuer.asked() <= most,
        "unknown keys do not make the daemon ask each time: {}",
        issuer.asked()
    );
    let log = lake.daemon.site().stderr();
    assert!(!log.contains(&signature), "no token stands in the log");
}

#[tokio::test]
async fn keys_are_exchanged_without_a_restart_and_old_ones_end() {
    let issuer = Issuer::start().await;
    let (old, new) = (Key::new("old"), Key::new("new"));
    issuer.publishes(&[&old]);
    let lake = issuer.lake().await;
    let claims = issuer.claims("lake-agent");
    assert!(client(&lake, &old.token(&claims)).sql(ASKED).await.is_ok());
    issuer.publishes(&[&new]);
    let rotated = client(&lake, &new.token(&claims));
    crate::support::until("the new key to be known", || async {
        rotated.sql(ASKED).await.is_ok().then_some(())
    })
    .await;
    client(&lake, &old.token(&claims))
        .sql(ASKED)
        .await
        .problem(401);
}

#[tokio::test]
async fn a_token_ends_at_its_time_without_being_revoked() {
    let issuer = Issuer::start().await;
    let key = Key::new("k1");
    issuer.publishes(&[&key]);
    let lake = issuer.lake().await;
    let end = chrono::Utc::now().timestamp() + 2;
    let agent = client(
        &lake,
        &key.token(&with(&issuer.claims("lake-agent"), "exp", json!(end))),
    );
    agent.sql(ASKED).await.ok();
    crate::support::until("its end", || async {
        (agent.sql(ASKED).await.status == 401).then_some(())
    })
    .await;
    assert!(chrono::Utc::now().timestamp() >= end);
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_lets_nobody_in_and_its_absence_is_not_told() {
    let nobody_listens = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", nobody_listens.local_addr().unwrap());
    drop(nobody_listens);
    let issuer = Issuer {
        url,
        keys: Arc::default(),
        asked: Arc::default(),
    };
    let key = Key::new("k1");
    let lake = issuer.lake().await;
    let token = key.token(&issuer.claims("lake-agent"));
    let uniform = lake.daemon.client(None).sql(ASKED).await.problem(401);
    assert_eq!(client(&lake, &token).sql(ASKED).await.problem(401), uniform);
    lake.admin.sql("SELECT 1").await.ok();
}

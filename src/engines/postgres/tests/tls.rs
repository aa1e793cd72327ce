//! Every `sslmode` against a server with a certificate and one without.

use std::path::Path;
use std::process::Command;

use super::*;

struct Certificates {
    authority: Vec<u8>,
    server: Vec<u8>,
    key: Vec<u8>,
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output();
    let output = output.expect("openssl comes with the postgresql package");
    assert!(
        output.status.success(),
        "{arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An authority of our own and a certificate for `localhost`, and for no address.
fn certificates() -> Certificates {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    std::fs::write(
        at.join("san"),
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .expect("ours");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        at,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority"),
    );
    openssl(
        at,
        &format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"),
    );
    openssl(
        at,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
    );
    let file = |name: &str| std::fs::read(at.join(name)).expect("openssl wrote it");
    Certificates {
        authority: file("ca.pem"),
        server: file("server.pem"),
        key: file("server.key"),
    }
}

const ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

async fn is_encrypted(source: &PostgresSource) -> Result<bool, PostgresError> {
    use arrow::array::AsArray;
    let stream = source
        .read(query(ENCRYPTED), ReadOptions::default())
        .await?;
    Ok(drain(stream).await?.0.column(0).as_boolean().value(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_gives_what_it_promises_or_fails() {
    let made = certificates();
    let files: [(&str, &[u8]); 2] = [("server.crt", &made.server), ("server.key", &made.key)];
    let server = TestServer::start_with_files(&[("ssl", "on")], &files);
    let by_name = server.dsn("postgres").replace("127.0.0.1", "localhost");
    let with = |dsn: &str, mode: &str| source(&format!("{dsn}?sslmode={mode}"));
    assert_eq!(is_encrypted(&with(&by_name, "disable")).await, Ok(false));
    assert_eq!(is_encrypted(&with(&by_name, "prefer")).await, Ok(true));
    assert_eq!(is_encrypted(&with(&by_name, "require")).await, Ok(true));
    assert_eq!(
        is_encrypted(&source(&format!(
            "{by_name}?sslmode=require&channel_binding=require"
        )))
        .await,
        Ok(true)
    );

    let untrusted = is_encrypted(&with(&by_name, "verify-full"))
        .await
        .expect_err("an unknown authority");
    assert!(
        matches!(untrusted, PostgresError::Tls { .. }),
        "{untrusted:?}"
    );
    assert!(!format!("{untrusted} {untrusted:?}").contains(PASSWORD));
    let trusting = |dsn: &str| {
        with(dsn, "verify-full")
            .trusting(&made.authority)
            .expect("a PEM text")
    };
    assert_eq!(is_encrypted(&trusting(&by_name)).await, Ok(true));
    let elsewhere = is_encrypted(&trusting(&server.dsn("postgres")))
        .await
        .expect_err("it names no address");
    assert!(
        matches!(elsewhere, PostgresError::Tls { .. }),
        "{elsewhere:?}"
    );
    assert!(
        with(&by_name, "verify-full")
            .trusting(b"no certificate")
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_never_fallen_back_to() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    for mode in ["require", "verify-full"] {
        let error = failure(
            &format!("{dsn}?sslmode={mode}"),
            any_row(),
            ReadOptions::default(),
        )
        .await;
        assert!(
            matches!(error, PostgresError::Tls { .. }),
            "{mode}: {error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert_eq!(
        is_encrypted(&source(&format!("{dsn}?sslmode=prefer"))).await,
        Ok(false)
    );
    let bound = failure(
        &format!("{dsn}?channel_binding=require"),
        any_row(),
        ReadOptions::default(),
    )
    .await;
    assert_eq!(bound.kind(), ErrorKind::Denied, "{bound:?}");
}

fn any_row() -> Relation {
    query("SELECT 1 AS one")
}

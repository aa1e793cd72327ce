//! loopback and other inner addresses in more than 200 spellings, in a database's connection
//! string and in an S3 address, with a listener that nobody may ever reach.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use super::*;
use crate::engines::{
    object_store::{Bucket, Opening},
    postgres::{PostgresSource, ReadOptions, Relation},
    secrets::SecretsInOrder,
};
use lakehouse_journal::model::bucket::BucketSpec;

/// Hosts that lead to this machine for somebody.
fn hosts() -> Vec<String> {
    let names = [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "LocalHost.",
        "ip6-localhost",
        "ip6-loopback",
    ];
    let mapped = [
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "[64:ff9b::7f00:1]",
    ];
    let mut hosts: Vec<String> = tests::PRIVATE
        .iter()
        .map(|host| {
            if host.contains(':') && !host.starts_with('[') {
                format!("[{host}]")
            } else {
                (*host).to_owned()
            }
        })
        .collect();
    hosts.extend(tests::ODD.iter().map(|host| (*host).to_owned()));
    hosts.extend(names.iter().chain(&mapped).map(|host| (*host).to_owned()));
    hosts
}

fn s3_addresses(port: u16) -> Vec<String> {
    let forms = |host: &String| {
        [
            format!("http://{host}:{port}/lake"),
            format!("https://{host}:{port}/lake"),
            format!("https://store.example@{host}:{port}/lake"),
        ]
    };
    let mut all: Vec<String> = hosts().iter().flat_map(forms).collect();
    all.push(format!("http://store.example:80#@127.0.0.1:{port}/lake"));
    all.push(format!("http://127.0.0.1:{port}\\@store.example/lake"));
    all
}

fn connection_strings(port: u16) -> Vec<String> {
    let forms = |host: &String| {
        [
            format!("postgres://u:p@{host}:{port}/db"),
            format!("host={host} port={port} user=u dbname=db"),
            format!("postgresql://u@/db?host={host}&port={port}"),
        ]
    };
    let mut all: Vec<String> = hosts().iter().flat_map(forms).collect();
    all.push(format!(
        "host=store.example hostaddr=127.0.0.1 port={port} user=u"
    ));
    all.push("host=/var/run/postgresql user=u".to_owned());
    all.push("service=inner user=u".to_owned());
    all
}

#[tokio::test]
async fn no_spelling_of_an_inner_address_reaches_the_tripwire() {
    let tripwires = [TcpListener::bind("127.0.0.1:0").unwrap()];
    let port = tripwires[0].local_addr().unwrap().port();
    for listener in &tripwires {
        listener.set_nonblocking(true).unwrap();
    }
    let policy = EgressPolicy::default();
    let secrets = SecretsInOrder(Vec::new());
    let mut took = Vec::new();
    let (addresses, strings) = (s3_addresses(port), connection_strings(port));
    assert!(
        addresses.len() > 200 && strings.len() > 200,
        "{} {}",
        addresses.len(),
        strings.len()
    );
    for url in addresses {
        let started = Instant::now();
        let spec = BucketSpec::S3 {
            url: url.clone(),
            region: None,
            secret: None,
            path_style: None,
            rescue_bucket: None,
        };
        let with = Opening {
            secrets: &secrets,
            egress: &policy,
            timeout: Duration::from_secs(20),
        };
        if let Ok(bucket) = Bucket::open("s", &spec, &with) {
            assert!(bucket.canary().await.is_err(), "{url}");
        }
        took.push(started.elapsed());
    }
    for dsn in strings {
        let started = Instant::now();
        if let Ok(source) = PostgresSource::parse(&dsn, &policy) {
            let relation = Relation::Query("SELECT 1".to_owned());
            assert!(
                source.read(relation, ReadOptions::default()).await.is_err(),
                "{dsn}"
            );
        }
        took.push(started.elapsed());
    }
    for listener in &tripwires {
        assert!(listener.accept().is_err(), "somebody came through");
    }
    took.sort();
    let p95 = took[took.len() * 95 / 100];
    assert!(p95 < Duration::from_secs(3), "{p95:?}");
}

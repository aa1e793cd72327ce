//! Layers and rules of the configuration, and the file under `deploy/`.

use std::path::{Path, PathBuf};

use super::*;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("lakehouse.toml");
    std::fs::write(&path, file).expect("the file can be written");
    let environment = environment.iter();
    Config::load(&Sources {
        file: Some(path),
        environment: environment
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        data_dir: Some(PathBuf::from("/lake")),
        listen: None,
    })
}

fn message(file: &str, environment: &[(&str, &str)]) -> String {
    load(file, environment)
        .expect_err("it is refused")
        .to_string()
}

#[test]
fn without_any_setting_there_is_one_local_bucket_under_the_data_directory() {
    let config = load("", &[]).expect("the defaults are valid");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3100");
    assert_eq!(config.query.memory_limit, ByteSize::gib(4));
    assert_eq!(config.storage.orphan_grace_s, 86_400);
    let local = BucketSpec::Local {
        root: "/lake/buckets/primary".to_owned(),
        rescue_bucket: None,
    };
    assert_eq!(config.bucket_specs(), [("primary".to_owned(), local)]);
    assert!(config.listens_on_loopback());
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file =
        "[server]\nlisten = \"127.0.0.1:1\"\n[query]\ntimeout_s = 5\nmemory_limit = \"1GiB\"";
    let environment = [
        ("LAKEHOUSE__SERVER__LISTEN", "127.0.0.1:2"),
        ("LAKEHOUSE__QUERY__TIMEOUT_S", "7"),
        ("LAKEHOUSE_URL", "not a setting"),
    ];
    let config = load(file, &environment).expect("both layers are valid");
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.query.timeout_s, 7);
    assert_eq!(config.query.memory_limit, ByteSize::gib(1));

    let flags = Sources {
        environment: vec![(
            "LAKEHOUSE__SERVER__LISTEN".to_owned(),
            "127.0.0.1:2".to_owned(),
        )],
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 3))),
        ..Sources::default()
    };
    let config = Config::load(&flags).expect("flags are valid");
    assert_eq!(config.server.listen.port(), 3);
    assert!(config.data_dir.is_absolute());
}

#[test]
fn the_environment_takes_lists_and_words_without_quotes() {
    let environment = [
        (
            "LAKEHOUSE__EGRESS__ALLOW",
            r#"["db.internal:5432", "[::1]:80"]"#,
        ),
        ("LAKEHOUSE__STORAGE__PRIMARY", "lake"),
        ("LAKEHOUSE__LOG__FORMAT", "json"),
        ("LAKEHOUSE__INGEST__BODY_LIMIT", "2GiB"),
    ];
    let config = load("", &environment).expect("the environment is valid");
    assert_eq!(config.egress.allow, ["db.internal:5432", "[::1]:80"]);
    assert_eq!(config.storage.buckets[0].name, "lake");
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.ingest.body_limit, ByteSize::gib(2));
}

#[test]
fn variables_of_one_section_need_not_be_whole_each() {
    let environment = [
        ("LAKEHOUSE__EMBEDDING__OLLAMA__ATTEMPTS", "2"),
        ("LAKEHOUSE__EMBEDDING__OLLAMA__URL", "http://127.0.0.1:1"),
    ];
    let config = load("", &environment).expect("together they are a server");
    assert_eq!(
        config.embedding.ollama.map(|server| server.attempts),
        Some(2)
    );
    let missing = message("", &environment[..1]);
    assert!(missing.contains("missing field `url`"), "{missing}");
}

#[test]
fn agents_keep_the_limits_that_a_section_of_theirs_leaves_out_and_others_have_none() {
    let file = "[limits.agent]\nrows = 5\n[limits.analyst]\nrows = 6";
    let config = load(file, &[]).expect("the section is valid");
    let usual = LimitsConfig::default().agent;
    assert_eq!(config.limits.agent.rows, Some(5));
    assert_eq!(
        config.limits.agent.concurrent_queries,
        usual.concurrent_queries
    );
    assert_eq!(config.limits.agent.statement_ms, usual.statement_ms);
    assert_eq!(config.limits.analyst.rows, Some(6));
    assert_eq!(config.limits.analyst.statement_ms, None);
}

#[test]
fn an_unknown_key_of_the_file_is_named_with_the_file_and_the_line() {
    let message = message("[server]\nlisten = \"127.0.0.1:1\"\nlistn = 5\n", &[]);
    assert!(message.contains("lakehouse.toml` line 3"), "{message}");
    assert!(message.contains("unknown key `listn`"), "{message}");
}

#[test]
fn an_unknown_key_in_a_bucket_or_a_section_is_refused() {
    for file in [
        "[sever]\n",
        "data_dir = \"/x\"\n",
        "[[storage.buckets]]\nname = \"a\"\nbackend = \"local\"\nroot = \"/a\"\nroots = \"/b\"\n",
    ] {
        let message = message(file, &[]);
        assert!(message.contains("unknown key `"), "{message}");
    }
}

#[test]
fn an_unknown_key_of_the_environment_is_named_with_the_variable() {
    let message = message("", &[("LAKEHOUSE__SERVER__LISTN", "1")]);
    assert!(
        message.contains("`LAKEHOUSE__SERVER__LISTN` (`server.listn`)"),
        "{message}"
    );
    assert!(message.contains("unknown key `listn`"), "{message}");
}

#[test]
fn a_value_of_another_type_says_where_and_what_was_expected() {
    let of_file = message("[query]\n\ntimeout_s = \"long\"\n", &[]);
    assert!(
        of_file.contains("line 3") && of_file.contains("expected u64"),
        "{of_file}"
    );
    let of_size = message("[query]\nmemory_limit = \"4 gigs\"\n", &[]);
    assert!(of_size.contains("`4 gigs` is not a size"), "{of_size}");
    let of_environment = message("", &[("LAKEHOUSE__QUERY__TIMEOUT_S", "-3")]);
    assert!(
        of_environment.contains("query.timeout_s"),
        "{of_environment}"
    );
}

#[test]
fn a_server_that_makes_vectors_is_described_by_its_address_alone() {
    let file = "[embedding]\ndefault = \"ollama/nomic-embed-text\"\n\
                [embedding.ollama]\nurl = \"http://127.0.0.1:11434\"\n\
                [embedding.openai]\nurl = \"https://h/v1\"\nsecret = \"key\"\ntimeout_s = 5";
    let config = load(file, &[]).expect("it is valid");
    let ollama = config.embedding.ollama.expect("it is set");
    assert_eq!(
        (ollama.batch_texts, ollama.concurrency, ollama.attempts),
        (64, 1, 6)
    );
    let openai = config.embedding.openai.expect("it is set");
    assert_eq!(openai.secret.as_deref(), Some("key"));
    assert_eq!(openai.timeout_s, 5);
    assert!(openai.is_external() && !ollama.is_external());
}

#[test]
fn a_server_that_is_not_on_loopback_is_external_unless_told_otherwise() {
    for (url, more, external) in [
        ("http://127.0.0.1:1", "", false),
        ("http://[::1]:1", "", false),
        ("http://localhost:1", "", false),
        ("http://localhost.example:1", "", true),
        ("http://10.0.0.9:1", "", true),
        ("http://10.0.0.9:1", "external = false", false),
        ("http://127.0.0.1:1", "external = true", true),
    ] {
        let file = format!("[embedding.ollama]\nurl = \"{url}\"\n{more}");
        let ollama = load(&file, &[]).expect("it is valid").embedding.ollama;
        assert_eq!(ollama.expect("it is set").is_external(), external, "{file}");
    }
}

#[test]
fn a_value_that_makes_no_sense_is_refused_with_its_key() {
    let two = |a: &str, b: &str| {
        format!(
            "[storage]\nprimary = \"a\"\n[[storage.buckets]]\nname = \"a\"\nbackend = \"local\"\n{a}\n\
             [[storage.buckets]]\nname = \"{b}\"\nbackend = \"local\"\nroot = \"x\"\n"
        )
    };
    for (file, key) in [
        (
            "[storage]\norphan_grace_s = 0".to_owned(),
            "storage.orphan_grace_s",
        ),
        (
            "[storage]\nrequest_timeout_s = 0".to_owned(),
            "storage.request_timeout_s",
        ),
        (
            "[storage]\norphan_sweep = \"hourly\"".to_owned(),
            "storage.orphan_sweep",
        ),
        (two("root = \"y\"", "a"), "storage.buckets[1].name"),
        (two("root = \"x\"", "b"), "storage.buckets[1].root"),
        (two("", "b"), "storage.buckets[0].root"),
        (
            two("root = \"y\"\nurl = \"u\"", "b"),
            "storage.buckets[0].url",
        ),
        (
            two("root = \"y\"", "b").replace("\"a\"\n[[", "\"c\"\n[["),
            "storage.primary",
        ),
        (two("root = \"y\"", "../b"), "storage.buckets[1].name"),
        (
            "[query]\nmemory_limit = \"1MiB\"".to_owned(),
            "query.memory_limit",
        ),
        ("[query]\ntimeout_s = 0".to_owned(), "query.timeout_s"),
        ("[ingest]\nbody_limit = 0".to_owned(), "ingest.body_limit"),
        (
            "[embedding]\ndefault = \"other\"".to_owned(),
            "embedding.default",
        ),
        (
            "[embedding]\ndefault = \"ollama/nomic-embed-text\"".to_owned(),
            "embedding.default",
        ),
        (
            "[embedding.ollama]\nurl = \"nowhere\"".to_owned(),
            "embedding.ollama.url",
        ),
        (
            "[embedding.openai]\nurl = \"https://h/v1\"\nbatch_texts = 0".to_owned(),
            "embedding.openai.batch_texts",
        ),
        (
            "[egress]\nallow = [\"db.internal\"]".to_owned(),
            "egress.allow",
        ),
        (
            "[egress]\nallow = [\"http://db:80\"]".to_owned(),
            "egress.allow",
        ),
        ("[log]\nlevel = \"lakehouse=loud\"".to_owned(), "log.level"),
    ] {
        match load(&file, &[]) {
            Err(ConfigError::Invalid { key: named, .. }) => assert_eq!(named, key),
            other => panic!("{file}: {other:?}"),
        }
    }
}

#[test]
fn a_named_file_must_exist() {
    let sources = Sources {
        file: Some(PathBuf::from("no/such/file.toml")),
        ..Sources::default()
    };
    let error = Config::load(&sources).expect_err("there is no such file");
    assert!(error.to_string().contains("`no/such/file.toml`"), "{error}");
}

#[test]
fn a_relative_bucket_root_starts_at_the_data_directory() {
    let bucket = BucketConfig::local("a", "cold");
    let spec = |data_dir: &str| match bucket.spec(Path::new(data_dir)) {
        BucketSpec::Local { root, .. } => root,
        BucketSpec::S3 { .. } => unreachable!("the bucket is local"),
    };
    assert_eq!(spec("/lake"), "/lake/cold");
}

#[test]
fn the_file_under_deploy_is_valid_and_shows_every_key_with_its_default() {
    let text = include_str!("../../deploy/lakehouse.toml");
    let shown = load(text, &[]).expect("the documented file is valid");
    let mut expected = load("", &[]).expect("the defaults are valid");
    expected.storage.buckets = vec![BucketConfig::local("primary", "buckets/primary")];
    assert_eq!(shown, expected);

    let uncommented = toml::from_str::<toml::Table>(text).expect("it is TOML");
    let defaults = toml::Table::try_from(Config::default()).expect("a configuration is TOML");
    for (section, keys) in &defaults {
        for key in keys.as_table().expect("a section is a table").keys() {
            assert!(
                uncommented[section].get(key).is_some(),
                "{section}.{key} is not shown"
            );
        }
    }
}

#[test]
fn an_s3_bucket_and_a_rescue_bucket_are_read_and_their_slips_named() {
    let file = "[[storage.buckets]]\nname = \"primary\"\nbackend = \"s3\"\nurl = \"https://s3.example/lake\"\n\
        secret = \"cold\"\nrescue_bucket = \"here\"\n\
        [[storage.buckets]]\nname = \"here\"\nbackend = \"local\"\nroot = \"here\"";
    let config = load(file, &[]).expect("it is valid");
    assert_eq!(config.bucket_endpoints(), ["s3.example:443"]);
    let bucket = "[[storage.buckets]]\nname = \"primary\"\n";
    for (rest, key) in [
        ("backend = \"s3\"", "storage.buckets[0].url"),
        (
            "backend = \"s3\"\nurl = \"http://s3.example/lake\"",
            "storage.buckets[0].url",
        ),
        (
            "backend = \"s3\"\nurl = \"s3://lake\"\nroot = \"/a\"",
            "storage.buckets[0].root",
        ),
        (
            "backend = \"local\"\nroot = \"/a\"\nrescue_bucket = \"b\"",
            "storage.buckets[0].rescue_bucket",
        ),
        (
            "backend = \"local\"\nroot = \"/a\"\nrescue_bucket = \"primary\"",
            "storage.buckets[0].rescue_bucket",
        ),
        (
            "backend = \"local\"\nroot = \"/a\"\nallow_http = true",
            "storage.buckets[0].allow_http",
        ),
    ] {
        let text = message(&format!("{bucket}{rest}"), &[]);
        assert!(text.contains(key), "{rest}: {text}");
    }
}

//! Search through views: an agent finds rows of its views and no others, with what the view shows of them,
//! whatever the index was built from; and nothing that is hidden leaves a trace in what is found.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::api::{Api, list, secret_of};
use crate::support::daemon::Daemon;
use crate::support::scan::files;

const CANARY: &str = "kxqzcanary";
const TRADES: [&str; 6] = [
    "repairs cars and trucks",
    "bakes bread and cakes",
    "writes software in rust",
    "keeps bees and sells honey",
    "teaches children to read",
    "paints houses in bright colours",
];

/// People of whom every third is blocked; the blocked are nearest to any question about cars, and say more.
fn people(count: usize, hidden: &str) -> String {
    let mut csv = "id,name,email,status,skill,rank\n".to_owned();
    for id in 0..count {
        let (status, skill) = if id % 3 == 1 {
            ("blocked", format!("car mechanic {hidden}"))
        } else {
            ("open", format!("{} number {id}", TRADES[id % 6]))
        };
        let rank = id % 10;
        writeln!(
            csv,
            "{id},Anna{id},{CANARY}{id}@x.org,{status},{skill},{rank}"
        )
        .unwrap();
    }
    csv
}

fn safe(filter: &str) -> Value {
    json!({
        "name": "people_safe",
        "base_dataset": "people",
        "columns": ["id", "name", "skill", "rank"],
        "row_filter": filter,
        "column_redactions": [{ "column": "name", "rule": { "mask": { "keep_prefix": 1, "keep_suffix": 0 } } }],
    })
}

async fn index(admin: &Api, name: &str, source: &str, backend: &str) -> Value {
    let body = json!({ "name": name, "source": source, "key": "id", "text": ["skill"], "backend": backend });
    admin.post("/vectors/index?wait=true", &body).await.ok()
}

/// A lake with a view, an index over its dataset and one over the view.
async fn lake(hidden: &str) -> (Daemon, Api, Api) {
    lake_on("hnsw", hidden).await
}

async fn lake_on(backend: &str, hidden: &str) -> (Daemon, Api, Api) {
    lake_of(backend, &people(300, hidden)).await
}

async fn lake_of(backend: &str, people: &str) -> (Daemon, Api, Api) {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    admin.create("people", people).await;
    admin
        .post("/catalog/views", &safe("status <> 'blocked'"))
        .await
        .ok();
    index(&admin, "kb", "people", backend).await;
    index(&admin, "kb_safe", "people_safe", backend).await;
    let body = json!({ "name": "e", "source": "people", "key": "id", "text": ["email"], "backend": "hnsw" });
    let _ = admin.post("/vectors/index?wait=true", &body).await;
    let bot = agent(&daemon, &admin).await;
    (daemon, admin, bot)
}

async fn agent(daemon: &Daemon, admin: &Api) -> Api {
    let token = json!({ "name": "bot", "role": "agent", "views": ["people_safe"],
        "limits": { "concurrent_queries": 100, "requests_per_s": 100_000 } });
    let issued = admin.post("/auth/tokens", &token).await.ok();
    daemon.client(Some(&secret_of(&issued)))
}

async fn replace(admin: &Api, filter: &str) {
    let mut view = safe(filter);
    view["replace"] = json!(true);
    admin.post("/catalog/views", &view).await.ok();
}

async fn hits(api: &Api, body: &Value) -> Vec<Value> {
    let found = api.post("/vectors/search", body).await.ok();
    found["hits"].as_array().unwrap().clone()
}

fn is_blocked(hit: &Value) -> bool {
    hit["key"].as_str().unwrap().parse::<u64>().unwrap() % 3 == 1
}

#[tokio::test]
async fn an_agent_finds_rows_of_its_view_and_no_others() {
    let (_daemon, admin, bot) = lake(CANARY).await;
    for name in ["kb", "kb_safe"] {
        for k in [1, 10, 200] {
            let asked = json!({ "index": name, "query": "car mechanic", "k": k, "columns": ["name", "skill"] });
            let found = bot.post("/vectors/search", &asked).await;
            assert!(!found.text().contains(CANARY), "{}", found.text());
            let found = found.ok();
            let found = list(&json!({ "items": found["hits"] }));
            assert_eq!(found.len(), k, "{name}: as many as there are");
            assert!(!found.iter().any(is_blocked));
            assert_eq!(
                found[0]["row"]["name"].as_str().unwrap().chars().next(),
                Some('A')
            );
            assert!(
                found
                    .iter()
                    .all(|hit| hit["row"]["name"].as_str().unwrap().contains("***"))
            );
        }
    }
    // The admin finds what the agent does not.
    let asked = json!({ "index": "kb", "query": "car mechanic", "k": 50 });
    assert!(hits(&admin, &asked).await.iter().any(is_blocked));
}

#[tokio::test]
async fn on_either_engine_and_from_deltas_an_agent_finds_rows_of_its_view_and_no_others() {
    for backend in ["hnsw", "lance"] {
        let (_daemon, admin, bot) = lake_on(backend, CANARY).await;
        // One comes to be seen, one comes and is not, one is seen no more and says other things.
        let newer = format!(
            "id,name,email,status,skill,rank\n300,Anna,a@x.org,open,repairs cars,1\n\
             301,Anna,a@x.org,blocked,car mechanic {CANARY},1\n0,Anna,a@x.org,blocked,car mechanic {CANARY},1\n"
        );
        let upsert = admin.ingest("dataset=people&mode=upsert", "text/csv", newer);
        upsert.await.ok();
        admin.post("/vectors/refresh/people", &json!({})).await.ok();
        for name in ["kb", "kb_safe"] {
            let shown = admin.get(&format!("/vectors/indexes/{name}")).await.ok();
            assert_eq!(shown["generations"][0]["deltas"], 1, "{shown}");
            let ask = json!({ "index": name, "query": "car mechanic", "k": 300 });
            let found = bot.post("/vectors/search", &ask).await;
            assert!(!found.text().contains(CANARY), "{}", found.text());
            let found = found.ok();
            let rows = found["hits"].as_array().unwrap();
            assert_eq!(rows.len(), 200, "{backend} {name}");
            assert!(!rows.iter().any(|hit| is_blocked(hit) || hit["key"] == "0"));
            assert!(rows.iter().any(|hit| hit["key"] == "300"));
            // The same in a row of questions.
            let many = json!({ "index": name, "k": 300, "queries": ["car mechanic", { "query": "bread" }] });
            let many = bot.post("/vectors/search", &many).await;
            assert!(!many.text().contains(CANARY), "{}", many.text());
            let many = many.ok();
            assert_eq!(many["results"][0]["hits"], found["hits"]);
            assert_eq!(many["results"][1]["hits"].as_array().unwrap().len(), 200);
            let vectors =
                json!({ "index": name, "queries": ["bread", { "vector": vec![0.5_f32; 128] }] });
            bot.post("/vectors/search", &vectors)
                .await
                .problem_code(403, "vector_denied");
            // How rare a word is would tell of the hidden rows.
            for mode in ["text", "hybrid"] {
                let words = json!({ "index": name, "query": CANARY, "mode": mode });
                bot.post("/vectors/search", &words)
                    .await
                    .problem_code(403, "words_denied");
            }
        }
    }
}

#[tokio::test]
async fn many_questions_in_one_count_as_many() {
    let (daemon, admin, _bot) = lake("").await;
    let token = json!({ "name": "slow", "role": "agent", "views": ["people_safe"],
        "limits": { "requests_per_s": 5 } });
    let issued = admin.post("/auth/tokens", &token).await.ok();
    let slow = daemon.client(Some(&secret_of(&issued)));
    let many = |queries: usize| json!({ "index": "kb", "k": 1, "queries": vec!["bread"; queries] });
    slow.post("/vectors/search", &many(50)).await.problem(429);
}

#[tokio::test]
async fn every_permitted_row_is_found_however_few_there_are() {
    let (_daemon, admin, bot) = lake("").await;
    for (filter, permitted) in [
        ("status <> 'blocked'", 200),
        ("status <> 'blocked' AND rank < 5", 100),
        ("status <> 'blocked' AND id < 30", 20),
        ("id = 0", 1),
        ("id < 0", 0),
    ] {
        replace(&admin, filter).await;
        let asked = json!({ "index": "kb", "query": "repairs cars", "k": 10 });
        let found = hits(&bot, &asked).await;
        assert_eq!(found.len(), permitted.min(10), "{filter}");
        let exact = json!({ "index": "kb", "query": "repairs cars", "k": 10, "exact": true });
        assert_eq!(found, hits(&bot, &exact).await, "{filter}");
    }
}

/// An answer without what differs from call to call.
fn told(answer: &crate::support::api::Answer) -> Value {
    let mut json = answer.json();
    for field in ["elapsed_us", "receipt", "as_of"] {
        json.as_object_mut().unwrap().remove(field);
    }
    json!([answer.status, json])
}

/// A search that somebody might try: words of what is shown and of what is not, whole and broken conditions.
fn some_search(random: &mut u64) -> Value {
    let mut pick = |count: usize| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        usize::try_from(*random % count as u64).unwrap()
    };
    let words = "repairs cars trucks bakes bread rust honey bees read paints bright apple zebra crossing \
                 mechanic car number 7 blocked Anna1 @x.org ' \" \\ %";
    let words: Vec<&str> = words.split_whitespace().collect();
    let query: Vec<&str> = (0..=pick(4)).map(|_| words[pick(words.len())]).collect();
    let index = ["kb", "kb", "kb_safe", "e", "none"][pick(5)];
    let k = [1, 3, 10, 50, 10_000][pick(5)];
    let mut asked = json!({ "index": index, "query": query.join(" "), "k": k });
    let filters = [
        format!("rank > {}", pick(11)),
        format!("id % {} = 1", 1 + pick(5)),
        "status = 'blocked'".to_owned(),
        format!("email LIKE '%{}%'", pick(300)),
        "name LIKE 'A%'".to_owned(),
        format!("100 / (rank - {}) > 1", pick(10)),
        "id IN (SELECT id FROM people)".to_owned(),
        "rank >".to_owned(),
    ];
    if let filter @ ..8 = pick(16) {
        asked["filter"] = json!(filters[filter]);
    }
    let columns = [
        json!(["name"]),
        json!(["email"]),
        json!(["id", "rank", "skill"]),
        json!(["*"]),
    ];
    if let column @ ..4 = pick(8) {
        asked["columns"] = columns[column].clone();
    }
    match pick(8) {
        0 => asked["mode"] = json!("text"),
        1 => asked["mode"] = json!("hybrid"),
        2 => asked["exact"] = json!(true),
        3 => asked["ef_search"] = json!(1 + pick(400)),
        _ => {}
    }
    asked
}

/// Q-02 for searches, on two daemons whose blocked rows differ in text and number.
/// `LAKEHOUSE_TWIN_SEARCHES=10000` is the whole figure.
#[tokio::test]
async fn what_a_view_hides_changes_no_byte_of_what_is_found() {
    let (_one, _, bot) = lake("apple").await;
    let mut others = people(300, "zebra crossing with many other words");
    for id in (1_000..1_090).step_by(3) {
        let row = format!("{id},Otto{id},o{id}@y.org,blocked,honey and bread,3");
        writeln!(others, "{row}").unwrap();
    }
    let (_other, _, twin) = lake_of("hnsw", &others).await;
    let mut asked = Vec::new();
    let questions = TRADES
        .iter()
        .chain(&["apple", "zebra crossing", "car mechanic"]);
    for question in questions {
        for name in ["kb", "kb_safe", "e", "none"] {
            for more in [
                json!({}),
                json!({ "filter": "rank > 3", "columns": ["name"] }),
                json!({ "filter": "status = 'blocked'" }),
            ] {
                let mut search = json!({ "index": name, "query": question, "k": 20 });
                search
                    .as_object_mut()
                    .unwrap()
                    .extend(more.as_object().unwrap().clone());
                asked.push(search);
            }
        }
    }
    let mut random = 20_261_129;
    let searches = crate::support::number_from_env("LAKEHOUSE_TWIN_SEARCHES", 200);
    asked.extend((0..searches).map(|_| some_search(&mut random)));
    let mut answered = 0;
    for search in &asked {
        let [one, other] = [&bot, &twin].map(|api| api.post("/vectors/search", search));
        let (one, other) = (one.await, other.await);
        answered += usize::from(one.is_ok());
        assert_eq!(told(&one), told(&other), "{search}");
        assert!(one.status < 500, "{}", one.text());
    }
    assert!(answered > asked.len() / 10, "{answered} of {}", asked.len());
    eprintln!("{} searches, {answered} answered: 0 differ", asked.len());
}

#[tokio::test]
async fn an_index_that_may_not_answer_and_one_that_is_not_there_are_the_same() {
    let (daemon, admin, bot) = lake("").await;
    admin.create("payroll", "id,pay\n1,much\n").await;
    let body = json!({ "name": "pay", "source": "payroll", "key": "id", "text": ["pay"], "backend": "hnsw" });
    admin.post("/vectors/index?wait=true", &body).await.ok();
    let ask = |name: &str| json!({ "index": name, "query": "much", "as_of": 1 });
    let hidden = bot.post("/vectors/search", &ask("pay")).await;
    let missing = bot.post("/vectors/search", &ask("pax")).await;
    assert_eq!(
        hidden.text().replace("pay", "pax"),
        missing.text(),
        "to the byte"
    );
    missing.problem_code(404, "index_not_found");
    let narrow = json!({ "name": "narrow", "base_dataset": "people", "columns": ["id", "rank"] });
    admin.post("/catalog/views", &narrow).await.ok();
    let token = json!({ "name": "narrow-bot", "role": "agent", "views": ["narrow"] });
    let issued = admin.post("/auth/tokens", &token).await.ok();
    let narrow = daemon.client(Some(&secret_of(&issued)));
    let told = narrow
        .post(
            "/vectors/search",
            &json!({ "index": "kb", "query": "cars" }),
        )
        .await
        .problem_code(403, "index_denied");
    let told = told["detail"].as_str().unwrap();
    assert!(told.contains("built over `narrow`"), "{told}");
}

#[tokio::test]
async fn an_agent_gives_no_vectors_and_sees_none() {
    let (_daemon, _, bot) = lake("").await;
    let vector = vec![0.5_f32; 128];
    bot.post(
        "/vectors/search",
        &json!({ "index": "kb", "vector": vector }),
    )
    .await
    .problem_code(403, "vector_denied");
    bot.get("/vectors/indexes/kb/rows/0").await.problem(403);
    for hit in hits(&bot, &json!({ "index": "kb", "query": "bread" })).await {
        let score = hit["score"].as_f64().unwrap() * 1_000.0;
        assert!((score - score.round()).abs() < 1e-6, "told roughly: {hit}");
        assert!(hit.get("vector").is_none());
    }
}

#[tokio::test]
async fn a_new_policy_binds_the_next_search() {
    let (_daemon, admin, bot) = lake("").await;
    let asked = json!({ "index": "kb", "query": "bakes bread", "k": 1 });
    let first = hits(&bot, &asked).await[0]["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let filter = format!("status <> 'blocked' AND id <> {first}");
    replace(&admin, &filter).await;
    assert_ne!(hits(&bot, &asked).await[0]["key"], json!(first));
    // The index over the view was built under the old one: it says nothing until it is built anew.
    let mut asked = asked;
    asked["index"] = json!("kb_safe");
    let told = bot.post("/vectors/search", &asked).await;
    if told.is_ok() {
        assert_ne!(told.json()["hits"][0]["key"], json!(first));
    } else {
        told.problem_code(409, "index_not_ready");
    }
    admin
        .delete("/catalog/views/people_safe?cascade=true")
        .await
        .ok();
    asked["index"] = json!("kb");
    bot.post("/vectors/search", &asked)
        .await
        .problem_code(404, "index_not_found");
}

#[tokio::test]
async fn a_row_is_not_found_by_a_text_that_it_had_when_it_was_hidden() {
    let (_daemon, admin, bot) = lake("telescopes and planets").await;
    let asked = json!({ "index": "kb", "query": "telescopes and planets", "k": 300 });
    admin
        .ingest(
            "dataset=people&mode=upsert",
            "text/csv",
            "id,name,email,status,skill,rank\n1,Anna1,a@x.org,open,sells shoes,1\n",
        )
        .await
        .ok();
    let found = hits(&bot, &asked).await;
    assert_eq!(found.len(), 200, "row 1 is not built in yet");
    let text = serde_json::to_string(&found).unwrap();
    assert!(!text.contains("telescopes"), "{text}");
    admin.post("/vectors/refresh/people", &json!({})).await.ok();
    let found = hits(&bot, &asked).await;
    assert_eq!(found.len(), 201);
    assert!(found.iter().any(|hit| hit["text"] == "sells shoes"));
}

#[tokio::test]
async fn an_index_over_a_view_holds_no_byte_of_what_the_view_hides() {
    let (daemon, admin, _bot) = lake(CANARY).await;
    let shown = admin.get("/vectors/indexes/kb_safe").await.ok();
    assert_eq!(shown["vectors"], 200, "{shown}");
    let all = files(
        &daemon
            .site()
            .data_dir()
            .join("buckets/primary/vectors/kb_safe"),
    );
    assert!(!all.is_empty());
    for file in all {
        let bytes = std::fs::read(&file).unwrap();
        let canary = CANARY.as_bytes();
        assert!(
            !bytes.windows(canary.len()).any(|part| part == canary),
            "{file:?}"
        );
    }
    admin.tombstone("people", &["0"], "asked").await.ok();
    let asked =
        json!({ "index": "kb_safe", "query": "repairs cars and trucks number 0", "k": 300 });
    let found = hits(&admin, &asked).await;
    assert!(found.len() == 199 && !found.iter().any(|hit| hit["key"] == "0"));
}

#[tokio::test]
async fn the_audit_names_the_view_and_the_rows() {
    let (_daemon, admin, bot) = lake("").await;
    let asked = json!({ "index": "kb", "query": "bakes bread", "k": 3 });
    let answer = bot.post("/vectors/search", &asked).await.ok();
    bot.post(
        "/vectors/search",
        &json!({ "index": "e", "query": "bread" }),
    )
    .await
    .problem_code(403, "index_denied");
    let lines = list(&admin.get("/audit?principal=bot").await.ok());
    let of = |allowed: bool| {
        let mut lines = lines.iter();
        lines
            .find(|line| line["action"] == "search" && line["allowed"] == allowed)
            .unwrap_or_else(|| panic!("{lines:?}"))
            .clone()
    };
    let line = of(true);
    assert_eq!(line["objects"], json!(["kb", "people_safe"]), "{line}");
    assert_eq!(line["rows"], 3);
    assert_eq!(of(false)["objects"], json!(["e"]));
    let key = answer["hits"][0]["key"].as_str().unwrap();
    let seen = admin
        .get(&format!("/audit/subject/people/{key}"))
        .await
        .ok();
    assert!(
        list(&seen).iter().any(|line| line["principal"] == "bot"),
        "{seen}"
    );
    let receipt = answer["receipt"].as_str().unwrap();
    let told = bot.get(&format!("/receipts/{receipt}")).await.ok();
    assert_eq!(told["same"], true, "{told}");
}

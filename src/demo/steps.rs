//! The steps, in order. Each begins with its title, checks what it claims and ends with what it
//! showed; the work itself is in the files beside this one.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    DemoError, Doing as _, Options, agent,
    answers::{self, Answers, INDUSTRIES, PEOPLE, Question, SEARCHES, Search},
    daemon::Daemon,
    data::{self, WORDNET_ROWS},
    forget::{self, Forgotten},
    load,
    place::Place,
    script::{Script, say},
};
use crate::{
    cli::{
        client::{Client, items},
        output,
    },
    config::admin_token_path,
};

/// Hits of a search that are printed.
const SHOWN_HITS: usize = 3;

/// Plays all steps on an empty directory.
pub(super) async fn play(
    options: &Options,
    place: &Place,
    script: &mut Script,
) -> Result<Daemon, DemoError> {
    println!(
        "The main job of a lakehouse, through the REST API of a daemon that this demo starts:\n\
         {} rows of a made-up staffing agency, and WordNet's {} entries. No network is needed.",
        output::thousands(options.rows),
        output::thousands(WORDNET_ROWS),
    );
    let daemon = start(options, place, script)?;
    let client = client(&daemon, place)?;
    ingest_tables(&client, options.rows, script).await?;
    ingest_knowledge(&client, script).await?;
    ask(&client, options.rows, script).await?;
    index(&client, script).await?;
    search(&client, script).await?;
    let forgotten = forget(&client, script).await?;
    history(&client, &forgotten, script).await?;
    let (daemon, client) = crash(daemon, &client, &forgotten, place, script).await?;
    erase(&client, &forgotten, script).await?;
    agents(&client, script).await?;
    verify(&client, script).await?;
    Ok(daemon)
}

/// Starts the daemon on a finished demo and checks its journal.
pub(super) async fn resume(
    rows: u64,
    options: &Options,
    place: &Place,
    script: &mut Script,
) -> Result<Daemon, DemoError> {
    println!(
        "{} holds a finished demo of {} rows: this goes on with it. `--fresh` removes it and begins \
         again.",
        place.shown(),
        output::thousands(rows),
    );
    let daemon = start(options, place, script)?;
    verify(&client(&daemon, place)?, script).await?;
    Ok(daemon)
}

fn client(daemon: &Daemon, place: &Place) -> Result<Client, DemoError> {
    let path = admin_token_path(&place.dir);
    let token = std::fs::read_to_string(&path);
    let token = token.map_err(|source| DemoError::File { path, source })?;
    Client::new(daemon.url(), Some(token.trim())).doing("the daemon's address")
}

fn start(options: &Options, place: &Place, script: &mut Script) -> Result<Daemon, DemoError> {
    script.begin("Start a daemon");
    let daemon = Daemon::start(place, options.listen)?;
    script.end(&format!(
        "process {} answers at {}",
        daemon.pid(),
        daemon.url()
    ));
    Ok(daemon)
}

async fn ingest_tables(client: &Client, rows: u64, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Ingest seven tables, each a CSV stream");
    let specs = data::tables(rows);
    for spec in &specs {
        say(&load::table(client, spec, rows).await?);
    }
    let sent: u64 = specs.iter().map(|spec| spec.rows).sum();
    script.end(&format!(
        "{} rows are durable Parquet",
        output::thousands(sent)
    ));
    Ok(())
}

async fn ingest_knowledge(client: &Client, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Ingest a knowledge base, one NDJSON stream");
    say(&load::knowledge(client).await?);
    script.end("WordNet 3.1: words and what they mean");
    Ok(())
}

async fn ask(client: &Client, rows: u64, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Ask in SQL: joins and aggregates");
    for question in [&INDUSTRIES, &PEOPLE] {
        ask_and_show(client, question).await?;
    }
    let total = answers::check_counts(client, &data::tables(rows)).await?;
    script.end(&format!(
        "{} rows count as they were sent",
        output::thousands(total)
    ));
    Ok(())
}

async fn ask_and_show(client: &Client, question: &Question) -> Result<(), DemoError> {
    let answer = answers::ask(client, question).await?;
    if items(&answer["rows"]).is_empty() {
        return Err(DemoError::wrong(question.title, "the answer is empty"));
    }
    let elapsed_ms = output::cell(&answer["elapsed_ms"]);
    say(&format!("{} ({elapsed_ms} ms)", question.title));
    say(&output::result_table(&answer));
    Ok(())
}

async fn index(client: &Client, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Build a vector index over the knowledge base");
    let built = load::index(client).await?;
    script.end(&built);
    Ok(())
}

async fn search(client: &Client, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Search by meaning");
    for search in &SEARCHES {
        search_and_show(client, search).await?;
    }
    script.end("each found the word that is meant, though the query does not hold it");
    Ok(())
}

async fn search_and_show(client: &Client, search: &Search) -> Result<(), DemoError> {
    let began = Instant::now();
    let hits = answers::find(client, search.query).await?;
    let took = output::duration(began.elapsed());
    answers::expected_hit(search, &hits)?;
    say(&format!("\"{}\" ({took})", search.query));
    for hit in &hits[..SHOWN_HITS] {
        say(&format!("   {}", hit_line(hit)));
    }
    Ok(())
}

fn hit_line(hit: &Value) -> String {
    let score = hit["score"].as_f64().unwrap_or_default();
    let line = format!(
        "{}: {}",
        answers::lemmas(hit),
        output::cell(&hit["row"]["gloss"])
    );
    format!("{score:.3}  {}", output::clean(&output::shortened(&line)))
}

async fn forget(client: &Client, script: &mut Script) -> Result<Vec<Forgotten>, DemoError> {
    script.begin("Delete two rows for good");
    let hit = forget::forget_a_hit(client).await?;
    say(&hit.line());
    search_for_others(client).await?;
    let person = forget::forget_a_person(client).await?;
    say(&person.line());
    ask_and_show(client, &PEOPLE).await?;
    script.end("both are gone from SQL and from search with the acknowledgement");
    Ok(vec![hit, person])
}

async fn search_for_others(client: &Client) -> Result<(), DemoError> {
    let query = SEARCHES[0].query;
    say(&format!("\"{query}\" now finds"));
    for hit in &answers::find(client, query).await?[..SHOWN_HITS] {
        say(&format!("   {}", hit_line(hit)));
    }
    Ok(())
}

async fn history(
    client: &Client,
    forgotten: &[Forgotten],
    script: &mut Script,
) -> Result<(), DemoError> {
    script.begin("Ask the journal what became of them");
    for row in forgotten {
        say(&format!("history of {}", row.what));
        for event in &row.checked_history(client).await? {
            say(&format!("   {}", output::event_line(event)));
        }
    }
    script.end("who, when and why stand there; what the rows held does not");
    Ok(())
}

/// Kills the daemon as `kill -9` does, starts it again at the same address, and compares every answer.
async fn crash(
    daemon: Daemon,
    client: &Client,
    forgotten: &[Forgotten],
    place: &Place,
    script: &mut Script,
) -> Result<(Daemon, Client), DemoError> {
    script.begin("Kill the daemon with kill -9, start it again, ask everything again");
    let before = Answers::gather(client, forgotten).await?;
    let (pid, address) = (daemon.pid(), daemon.address());
    daemon.kill9()?;
    let killed = Instant::now();
    let daemon = Daemon::start(place, address)?;
    let ready = output::duration(killed.elapsed());
    say(&format!(
        "process {pid} was killed; process {} answers after {ready}",
        daemon.pid()
    ));
    // Connections of the client before ended with the process.
    let client = self::client(&daemon, place)?;
    let after = Answers::gather(&client, forgotten).await?;
    if let Some(difference) = before.difference(&after) {
        return Err(DemoError::wrong(
            "comparison of the answers before and after",
            difference,
        ));
    }
    script.end(&format!("{} answers are the same as before", after.count()));
    Ok((daemon, client))
}

async fn erase(
    client: &Client,
    forgotten: &[Forgotten],
    script: &mut Script,
) -> Result<(), DemoError> {
    script.begin("Take the deleted rows out of every byte, with a signed receipt");
    for row in forgotten {
        say(&row.erase(client).await?);
    }
    script.end("files and indexes were written anew without them; anybody can check the receipts");
    Ok(())
}

async fn agents(client: &Client, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Let an agent in: a view, a tool, a token");
    let secret = agent::prepare(client).await?;
    script.end("what they do not show does not exist for it");
    script.begin("The agent asks over MCP: for an SSN, and for welders");
    let receipt = agent::ask(client, &secret).await?;
    script.end("it was refused what it must not see, and answered what it may");
    script.begin("Ask the audit what the agent was told");
    let checked = agent::audit(client, &receipt).await?;
    script.end(&checked);
    Ok(())
}

async fn verify(client: &Client, script: &mut Script) -> Result<(), DemoError> {
    script.begin("Verify the journal: hash chain, and live state against replayed state");
    let doing = "verification of the journal";
    let proof = client
        .post(&["journal", "verify"], &json!({}))
        .await
        .doing(doing)?;
    if proof["ok"] != true || proof["state_hash_live"] != proof["state_hash_replayed"] {
        return Err(DemoError::wrong(doing, proof.to_string()));
    }
    let checked = output::thousands(proof["checked"].as_u64().unwrap_or_default());
    say(&format!(
        "state {}",
        output::cell(&proof["state_hash_live"])
    ));
    script.end(&format!(
        "{checked} events are whole, and replaying them gives the state there is"
    ));
    Ok(())
}

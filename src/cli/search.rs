//! `lakehouse search`: the rows of an index that are nearest in meaning to a text.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{CliError, Connection, client::items, output};

/// What `search` takes.
#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    #[command(flatten)]
    connection: Connection,
    /// The index
    index: String,
    /// What to look for, in plain words
    query: String,
    /// How many rows
    #[arg(short, default_value_t = 10, value_name = "ROWS")]
    k: u32,
    /// Only rows of the source for which this SQL condition holds
    #[arg(long, value_name = "SQL")]
    filter: Option<String>,
    /// Columns of the source to show instead of the text, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    columns: Vec<String>,
    /// How rows are found: by meaning, by words, or by both
    #[arg(long, value_enum, default_value_t = Mode::Vector)]
    mode: Mode,
    /// Candidates looked at on the way; more find better and take longer
    #[arg(long, value_name = "CANDIDATES")]
    ef_search: Option<u32>,
    /// Compare every row: slower, and surely the nearest
    #[arg(long)]
    exact: bool,
    /// Search the rows as they were, at a position of the journal or a time
    #[arg(long, value_name = "SEQ|TIME")]
    as_of: Option<String>,
    /// Print the answer of POST /vectors/search
    #[arg(long)]
    json: bool,
}

/// How rows are found.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Vector,
    Text,
    Hybrid,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Text => "text",
            Self::Hybrid => "hybrid",
        }
    }
}

impl SearchArgs {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let client = self.connection.client()?;
        let mut body = json!({ "index": self.index, "query": self.query, "k": self.k });
        if let Some(filter) = &self.filter {
            body["filter"] = json!(filter);
        }
        if !self.columns.is_empty() {
            body["columns"] = json!(self.columns);
        }
        body["mode"] = json!(self.mode.as_str());
        if let Some(ef_search) = self.ef_search {
            body["ef_search"] = json!(ef_search);
        }
        if self.exact {
            body["exact"] = json!(true);
        }
        if let Some(as_of) = &self.as_of {
            body["as_of"] = as_of
                .parse::<u64>()
                .map_or_else(|_| json!(as_of), |seq| json!(seq));
        }
        let answer = client.post(&["vectors", "search"], &body).await?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{answer:#}")?;
        } else {
            writeln!(out, "{}", hits_table(&answer, &self.columns))?;
        }
        Ok(())
    }
}

/// The hits, best first: score, key, and the columns asked for or the text.
fn hits_table(answer: &Value, columns: &[String]) -> String {
    let mut headers = vec!["score", "key"];
    if columns.is_empty() {
        headers.push("text");
    }
    headers.extend(columns.iter().map(String::as_str));
    let hits = items(&answer["hits"]).iter();
    let rows: Vec<Vec<String>> = hits.map(|hit| hit_row(hit, columns)).collect();
    output::table(&headers, &rows)
}

fn hit_row(hit: &Value, columns: &[String]) -> Vec<String> {
    let score = hit["score"].as_f64().unwrap_or_default();
    let mut row = vec![format!("{score:.3}"), output::cell(&hit["key"])];
    if columns.is_empty() {
        // Of a long text the part that the row was found by.
        let chunk = &hit["chunk"]["text"];
        let text = if chunk.is_string() {
            chunk
        } else {
            &hit["text"]
        };
        row.push(output::shortened(&output::cell(text)));
    }
    row.extend(
        columns
            .iter()
            .map(|column| output::cell(&hit["row"][column])),
    );
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_show_their_text_or_the_columns_asked_for() {
        let answer = json!({"hits": [
            {"key": "n1", "score": 0.79812, "text": "a text", "row": {"pos": "noun"}},
        ]});
        let text = hits_table(&answer, &[]);
        assert!(text.contains("0.798") && text.contains("n1") && text.contains("a text"));
        let columns = hits_table(&answer, &["pos".to_owned()]);
        assert!(columns.contains("noun") && !columns.contains("a text"));
        let part = json!({"hits": [
            {"key": "n1", "score": 0.5, "text": "a long text", "chunk": {"text": "its end"}},
        ]});
        let part = hits_table(&part, &[]);
        assert!(part.contains("its end") && !part.contains("a long text"));
    }
}

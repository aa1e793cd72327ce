//! What is said on the wire: the two protocols as requests and answers. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// `POST /api/embed`.
    Ollama,
    /// `POST /embeddings` below a base such as `https://host/v1`.
    Openai,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub struct WireAnswer {
    /// One vector a text, in their order; what is no number is NaN.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of the texts, where it counts them.
    pub tokens: Option<u64>,
}

/// Why an answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// It is not whole, or not what the protocol says: the next one may be.
    Broken(String),
    /// It holds numbers that JSON does not have: one of the texts is to blame.
    NotFinite,
}

#[derive(Deserialize)]
struct OllamaAnswer {
    embeddings: Vec<Vec<Option<f32>>>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct OpenaiAnswer {
    data: Vec<OpenaiItem>,
    #[serde(default)]
    usage: Option<OpenaiUsage>,
}

#[derive(Deserialize)]
struct OpenaiItem {
    index: usize,
    embedding: Vec<Option<f32>>,
}

#[derive(Deserialize)]
struct OpenaiUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
}

impl Wire {
    /// The provider's name in specifications and configuration.
    pub fn provider(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
        }
    }

    /// What follows the configured address.
    pub fn path(self) -> &'static str {
        match self {
            Self::Ollama => "/api/embed",
            Self::Openai => "/embeddings",
        }
    }

    /// The request for the vectors of these texts.
    pub fn request(self, model: &str, texts: &[String]) -> Value {
        match self {
            // Without `truncate` the end of a long text would be left out in silence.
            Self::Ollama => json!({ "model": model, "input": texts, "truncate": false }),
            Self::Openai => json!({ "model": model, "input": texts, "encoding_format": "float" }),
        }
    }

    /// Reads an answer to a request with `count` texts.
    ///
    /// # Errors
    /// What `WireError` tells.
    pub fn read(self, body: &[u8], count: usize) -> Result<WireAnswer, WireError> {
        let (vectors, tokens) = match self {
            Self::Ollama => {
                let answer: OllamaAnswer = parse(body)?;
                (answer.embeddings, answer.prompt_eval_count)
            }
            Self::Openai => {
                let answer: OpenaiAnswer = parse(body)?;
                let tokens = answer.usage.and_then(|usage| usage.prompt_tokens);
                (in_order(answer.data)?, tokens)
            }
        };
        if vectors.len() != count {
            let text = format!("{} vectors for {count} texts", vectors.len());
            return Err(WireError::Broken(text));
        }
        let number = |value: Option<f32>| value.unwrap_or(f32::NAN);
        let vectors = vectors
            .into_iter()
            .map(|vector| vector.into_iter().map(number).collect());
        Ok(WireAnswer {
            vectors: vectors.collect(),
            tokens,
        })
    }

    /// The sentence in the body of a refusal, in either protocol's form; cut to a line.
    pub fn reason(body: &[u8]) -> String {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &value["error"];
        let text = error.as_str().or_else(|| error["message"].as_str());
        let text = text.unwrap_or("it does not say why");
        text.chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect::<String>()
    }
}

/// The vectors by the numbers that they carry: each number once.
fn in_order(items: Vec<OpenaiItem>) -> Result<Vec<Vec<Option<f32>>>, WireError> {
    let mut vectors: Vec<Option<Vec<Option<f32>>>> = vec![None; items.len()];
    for item in items {
        match vectors.get_mut(item.index) {
            Some(slot @ None) => *slot = Some(item.embedding),
            _ => return Err(WireError::Broken("indexes that do not add up".to_owned())),
        }
    }
    Ok(vectors.into_iter().flatten().collect())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| {
        // Servers in Python write these words where JSON has no number for them.
        if error.is_syntax() && ["NaN", "Infinity"].iter().any(|word| holds(body, word)) {
            WireError::NotFinite
        } else {
            // The parser's own words may show what it read.
            let at = (error.line(), error.column());
            WireError::Broken(format!("no answer of the protocol, at {}:{}", at.0, at.1))
        }
    })
}

fn holds(body: &[u8], word: &str) -> bool {
    memchr::memmem::find(body, word.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_the_order_of_its_indexes() {
        let body = br#"{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}],"usage":{"prompt_tokens":7}}"#;
        let answer = Wire::Openai.read(body, 2).unwrap();
        assert_eq!(answer.vectors, [vec![1.0], vec![2.0]]);
        assert_eq!(answer.tokens, Some(7));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_broken() {
        for body in [
            r#"{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]},{"index":7,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embedding":[1]}]}"#,
            r#"{"data":[{"index":0,"embe"#,
            "",
            "[]",
        ] {
            let answer = Wire::Openai.read(body.as_bytes(), 2);
            assert!(
                matches!(answer, Err(WireError::Broken(_))),
                "{body}: {answer:?}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_found() {
        let answer = Wire::Ollama
            .read(br#"{"embeddings":[[1,null]]}"#, 1)
            .unwrap();
        assert!(answer.vectors[0][1].is_nan());
        let answer = Wire::Ollama.read(br#"{"embeddings":[[1,NaN]]}"#, 1);
        assert_eq!(answer, Err(WireError::NotFinite));
    }

    #[test]
    fn a_refusal_is_one_line_in_either_form() {
        assert_eq!(Wire::reason(br#"{"error":"too\nlong"}"#), "toolong");
        assert_eq!(Wire::reason(br#"{"error":{"message":"no"}}"#), "no");
        assert_eq!(Wire::reason(b"<html>"), "it does not say why");
    }
}

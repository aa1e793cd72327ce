//! A small client of the REST API: the verbs, the demo and the benchmarks talk to a daemon by it.
//! It turns `application/problem+json` into [`ClientError`] and never retries.

use std::{path::PathBuf, time::Duration};

use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::Value;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer that is no problem document, so much is shown.
const SHOWN_CHARS: usize = 200;

/// Speaks to one daemon as one principal.
#[derive(Debug, Clone)]
pub struct Client {
    base: Url,
    token: Option<String>,
    http: reqwest::Client,
}

/// Why there is no answer, or a bad one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("`{url}` is not an address such as http://127.0.0.1:3100")]
    BadUrl {
        /// What was given.
        url: String,
    },
    /// There is no token to show.
    #[error(
        "no token: set LAKEHOUSE_TOKEN, or name the daemon's data directory by --data-dir or \
         LAKEHOUSE_DATA_DIR (`{file}`: {reason})"
    )]
    NoToken {
        /// The file that was looked at.
        file: PathBuf,
        /// Why it gave none.
        reason: String,
    },
    /// Nobody answers at that address.
    #[error("no daemon answers at {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to the daemon broke: {reason}")]
    Interrupted {
        /// What the network said.
        reason: String,
    },
    /// The daemon said no, and why.
    #[error("{detail} ({code})")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// The stable word for the problem.
        code: String,
        /// What is wrong, for a person.
        detail: String,
        /// Seconds after which it may work.
        retry_after_s: Option<u64>,
    },
    /// An error or an answer that is not of this API.
    #[error("{url} answered {status}: {text}")]
    Foreign {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        text: String,
    },
}

impl ClientError {
    /// The stable word of a problem.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { status, .. } | Self::Foreign { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Client {
    /// A client for the daemon at `url`, `http://host:port`. Does not connect yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`].
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl {
            url: url.to_owned(),
        };
        let base = Url::parse(url).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(bad());
        }
        // A proxy of the environment is not asked for this machine's own addresses.
        let local = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        let builder = if local { builder.no_proxy() } else { builder };
        Ok(Self {
            http: builder.build().map_err(|_| bad())?,
            base,
            token: token.map(str::to_owned),
        })
    }

    /// The daemon's address, without a slash at its end.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The token that it shows.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// A request with the token on it. `path` is its segments, not yet encoded.
    pub fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(path);
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET` with query parameters.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, ClientError> {
        self.answer(self.request(Method::GET, path).query(query))
            .await
    }

    /// `POST` of a JSON body.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post(&self, path: &[&str], body: &Value) -> Result<Value, ClientError> {
        self.answer(self.request(Method::POST, path).json(body))
            .await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn delete(&self, path: &[&str]) -> Result<Value, ClientError> {
        self.answer(self.request(Method::DELETE, path)).await
    }

    /// `POST` of a JSON body, answered by a stream of the type `accept`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post_for_stream(
        &self,
        path: &[&str],
        body: &Value,
        accept: &str,
    ) -> Result<Response, ClientError> {
        let request = self.request(Method::POST, path).json(body);
        self.send(request.header(ACCEPT, accept)).await
    }

    /// Sends a request and reads its JSON answer; an empty one is `null`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn answer(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        let response = self.send(request).await?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|e| interrupted(&e))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| self.foreign(status, &bytes))
    }

    /// Sends a request and returns its answer when that is a success.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Interrupted`], or what the daemon answered as
    /// [`ClientError::Problem`] or [`ClientError::Foreign`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) if e.is_connect() => {
                return Err(ClientError::Unreachable {
                    url: self.base().to_owned(),
                    reason: root_cause(&e),
                });
            }
            Err(e) => return Err(interrupted(&e)),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.problem(response).await)
    }

    async fn problem(&self, response: Response) -> ClientError {
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok();
        let retry_after_s = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let is_json = header(CONTENT_TYPE).is_some_and(|kind| kind.contains("json"));
        let Ok(bytes) = response.bytes().await else {
            return self.foreign(status, b"");
        };
        let document: Option<Value> = serde_json::from_slice(&bytes).ok().filter(|_| is_json);
        let word = |name: &str| document.as_ref()?.get(name)?.as_str().map(str::to_owned);
        match word("code") {
            Some(code) => ClientError::Problem {
                status: status.as_u16(),
                detail: word("detail").or_else(|| word("title")).unwrap_or_default(),
                code,
                retry_after_s,
            },
            None => self.foreign(status, &bytes),
        }
    }

    fn foreign(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let text = String::from_utf8_lossy(bytes);
        let text: String = text.trim().chars().take(SHOWN_CHARS).collect();
        ClientError::Foreign {
            url: self.base().to_owned(),
            status: status.as_u16(),
            text: if text.is_empty() {
                "nothing".to_owned()
            } else {
                text
            },
        }
    }
}

fn interrupted(error: &reqwest::Error) -> ClientError {
    ClientError::Interrupted {
        reason: root_cause(error),
    }
}

/// The innermost cause: what the operating system or the protocol said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The entries of an answer that is a list, or a page `{items, next}` of one.
pub fn items(answer: &Value) -> &[Value] {
    let list = answer.as_array().or_else(|| answer["items"].as_array());
    list.map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use serde_json::json;

    use super::*;

    /// Answers one request with `response` and returns what was asked.
    fn answer_once(response: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).expect("it asks");
            stream.write_all(response.as_bytes()).expect("it listens");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (url, server)
    }

    #[tokio::test]
    async fn a_problem_document_becomes_its_detail_and_code() {
        let (url, server) = answer_once(
            "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n\
             content-length: 68\r\nconnection: close\r\n\r\n\
             {\"status\":404,\"detail\":\"no dataset `x`\",\"code\":\"dataset_not_found\"}\n",
        );
        let client = Client::new(&url, Some("secret")).expect("a good address");
        let error = client.get(&["catalog", "a/b c"], &[("limit", "5")]).await;
        let error = error.expect_err("it is a 404");
        assert_eq!(error.to_string(), "no dataset `x` (dataset_not_found)");
        assert_eq!(
            (error.status(), error.code()),
            (Some(404), Some("dataset_not_found"))
        );
        assert!(matches!(
            error,
            ClientError::Problem {
                retry_after_s: Some(2),
                ..
            }
        ));
        let request = server.join().expect("the server ends").to_ascii_lowercase();
        assert!(
            request.starts_with("get /catalog/a%2fb%20c?limit=5 http/1.1\r\n"),
            "{request}"
        );
        assert!(
            request.contains("\r\nauthorization: bearer secret\r\n"),
            "{request}"
        );
    }

    #[tokio::test]
    async fn an_answer_of_something_else_is_shown_as_it_is() {
        let (url, _server) = answer_once(
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 7\r\nconnection: close\r\n\r\n<html>\n",
        );
        let client = Client::new(&url, None).expect("a good address");
        let error = client.get(&["health"], &[]).await.expect_err("it is a 502");
        assert_eq!(error.to_string(), format!("{url} answered 502: <html>"));
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_said_to_be_so() {
        let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", closed.local_addr().expect("it is bound"));
        drop(closed);
        let client = Client::new(&url, None).expect("a good address");
        let error = client
            .get(&["health"], &[])
            .await
            .expect_err("nobody listens");
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("no daemon answers at {url}: "))
        );
    }

    #[test]
    fn an_address_without_a_scheme_is_refused() {
        for url in ["127.0.0.1:3100", "ftp://host", "http://", ""] {
            assert!(
                matches!(Client::new(url, None), Err(ClientError::BadUrl { .. })),
                "{url}"
            );
        }
    }

    #[test]
    fn a_list_and_a_page_of_one_are_read_alike() {
        assert_eq!(items(&json!([1, 2])).len(), 2);
        assert_eq!(items(&json!({"items": [1], "next": null})).len(), 1);
        assert_eq!(items(&json!({"other": 1})).len(), 0);
    }
}

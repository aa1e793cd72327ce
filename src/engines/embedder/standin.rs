//! A server that stands in for Ollama and for the `OpenAI` interface: it speaks both protocols over
//! real HTTP on loopback, counts what it is asked, and misbehaves on demand. Benchmarks and tests
//! drive the remote embedders against it; the daemon never starts it.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::{StatusCode, header},
    web,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DIMENSIONS, StaticEmbedder};

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// A way to misbehave.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// Answers well, after a while.
    Slow(Duration),
    /// Answers with a status.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    RateLimit(u64),
    /// Cuts its JSON off in the middle.
    Truncated,
    /// Answers vectors of so many numbers.
    Dimensions(usize),
    /// Answers `null` in the place of a number.
    Null,
    /// Answers the word `NaN`, which JSON does not have.
    NotANumber,
    /// Answers vectors of zeros.
    Zeros,
    /// Answers one vector too few.
    OneShort,
    /// Answers with so many bytes of white space before the JSON.
    Padded(usize),
    /// Answers the first text where vectors are expected.
    Echo,
}

#[derive(Default)]
struct Memory {
    calls: u64,
    texts: u64,
    /// How often each text was sent.
    sent: HashMap<String, u64>,
    largest_batch: usize,
    running: usize,
    most_running: usize,
    next: VecDeque<Trouble>,
    always: Option<Trouble>,
    refused_word: Option<String>,
    key: Option<String>,
    /// Each answer takes so long.
    pace: Duration,
}

/// A running server; stopped when dropped.
pub struct StandIn {
    address: SocketAddr,
    memory: Arc<Mutex<Memory>>,
    handle: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    memory: Arc<Mutex<Memory>>,
    dimensions: usize,
}

#[derive(Deserialize)]
struct Asked {
    model: String,
    input: Vec<String>,
    #[serde(default)]
    truncate: Option<bool>,
}

impl StandIn {
    /// Starts a server whose models answer vectors of so many numbers.
    ///
    /// # Errors
    /// When no port of the loopback address can be had.
    pub fn start(dimensions: usize) -> std::io::Result<Self> {
        let memory: Arc<Mutex<Memory>> = Arc::default();
        let shared = Shared {
            memory: Arc::clone(&memory),
            dimensions,
        };
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("embedder stand-in".to_owned())
            .spawn(move || serve(shared, &tell))?;
        let (address, handle) = told
            .recv()
            .map_err(|_| std::io::Error::other("the stand-in ended at once"))??;
        Ok(Self {
            address,
            memory,
            handle,
            thread: Some(thread),
        })
    }

    /// Its address as an Ollama server.
    pub fn ollama_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address as a server with the `OpenAI` interface.
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.memory.lock().calls
    }

    /// Texts so far, those of calls that failed too.
    pub fn texts(&self) -> u64 {
        self.memory.lock().texts
    }

    /// How often each text was sent.
    pub fn sent(&self) -> HashMap<String, u64> {
        self.memory.lock().sent.clone()
    }

    /// Texts of the largest call.
    pub fn largest_batch(&self) -> usize {
        self.memory.lock().largest_batch
    }

    /// Most calls that ran at the same time.
    pub fn most_running(&self) -> usize {
        self.memory.lock().most_running
    }

    /// Forgets what it was asked.
    pub fn forget(&self) {
        let mut memory = self.memory.lock();
        memory.calls = 0;
        memory.texts = 0;
        memory.sent.clear();
    }

    /// Misbehaves once more, at the next call that has nothing else to do.
    pub fn once(&self, trouble: Trouble) {
        self.memory.lock().next.push_back(trouble);
    }

    /// Misbehaves at every call, or no more.
    pub fn always(&self, trouble: Option<Trouble>) {
        self.memory.lock().always = trouble;
    }

    /// Refuses every call that has a text with this word.
    pub fn refuse_word(&self, word: Option<&str>) {
        self.memory.lock().refused_word = word.map(str::to_owned);
    }

    /// Serves only who has this key.
    pub fn require_key(&self, key: &str) {
        self.memory.lock().key = Some(key.to_owned());
    }

    /// Lets every answer take so long.
    pub fn pace(&self, pace: Duration) {
        self.memory.lock().pace = pace;
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Sends the command; the future only waits for its end.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Started = std::io::Result<(SocketAddr, ServerHandle)>;

fn serve(shared: Shared, tell: &std::sync::mpsc::Sender<Started>) {
    let system = actix_web::rt::System::new();
    system.block_on(async {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(shared.clone()))
                .app_data(web::JsonConfig::default().limit(REQUEST_BYTES_MAX))
                .route("/api/embed", web::post().to(ollama))
                .route("/v1/embeddings", web::post().to(openai))
        })
        .workers(1)
        .shutdown_timeout(0)
        .disable_signals()
        .bind((Ipv4Addr::LOCALHOST, 0));
        match server {
            Ok(server) => {
                let address = server.addrs()[0];
                let server = server.run();
                let _ = tell.send(Ok((address, server.handle())));
                let _ = server.await;
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
}

async fn ollama(
    shared: web::Data<Shared>,
    request: HttpRequest,
    asked: web::Json<Asked>,
) -> HttpResponse {
    if asked.truncate != Some(false) {
        return refusal(400, "a text must not be cut in silence").respond();
    }
    let tokens = tokens(&asked.input);
    let (vectors, trouble) = match answer(&shared, &request, &asked).await {
        Ok(found) => found,
        Err(refused) => return refused.respond(),
    };
    if trouble == Some(Trouble::Echo) {
        return HttpResponse::Ok().json(json!({ "embeddings": asked.input }));
    }
    let body = json!({
        "model": asked.model,
        "embeddings": vectors,
        "prompt_eval_count": tokens,
    });
    write(&body, trouble.as_ref())
}

async fn openai(
    shared: web::Data<Shared>,
    request: HttpRequest,
    asked: web::Json<Asked>,
) -> HttpResponse {
    let tokens = tokens(&asked.input);
    let (vectors, trouble) = match answer(&shared, &request, &asked).await {
        Ok(found) => found,
        Err(refused) => return refused.respond(),
    };
    if trouble == Some(Trouble::Echo) {
        return HttpResponse::Ok().json(json!({ "data": asked.input }));
    }
    // In no particular order, as the protocol allows.
    let data: Vec<Value> = vectors
        .into_iter()
        .enumerate()
        .rev()
        .map(|(index, embedding)| json!({ "object": "embedding", "index": index, "embedding": embedding }))
        .collect();
    let body = json!({
        "object": "list",
        "model": asked.model,
        "data": data,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    });
    write(&body, trouble.as_ref())
}

fn tokens(texts: &[String]) -> usize {
    texts
        .iter()
        .map(|text| text.split_whitespace().count())
        .sum()
}

type Vectors = Vec<Vec<Option<f32>>>;

async fn answer(
    shared: &Shared,
    request: &HttpRequest,
    asked: &Asked,
) -> Result<(Vectors, Option<Trouble>), Refusal> {
    let _running = Running::begin(shared);
    let (trouble, pace) = {
        let mut memory = shared.memory.lock();
        note(&mut memory, asked);
        (
            memory.next.pop_front().or(memory.always.clone()),
            memory.pace,
        )
    };
    if !pace.is_zero() {
        tokio::time::sleep(pace).await;
    }
    if let Some(refused) = refuses(&shared.memory.lock(), request, asked) {
        return Err(refused);
    }
    let mut dimensions = shared.dimensions;
    match &trouble {
        Some(Trouble::Slow(pause)) => tokio::time::sleep(*pause).await,
        Some(Trouble::Status(status)) => {
            let first = asked.input.first().map_or("", String::as_str);
            return Err(refusal(*status, &format!("as it was told, for `{first}`")));
        }
        Some(Trouble::RateLimit(seconds)) => {
            return Err(Refusal {
                retry_after: Some(*seconds),
                ..refusal(429, "too many requests")
            });
        }
        Some(Trouble::Dimensions(other)) => dimensions = *other,
        _ => {}
    }
    let mut vectors: Vectors = asked
        .input
        .iter()
        .map(|text| vector(text, dimensions).into_iter().map(Some).collect())
        .collect();
    match &trouble {
        Some(Trouble::Null) => vectors.iter_mut().for_each(|vector| vector[0] = None),
        Some(Trouble::Zeros) => vectors.iter_mut().for_each(|vector| vector.fill(Some(0.0))),
        Some(Trouble::OneShort) => {
            vectors.pop();
        }
        _ => {}
    }
    Ok((vectors, trouble))
}

/// A call that runs, counted.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let mut memory = shared.memory.lock();
        memory.running += 1;
        memory.most_running = memory.most_running.max(memory.running);
        Self(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.memory.lock().running -= 1;
    }
}

fn note(memory: &mut Memory, asked: &Asked) {
    memory.calls += 1;
    memory.texts += asked.input.len() as u64;
    memory.largest_batch = memory.largest_batch.max(asked.input.len());
    for text in &asked.input {
        *memory.sent.entry(text.clone()).or_default() += 1;
    }
}

fn refuses(memory: &Memory, request: &HttpRequest, asked: &Asked) -> Option<Refusal> {
    if let Some(key) = &memory.key {
        let given = request.headers().get(header::AUTHORIZATION);
        let given = given.and_then(|value| value.to_str().ok());
        if given != Some(&format!("Bearer {key}")) {
            return Some(refusal(401, "no such key"));
        }
    }
    if asked.model.starts_with("missing") {
        return Some(refusal(404, "model not found, try pulling it first"));
    }
    let word = memory.refused_word.as_ref()?;
    let has_it = asked.input.iter().any(|text| text.contains(word));
    has_it.then(|| refusal(400, "the input length exceeds the context length"))
}

/// An answer that is none.
struct Refusal {
    status: u16,
    text: String,
    retry_after: Option<u64>,
}

fn refusal(status: u16, text: &str) -> Refusal {
    Refusal {
        status,
        text: text.to_owned(),
        retry_after: None,
    }
}

impl Refusal {
    fn respond(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.status);
        let mut response = HttpResponse::build(status.unwrap_or(StatusCode::BAD_GATEWAY));
        if let Some(seconds) = self.retry_after {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        response.json(json!({ "error": self.text }))
    }
}

fn write(body: &Value, trouble: Option<&Trouble>) -> HttpResponse {
    let mut text = body.to_string();
    match trouble {
        Some(Trouble::Truncated) => text.truncate(text.len() / 2),
        Some(Trouble::NotANumber) => {
            // Before the first number of the first vector, in either form.
            let first = text.find("[[").map(|at| at + 2);
            let first = first.or_else(|| Some(text.find("\"embedding\":[")? + 13));
            if let Some(at) = first {
                text.insert_str(at, "NaN,");
            }
        }
        Some(Trouble::Padded(bytes)) => text.insert_str(0, &" ".repeat(*bytes)),
        _ => {}
    }
    HttpResponse::Ok()
        .content_type("application/json")
        .body(text)
}

/// A vector that says what the text means, as far as the static embedder knows; of any length.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let known = StaticEmbedder::built_in().embed(text);
    let known = known.unwrap_or_else(|| {
        let hash = blake3::hash(text.as_bytes());
        let mut vector = [0.0; DIMENSIONS];
        for (number, byte) in vector.iter_mut().zip(hash.as_bytes()) {
            *number = f32::from(*byte) + 1.0;
        }
        vector
    });
    known.iter().copied().cycle().take(dimensions).collect()
}

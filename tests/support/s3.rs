//! An S3 server in the tests' own process: s3s on a directory, behind a port of its own, with the faults
//! that a test asks for. It can be killed and come back on the same port with the same objects.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use actix_web::body::SizedStream;
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{HeaderName, HeaderValue};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;

/// The keys that the server takes.
pub const ACCESS_KEY: &str = "lake-test-key";
/// The secret half of them.
pub const SECRET_KEY: &str = "CANARY-s3-secret-9f3e1c";

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered.
    None,
    /// Nobody ever answers.
    Hang,
    /// It is refused with this status.
    Status(u16),
    /// It is carried out, and answered with this status.
    DoneThen(u16),
    /// Its answer is half as long as it says.
    Short,
    /// It is carried out, and the connection breaks before a byte of the answer's body.
    Broken,
    /// It is carried out, and told by another `ETag`.
    OtherEtag,
}

type Plan = Box<dyn FnMut(&str, &str) -> Fault + Send>;

/// The server.
pub struct S3Server {
    root: TempDir,
    port: u16,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

struct Running {
    handle: ServerHandle,
    thread: std::thread::JoinHandle<()>,
}

struct Shared {
    service: S3Service,
    /// s3s-fs looks and writes in two steps: of many that create an object, one may win only.
    conditional: tokio::sync::Mutex<()>,
    plan: Mutex<Plan>,
    seen: Mutex<Vec<(String, String)>>,
}

impl S3Server {
    /// A server with these buckets, on a free port.
    pub fn start(buckets: &[&str]) -> Self {
        let root = tempfile::Builder::new().prefix("s3-").tempdir().unwrap();
        for bucket in buckets {
            std::fs::create_dir(root.path().join(bucket)).unwrap();
        }
        let files = s3s_fs::FileSystem::new(root.path()).unwrap();
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let shared = Arc::new(Shared {
            service: builder.build(),
            conditional: tokio::sync::Mutex::new(()),
            plan: Mutex::new(Box::new(|_, _| Fault::None)),
            seen: Mutex::default(),
        });
        let (running, port) = run(Arc::clone(&shared), 0);
        Self {
            root,
            port,
            shared,
            running: Mutex::new(Some(running)),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address of one of its buckets.
    pub fn url(&self, bucket: &str) -> String {
        format!("http://127.0.0.1:{}/{bucket}", self.port)
    }

    /// Where the objects of a bucket lie.
    pub fn dir(&self, bucket: &str) -> std::path::PathBuf {
        self.root.path().join(bucket)
    }

    /// Decides about every request from now on, by method and path.
    pub fn plan(&self, plan: impl FnMut(&str, &str) -> Fault + Send + 'static) {
        *self.shared.plan.lock() = Box::new(plan);
    }

    /// Answers everything again.
    pub fn heal(&self) {
        self.plan(|_, _| Fault::None);
    }

    /// Method and path of every request so far.
    pub fn seen(&self) -> Vec<(String, String)> {
        self.shared.seen.lock().clone()
    }

    /// Closes the port; connections break.
    pub fn kill(&self) {
        if let Some(running) = self.running.lock().take() {
            futures::executor::block_on(running.handle.stop(false));
            running.thread.join().unwrap();
        }
    }

    /// Comes back on the same port.
    pub fn restart(&self) {
        let mut running = self.running.lock();
        assert!(running.is_none(), "it runs");
        *running = Some(run(Arc::clone(&self.shared), self.port).0);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(shared: Arc<Shared>, port: u16) -> (Running, u16) {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::from(Arc::clone(&shared)))
                    .app_data(web::PayloadConfig::new(1 << 30))
                    .default_service(web::to(answer))
            })
            .workers(1)
            .shutdown_timeout(0)
            .disable_signals()
            .bind(("127.0.0.1", port))
            .unwrap();
            let port = server.addrs()[0].port();
            let server = server.run();
            send.send((server.handle(), port)).unwrap();
            server.await.unwrap();
        });
    });
    let (handle, port) = receive.recv().unwrap();
    (Running { handle, thread }, port)
}

async fn answer(request: HttpRequest, body: web::Bytes, shared: web::Data<Shared>) -> HttpResponse {
    let (method, path) = (
        request.method().as_str().to_owned(),
        request.path().to_owned(),
    );
    let fault = (shared.plan.lock())(&method, &path);
    shared.seen.lock().push((method, path));
    match fault {
        Fault::None | Fault::Short | Fault::Broken | Fault::OtherEtag => {
            carry_out(&request, body, &shared, fault).await
        }
        Fault::Hang => std::future::pending().await,
        Fault::Status(status) => refusal(status),
        Fault::DoneThen(status) => {
            carry_out(&request, body, &shared, Fault::None).await;
            refusal(status)
        }
    }
}

fn refusal(status: u16) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap();
    HttpResponse::build(status)
        .content_type("application/xml")
        .body("<Error><Code>Fault</Code><Message>planned</Message></Error>")
}

async fn carry_out(
    request: &HttpRequest,
    body: web::Bytes,
    shared: &Shared,
    fault: Fault,
) -> HttpResponse {
    let mut asked = s3s::HttpRequest::new(s3s::Body::from(body));
    *asked.method_mut() = request.method().as_str().parse().unwrap();
    *asked.uri_mut() = request.uri().to_string().parse().unwrap();
    for (name, value) in request.headers() {
        asked.headers_mut().append(
            HeaderName::from_bytes(name.as_str().as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let is_conditional = request.headers().contains_key("if-none-match");
    let _alone = if is_conditional {
        Some(shared.conditional.lock().await)
    } else {
        None
    };
    let answered = shared.service.call(asked).await.unwrap();
    let (parts, mut stream) = answered.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    let status = actix_web::http::StatusCode::from_u16(parts.status.as_u16()).unwrap();
    let mut response = HttpResponse::build(status);
    let mut length = None;
    for (name, value) in &parts.headers {
        match name.as_str() {
            "content-length" => length = value.to_str().unwrap().parse::<u64>().ok(),
            "transfer-encoding" => {}
            "etag" if fault == Fault::OtherEtag => {
                response.append_header(("etag", "\"00000000000000000000000000000000\""));
            }
            name => {
                response.append_header((name, value.as_bytes()));
            }
        }
    }
    if request.method() == actix_web::http::Method::HEAD {
        let none = futures::stream::empty::<Result<web::Bytes, actix_web::Error>>();
        return response.body(SizedStream::new(length.unwrap_or(0), none));
    }
    let kept = match fault {
        Fault::Short => bytes.len() / 2,
        Fault::Broken => 0,
        _ => bytes.len(),
    };
    if kept < bytes.len() || fault == Fault::Broken {
        let all = (bytes.len() as u64).max(1);
        bytes.truncate(kept);
        let half = futures::stream::iter([
            Ok(web::Bytes::from(bytes)),
            Err(actix_web::error::ErrorInternalServerError("cut")),
        ]);
        return response.body(SizedStream::new(all, half));
    }
    response.body(bytes)
}

/// What stands in `lakehouse.toml` for a primary bucket on disk and others.
pub fn config(parts: &[&str]) -> String {
    let primary = "[[storage.buckets]]\nname = \"primary\"\nbackend = \"local\"\nroot = \"buckets/primary\"\n";
    let parts = parts.join("\n");
    if parts.contains("name = \"primary\"") {
        parts
    } else {
        format!("{primary}\n{parts}")
    }
}

/// What stands there for a bucket of the server.
pub fn bucket(server: &S3Server, name: &str, rescue: Option<&str>) -> String {
    let rescue = rescue.map_or(String::new(), |to| format!("rescue_bucket = \"{to}\"\n"));
    format!(
        "[[storage.buckets]]\nname = \"{name}\"\nbackend = \"s3\"\nurl = \"{}\"\nsecret = \"store\"\n\
         allow_http = true\n{rescue}",
        server.url(name)
    )
}

/// Puts the server's keys into a data directory's secrets.
pub fn write_secrets(data_dir: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::create_dir_all(data_dir).unwrap();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(data_dir.join("secrets.toml"))
        .unwrap();
    let text = format!(
        "[store]\naccess_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n"
    );
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

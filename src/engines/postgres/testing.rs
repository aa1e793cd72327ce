//! A real Postgres server for tests and measurements, out of the distribution's package.
//! Called by tests and by `lakehouse bench postgres`. The server listens on a free loopback port, keeps its data in a temporary
//! directory, never runs as root, and is gone when its handle or the process is.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The superuser of the test server, and its password, which no error may ever show.
pub const USER: &str = "lakehouse_test";
/// See [`USER`].
pub const PASSWORD: &str = "hunter2-never-shown";

const START_PATIENCE: Duration = Duration::from_mins(1);

/// Whether a server can be started on this machine.
pub fn installed() -> bool {
    find_bin().is_some()
}

/// SQL that makes the table `mixed`: 13 columns of whole and other numbers, text, times, a uuid, and
/// nulls in two of them.
pub fn mixed_table(rows: u64) -> String {
    format!(
        "CREATE TABLE mixed AS SELECT i::int8 AS id, (i % 1000)::int4 AS small, i * 0.5::float8 AS ratio, \
         (i % 100000 / 100.0)::numeric(12,2) AS price, 'name ' || i AS name, md5(i::text) AS hash, i % 3 = 0 AS flag, \
         date '2020-01-01' + i % 1000 AS day, timestamptz '2020-01-01Z' + i * interval '1 second' AS at, \
         CASE WHEN i % 10 = 0 THEN NULL ELSE 'note ' || i % 77 END AS note, md5(i::text)::uuid AS key, \
         (i % 7)::int2 AS tiny, CASE WHEN i % 5 = 0 THEN NULL ELSE i::float4 END AS maybe \
         FROM generate_series(1, {rows}) AS i; ANALYZE mixed;"
    )
}

/// A running server; dropping it stops it and removes its data.
pub struct TestServer {
    /// The port on 127.0.0.1.
    pub port: u16,
    bin: PathBuf,
    data: PathBuf,
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<std::thread::JoinHandle<()>>,
    _directory: TempDir,
}

/// The server that the tests of one process share while any of them runs.
static SHARED: Mutex<Weak<TestServer>> = Mutex::new(Weak::new());

impl TestServer {
    /// The shared server. A test keeps to a database of its own: see [`TestServer::create_database`].
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(&[]));
        *shared = Arc::downgrade(&server);
        server
    }

    /// Starts a server of its own with further settings (`name`, `value` of `postgresql.conf`).
    ///
    /// # Panics
    /// When Postgres is not installed, naming the package, or does not start, with its log.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with_files(settings, &[])
    }

    /// As [`TestServer::start`], with files put into the data directory first (name, content, mode 0600).
    ///
    /// # Panics
    /// As [`TestServer::start`].
    pub fn start_with_files(settings: &[(&str, &str)], files: &[(&str, &[u8])]) -> Self {
        let bin = find_bin().expect(
            "PostgreSQL is needed for this test: `apt-get install postgresql` (initdb and postgres \
             were found neither by `pg_config --bindir` nor in /usr/lib/postgresql/*/bin)",
        );
        let directory = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir()
            .expect("a temporary directory");
        let account = account();
        give(directory.path(), account);
        let data = directory.path().join("data");
        initialize(&bin, directory.path(), &data, account);
        for (name, content) in files {
            let path = data.join(name);
            std::fs::write(&path, content).expect("the data directory can be written");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .expect("the file is ours");
            give(&path, account);
        }
        let port = free_port();
        configure(&data, directory.path(), port, settings);
        let (stop, keeper) = keep(&bin, &data, account);
        let server = Self {
            port,
            bin,
            data,
            stop: Some(stop),
            keeper: Some(keeper),
            _directory: directory,
        };
        server.wait_until_ready();
        server
    }

    /// A connection string for a database of this server.
    pub fn dsn(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Makes an empty database and returns its name, unique in this server.
    pub fn create_database(&self) -> String {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("t{number}");
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs SQL through `psql` and returns what it prints: rows in lines, columns between tabs,
    /// nulls as `\N`.
    ///
    /// # Panics
    /// When `psql` reports an error.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8(output.stdout).expect("psql prints UTF-8")
    }

    /// Ends the server as a crash does, with clients connected.
    pub fn kill(&self) {
        let pid =
            std::fs::read_to_string(self.data.join("postmaster.pid")).expect("the server runs");
        let pid = pid.lines().next().unwrap_or_default().to_owned();
        let killed = Command::new("kill")
            .args(["-QUIT", &pid])
            .status()
            .expect("kill runs");
        assert!(killed.success(), "the server was gone already");
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let mut psql = Command::new(self.bin.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-F",
                "\t",
                "-P",
                "null=\\N",
                "-v",
                "ON_ERROR_STOP=1",
            ])
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                USER,
                "-d",
                database,
            ])
            .args(["-f", "-"])
            .env("PGPASSWORD", PASSWORD)
            .env("PGTZ", "UTC")
            .env("PGCLIENTENCODING", "UTF8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql lies beside postgres");
        // psql answers while it reads; a thread feeds it so that neither waits for the other.
        let mut stdin = psql.stdin.take().expect("it is piped");
        let sql = sql.to_owned();
        let feeder =
            std::thread::spawn(move || std::io::Write::write_all(&mut stdin, sql.as_bytes()));
        let output = psql.wait_with_output().expect("psql ends");
        let _fed = feeder.join();
        output
    }

    fn wait_until_ready(&self) {
        let begun = Instant::now();
        loop {
            let answer = self.psql("postgres", "SELECT 1");
            if answer.status.success() {
                return;
            }
            let log = || std::fs::read_to_string(self.data.join("server.log")).unwrap_or_default();
            assert!(
                begun.elapsed() < START_PATIENCE,
                "PostgreSQL does not start:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ended = keeper.join();
        }
    }
}

/// Where `initdb`, `postgres` and `psql` are.
fn find_bin() -> Option<PathBuf> {
    let complete = |bin: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|tool| bin.join(tool).is_file())
    };
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    let elsewhere = [
        "/usr/local/bin",
        "/usr/local/pgsql/bin",
        "/opt/homebrew/bin",
    ]
    .map(PathBuf::from);
    configured
        .into_iter()
        .chain(versions.into_iter().rev())
        .chain(elsewhere)
        .find(complete)
}

/// Whom to run the server as: Postgres refuses root. `None` when we are somebody else already.
fn account() -> Option<(u32, u32)> {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    if String::from_utf8_lossy(&id.stdout).trim() != "0" {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("there are accounts");
    let find = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(
        find("postgres")
            .or_else(|| find("nobody"))
            .expect("an account beside root"),
    )
}

fn give(path: &Path, account: Option<(u32, u32)>) {
    if let Some((user, group)) = account {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may give files away");
    }
}

/// A command as that account, which ends when the thread that starts it does.
fn command(program: &Path, account: Option<(u32, u32)>) -> Command {
    if Command::new("setpriv").arg("--version").output().is_err() {
        assert!(
            account.is_none(),
            "`setpriv` (package util-linux) is needed to leave root"
        );
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((user, group)) = account {
        command.args([
            format!("--reuid={user}"),
            format!("--regid={group}"),
            "--clear-groups".into(),
        ]);
    }
    command.arg(program);
    command
}

fn initialize(bin: &Path, directory: &Path, data: &Path, account: Option<(u32, u32)>) {
    let password = directory.join("password");
    std::fs::write(&password, PASSWORD).expect("the directory is ours");
    give(&password, account);
    let output = command(&bin.join("initdb"), account)
        .args([
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--auth=scram-sha-256",
            "-U",
            USER,
        ])
        .arg("--pwfile")
        .arg(&password)
        .arg("-D")
        .arg(data)
        .current_dir(directory)
        .output()
        .expect("initdb runs");
    assert!(
        output.status.success(),
        "initdb: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn configure(data: &Path, sockets: &Path, port: u16, settings: &[(&str, &str)]) {
    let sockets = sockets.to_string_lossy().into_owned();
    let port = port.to_string();
    let own = [
        ("listen_addresses", "127.0.0.1"),
        ("port", port.as_str()),
        ("unix_socket_directories", sockets.as_str()),
        ("fsync", "off"),
        ("synchronous_commit", "off"),
        ("full_page_writes", "off"),
        ("max_wal_size", "4GB"),
        ("shared_buffers", "256MB"),
        ("autovacuum", "off"),
    ];
    let path = data.join("postgresql.conf");
    let mut text = std::fs::read_to_string(&path).expect("initdb writes it");
    for (name, value) in own.iter().chain(settings) {
        writeln!(text, "{name} = '{value}'").expect("a string takes all");
    }
    std::fs::write(&path, text).expect("the data directory can be written");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Runs the server from a thread that lives as long as it: the kernel ends the server with the
/// thread that started it, so no test that panics or is killed leaves one behind.
fn keep(
    bin: &Path,
    data: &Path,
    account: Option<(u32, u32)>,
) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (stop, stopped) = mpsc::channel::<()>();
    let (program, data) = (bin.join("postgres"), data.to_path_buf());
    let keeper = std::thread::spawn(move || {
        let log = std::fs::File::create(data.join("server.log")).expect("the directory is ours");
        let mut child = command(&program, account)
            .arg("-D")
            .arg(&data)
            .current_dir(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres runs");
        let _dropped = stopped.recv();
        end(&mut child);
    });
    (stop, keeper)
}

/// Asks for an immediate end; a server with `fsync` off has nothing worth a clean one.
fn end(child: &mut Child) {
    let _asked = Command::new("kill")
        .args(["-QUIT", &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    for _ in 0..200 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _killed = child.kill();
    let _ended = child.wait();
}

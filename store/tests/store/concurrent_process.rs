//! Runs this test binary again as another process, with a task that its environment names.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use store::{Database, NewSession, NewToken, NewUser, Store};

use crate::test_db::{first_cache, new_user, token_key};

const TASK: &str = "MEMGATE_TEST_TASK";
const DATABASE: &str = "MEMGATE_TEST_DATABASE";

/// What the other process does with the database.
pub(crate) enum Task<'a> {
    /// Open it and print its installation id.
    Open,
    /// Open it under a umask and print the modes of its files.
    Modes { umask: &'a str },
    /// Log at every level and check that no value of a row is logged.
    Log,
    /// Create tokens of a cache.
    Write { cache_id: &'a str, tokens: u32 },
}

/// Runs a task in another process; returns the lines of its results.
pub(crate) async fn run(database: &Database, task: Task<'_>) -> Vec<String> {
    let (umask, task) = match task {
        Task::Open => ("022", "open".to_owned()),
        Task::Modes { umask } => (umask, "modes".to_owned()),
        Task::Log => ("022", "log".to_owned()),
        Task::Write { cache_id, tokens } => ("022", format!("write {cache_id} {tokens}")),
    };
    let database = match database {
        Database::Sqlite(path) => path.display().to_string(),
        Database::Postgres(url) => url.clone(),
    };
    let output = tokio::process::Command::new("sh")
        .args(["-c", r#"umask "$1"; exec "$0" --exact concurrent_process::run_task --ignored --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .arg(umask)
        .env(TASK, task)
        .env(DATABASE, database)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed.lines().filter_map(|line| line.strip_prefix("result: ")).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "other tests start it as a process"]
async fn run_task() {
    let Ok(task) = std::env::var(TASK) else { return };
    let database = std::env::var(DATABASE).unwrap();
    let database = match database.strip_prefix("postgres:") {
        Some(_) => Database::Postgres(database),
        None => Database::Sqlite(PathBuf::from(database)),
    };
    let log = (task == "log").then(Log::start);
    let store = Store::open(&database).await.unwrap();
    // libtest has not ended its line yet.
    println!();
    match task.split(' ').collect::<Vec<_>>()[..] {
        ["open"] => {
            let id = store.record_installation_id(&store::new_installation_id()).await.unwrap();
            println!("result: {id}");
        }
        ["modes"] => print_file_modes(&store, &database).await,
        ["log"] => log_no_secret(&store, &log.unwrap()).await,
        ["write", cache_id, tokens] => write(&store, cache_id, tokens.parse().unwrap()).await,
        _ => panic!("unknown task: {task}"),
    }
    store.close().await;
}

async fn print_file_modes(store: &Store, database: &Database) {
    use std::os::unix::fs::PermissionsExt as _;
    let Database::Sqlite(path) = database else { panic!("only SQLite has files to look at") };
    store.record_installation_id("abc234").await.unwrap();
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        println!("result: {} {mode:o}", entry.file_name().display());
    }
}

async fn write(store: &Store, cache_id: &str, tokens: u32) {
    let key = token_key();
    for _ in 0..tokens {
        let token = NewToken::generate(&key, "one of many");
        store.create_token(cache_id, &token).await.unwrap();
        println!("result: {}", token.token.id());
    }
}

/// Everything that this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        tracing_subscriber::fmt().with_max_level(level).with_writer(move || writer.clone()).init();
        log
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn log_no_secret(store: &Store, log: &Log) {
    let token = NewToken::generate(&token_key(), "name-of-token");
    let ada = NewUser { password_hash: Some("hash-of-password"), ..new_user("ada@example.org") };
    let user = store.sign_up(&ada, &token).await.unwrap();
    // Databases often quote a row that they refuse.
    store.sign_up(&ada, &NewToken::generate(&token_key(), "name-of-token")).await.unwrap_err();
    store.create_token(&first_cache(store, &user).await, &token).await.unwrap_err();
    store
        .create_session(&NewSession {
            id_hash: "hash-of-cookie",
            user_id: &user.id,
            form_token: "form-token",
            source: "192.0.2.7",
            user_agent: "",
        })
        .await
        .unwrap();
    store.grant(&token.token.id()).await.unwrap().unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("INSERT INTO"), "statements are logged: {text}");
    let secret = token.token.secret().reveal();
    for value in ["ada@", "hash-of-password", "name-of-token", "hash-of-cookie", "form-token", secret] {
        assert!(!text.contains(value), "{value} is in the log");
    }
}

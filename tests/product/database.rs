//! The database of an installation, as another program uses it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use testkit::Postgres;

use crate::harness::Installation;

/// For a lock.
const TIMEOUT_SECONDS: u32 = 20;
/// The URL of a server of PostgreSQL in which tests may make databases and users: with it, installations that don't ask for
/// SQLite use PostgreSQL, each role as a user of its own.
const SERVER: &str = "MEMGATE_TEST_POSTGRES";

/// A database of the tests' server. When dropped, it is removed with the users of the installation that used it.
#[derive(Debug)]
pub(crate) struct OwnDatabase {
    server: String,
    name: String,
}

impl OwnDatabase {
    /// `None` if there is no such server.
    pub(crate) fn create() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = std::env::var(SERVER).ok()?;
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Postgres::query(&server, &format!("CREATE DATABASE {name}"));
        Some(Self { server, name })
    }

    pub(crate) fn url(&self) -> String {
        let (address, _) = self.server.rsplit_once('/').unwrap();
        format!("{address}/{}", self.name)
    }
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let has_tables =
            Postgres::query(&self.url(), "SELECT to_regclass('installation') IS NOT NULL") == ["t"];
        let installations =
            if has_tables { Postgres::query(&self.url(), "SELECT id FROM installation") } else { Vec::new() };
        Postgres::query(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        for installation in installations {
            for role in ["proxy", "provisioner", "webui"] {
                let drop = format!("DROP ROLE IF EXISTS memgate_{installation}_{role}");
                Postgres::query(&self.server, &drop);
            }
        }
    }
}

/// Changes the database.
pub(crate) fn execute_sql(installation: &Installation, sql: &str) {
    run(installation, "rw", sql);
}

/// The rows of a query, each a line of values with spaces between them.
pub(crate) fn query_sql(installation: &Installation, sql: &str) -> Vec<String> {
    run(installation, "ro", sql)
}

fn run(installation: &Installation, mode: &str, sql: &str) -> Vec<String> {
    if let Some(url) = installation.store_url() {
        return Postgres::query(url, sql);
    }
    let program = format!(
        "import sqlite3, sys; \
         database = sqlite3.connect(f'file:{{sys.argv[1]}}?mode={mode}', uri=True, timeout={TIMEOUT_SECONDS}); \
         [print(*row) for row in database.execute(sys.argv[2])]; database.commit()"
    );
    let path = installation.data().join("db/memgate.db");
    let output = Command::new("python3").args(["-c", &program]).arg(path).arg(sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.trim().to_owned()).collect()
}

//! The database of an installation whose store is SQLite, as another program uses it.

use std::process::Command;

use crate::harness::Installation;

/// For a lock.
const TIMEOUT_SECONDS: u32 = 20;

/// Changes the database.
pub(crate) fn execute_sql(installation: &Installation, sql: &str) {
    run(installation, "rw", sql);
}

/// The rows of a query, each a line of values with spaces between them.
pub(crate) fn query_sql(installation: &Installation, sql: &str) -> Vec<String> {
    run(installation, "ro", sql)
}

fn run(installation: &Installation, mode: &str, sql: &str) -> Vec<String> {
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

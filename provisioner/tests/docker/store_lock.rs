//! Another process that holds the write lock of a SQLite file.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None); \
     db.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()";

/// The lock, until it is dropped.
pub(crate) struct StoreLock(Child);

impl StoreLock {
    pub(crate) fn take(database: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = BufReader::new(process.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        assert_eq!(line, "locked");
        Self(process)
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

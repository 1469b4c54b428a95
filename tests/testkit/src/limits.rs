//! How much a test may do: the long run, open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Whether `MEMGATE_TEST_LONG` asks for the full amount of work instead of a short check.
pub fn is_long_run() -> bool {
    std::env::var_os("MEMGATE_TEST_LONG").is_some()
}

/// Raises this process's limit of open files to its maximum and returns that.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

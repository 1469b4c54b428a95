//! Whether a role's metrics are what Prometheus reads, by the parsers of its own Python client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks the metrics of a health endpoint, in both text formats, with `tests/clients/metrics.py`. Needs the Python that
/// `./deploy/test` installs.
pub fn check_metrics(health: SocketAddr) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let named = std::env::var_os("MEMGATE_TEST_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| tests.with_file_name("target/tools/python/bin/python"));
    assert!(python.exists(), "{} is missing: run ./deploy/test, which installs it", python.display());
    let mut check = Command::new(python);
    let output = check.arg(tests.join("clients/metrics.py")).arg(health.to_string()).output().unwrap();
    assert!(output.status.success(), "{health}: {}", String::from_utf8_lossy(&output.stderr));
}

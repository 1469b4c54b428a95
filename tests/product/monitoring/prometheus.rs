//! A real Prometheus that reads a product's metrics every half second, with the rules of deploy/prometheus.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::RULES;
use crate::documents::{Background, program, read};
use crate::harness::{Installation, deadline_in, wait_until};

/// What is shorter in tests than in the rules, so that minutes become seconds.
const SHORTER: [(&str, &str); 6] = [
    ("[5m]", "[10s]"),
    ("[15m]", "[1m]"),
    ("last_resync_timestamp_seconds) > 180", "last_resync_timestamp_seconds) > 8"),
    (
        "last_write_timestamp_seconds{job=\"memgate-proxy\"} > 60",
        "last_write_timestamp_seconds{job=\"memgate-proxy\"} > 5",
    ),
    ("last_current_timestamp_seconds > 15", "last_current_timestamp_seconds > 5"),
    ("[1h]", "[1m]"),
];

pub(super) struct Prometheus {
    _process: Background,
    address: SocketAddr,
    _dir: TempDir,
}

/// `prometheus` or `promtool`.
pub(super) fn tool(name: &str, dir: &TempDir) -> PathBuf {
    program(&format!("/usr/bin/{name}"), "prometheus", dir.path())
}

impl Prometheus {
    /// Starts it for the roles of an installation.
    pub(super) fn start(installation: &Installation) -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), testkit::free_port());
        fs::write(dir.path().join("alerts.yml"), shortened(&read(RULES))).unwrap();
        let mut config = read("deploy/prometheus/prometheus.yml")
            .replace("scrape_interval: 15s", "scrape_interval: 500ms")
            .replace("evaluation_interval: 15s", "evaluation_interval: 500ms");
        for (example, role) in [("9151", "proxy"), ("9152", "provisioner"), ("9153", "webui")] {
            let example = format!("127.0.0.1:{example}");
            assert!(config.contains(&example), "{config}");
            config = config.replace(&example, &installation.role_health(role).to_string());
        }
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut prometheus = Command::new(tool("prometheus", &dir));
        prometheus.arg(format!("--config.file={}", file.display()));
        prometheus.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        prometheus.arg(format!("--web.listen-address={address}"));
        let process = prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let prometheus = Self { _process: Background(process), address, _dir: dir };
        wait_until(deadline_in(30), "Prometheus is ready", || {
            prometheus.get("/-/ready").is_some_and(|response| response.starts_with("HTTP/1.0 200"))
        });
        prometheus
    }

    /// The names of the alerts that fire.
    pub(super) fn firing(&self) -> BTreeSet<String> {
        let response = self.get("/api/v1/alerts").unwrap();
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let alerts = body["data"]["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// Repeats `fault` until these alerts fire, all of them at some time.
    pub(super) fn expect(&self, alerts: &[&str], mut fault: impl FnMut()) {
        let mut missing: BTreeSet<&str> = alerts.iter().copied().collect();
        wait_until(deadline_in(120), &format!("{alerts:?} fire"), || {
            fault();
            let firing = self.firing();
            missing.retain(|alert| !firing.contains(*alert));
            missing.is_empty()
        });
    }

    /// Waits until none of these alerts fires.
    pub(super) fn expect_end(&self, alerts: &[&str]) {
        wait_until(deadline_in(120), &format!("{alerts:?} end"), || {
            let firing = self.firing();
            !alerts.iter().any(|alert| firing.contains(*alert))
        });
    }

    /// Waits until each job that is up has been read.
    pub(super) fn wait_for_jobs(&self, jobs: usize) {
        wait_until(deadline_in(60), "all roles are read", || self.query("count(up==1)") == jobs.to_string());
    }

    /// The value of a query that has one at most; empty without.
    pub(super) fn query(&self, query: &str) -> String {
        let query = query.replace('"', "%22").replace('{', "%7B").replace('}', "%7D").replace('=', "%3D");
        let response = self.get(&format!("/api/v1/query?query={query}")).unwrap();
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        body["data"]["result"][0]["value"][1].as_str().unwrap_or_default().to_owned()
    }

    /// The response to a GET, in one piece.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }
}

/// The rules with shorter times.
fn shortened(rules: &str) -> String {
    let mut shorter: String = rules
        .lines()
        .map(|line| {
            if line.trim().starts_with("for: ") {
                "        for: 1s\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    for (long, short) in SHORTER {
        assert!(shorter.contains(long), "no rule has {long}");
        shorter = shorter.replace(long, short);
    }
    shorter
}

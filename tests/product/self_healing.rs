//! A container is killed, removed or restarted while an application uses it: the connection stays open, at most a write in
//! flight fails, and client libraries see a delay.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client_libraries::tool;
use crate::harness::{Credentials, Product, docker};
use crate::text_client::TextClient;

const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable";

/// Damages a cache and sets values until it has recovered; checks every reply.
fn use_during(client: &mut TextClient, damage: impl FnOnce(), recovery_timeout: Duration) {
    assert_eq!(client.set("steady", b"before"), "STORED");
    damage();
    let started = Instant::now();
    let mut errors = 0_u32;
    loop {
        assert!(
            started.elapsed() < recovery_timeout,
            "not recovered after {recovery_timeout:?}, {errors} errors"
        );
        match client.set("steady", b"after").as_str() {
            // Before the proxy notices the damage, after the recovery, or both: requests wait meanwhile.
            "STORED" if errors > 0 || started.elapsed() > Duration::from_secs(2) => break,
            "STORED" => {}
            UNAVAILABLE => errors += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(client.get("steady"), Ok(Some(b"after".to_vec())));
}

// F-1, F-35, P-1.
#[test]
fn killed_cache_recovers_under_the_same_connection() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let mut neighbour = TextClient::log_in(product.endpoint(), &bob);
    assert_eq!(neighbour.set("steady", b"bob's"), "STORED");

    let kill = || drop(docker(&["kill", &product.container(&ada.email)]));
    use_during(&mut client, kill, Duration::from_secs(10));
    let remove = || drop(docker(&["rm", "-f", &product.container(&ada.email)]));
    use_during(&mut client, remove, Duration::from_secs(20));

    assert_eq!(neighbour.get("steady"), Ok(Some(b"bob's".to_vec())), "other users are not affected");
}

/// A client library at work, and what it prints.
struct Library {
    name: &'static str,
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Library {
    fn start(product: &Product, name: &'static str, credentials: &Credentials) -> Self {
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut command = if name == "memjs" {
            let mut node = Command::new("node");
            node.env("NODE_PATH", tool("MEMGATE_TEST_NODE_MODULES", "target/tools/node/node_modules"));
            node.arg(scripts.join("restart.js"));
            node
        } else {
            let mut python = Command::new(tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python"));
            // For pip's pylibmc, as docs/clients.md says.
            python.env("SASL_PATH", format!("/usr/lib/{}-linux-gnu/sasl2", std::env::consts::ARCH));
            python.arg(scripts.join("restart.py"));
            python
        };
        command.args([name, &product.endpoint().to_string(), &credentials.username, &credentials.password]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { name, process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap_or_else(|| panic!("{} has failed", self.name)).unwrap()
    }
}

// F-35, P-11.
#[test]
fn restart_is_a_delay_for_client_libraries() {
    let product = Product::start();
    let ada = product.add_user("ada@example.org");
    let names = ["pylibmc", "bmemcached", "pymemcache", "memjs"];
    let mut libraries = names.map(|name| Library::start(&product, name, &ada));
    for library in &mut libraries {
        assert_eq!(library.line(), "ready", "{}", library.name);
    }
    for library in &mut libraries {
        library.process.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    docker(&["restart", "--time", "1", &product.container(&ada.email)]);
    for library in &mut libraries {
        let line = library.line();
        println!("{}: {line}", library.name);
        assert!(library.process.wait().unwrap().success());
    }
}

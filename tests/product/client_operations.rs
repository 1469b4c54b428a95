//! Operators restart, upgrade, resize, kill and wake caches while applications use them with client libraries that check every
//! value: they see a delay, never an error, and lose only what an operation says.

mod text_items;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use text_items::TextItems;

use crate::client_libraries::tool;
use crate::harness::{Credentials, LOOK_EVERY_SECOND, Product, deadline_in, docker, wait_until};
use crate::text_client::TextClient;

/// As docs/clients.md says: more than requests may wait for in the proxy, 10 s here.
const TIME_LIMIT_SECONDS: &str = "11";
/// For a client to print a line. It may wait for its time limit first.
const LINE_TIMEOUT: Duration = Duration::from_secs(60);
/// The items of each client, as in tests/clients/operations.py.
const ITEMS: u64 = 200;
/// What each client asks for during an operation, at least.
const REQUESTS_MIN: u64 = 50;

const WARM: &str = "warm@example.org";
const COLD: &str = "cold@example.org";

/// A client at work, and the lines that it prints.
struct Client {
    name: &'static str,
    commands: Commands,
    lines: Receiver<String>,
}

enum Commands {
    Process(Child),
    Thread(Sender<&'static str>),
}

impl Client {
    /// A client library, in a process of its own.
    fn library(product: &Product, name: &'static str, credentials: &Credentials) -> Self {
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut command = match name {
            "memjs" => {
                let mut node = Command::new("node");
                node.env("NODE_PATH", tool("MEMGATE_TEST_NODE_MODULES", "target/tools/node/node_modules"));
                node.arg(scripts.join("operations.js"));
                node
            }
            "dalli" => {
                let mut ruby = Command::new("ruby");
                ruby.arg(scripts.join("operations.rb"));
                ruby
            }
            _ => {
                let mut python = Command::new(tool("MEMGATE_TEST_PYTHON", "target/tools/python/bin/python"));
                // For pip's pylibmc, as docs/clients.md says.
                python.env("SASL_PATH", format!("/usr/lib/{}-linux-gnu/sasl2", std::env::consts::ARCH));
                python.arg(scripts.join("operations.py")).arg(name);
                python
            }
        };
        command.args([&product.endpoint().to_string(), &credentials.username, &credentials.password]);
        command.arg(TIME_LIMIT_SECONDS).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line).ok())
        });
        Self { name, commands: Commands::Process(process), lines }
    }

    /// The tests' own client of the text protocol.
    fn text(product: &Product, credentials: &Credentials) -> Self {
        let client = TextClient::log_in(product.endpoint(), credentials);
        let (commands, asked) = channel();
        let (send, lines) = channel();
        std::thread::spawn(move || TextItems::new(client).serve(&asked, &send));
        Self { name: "text", commands: Commands::Thread(commands), lines }
    }

    fn command(&mut self, command: &'static str) {
        match &mut self.commands {
            Commands::Process(process) => {
                let stdin = process.stdin.as_mut().unwrap();
                stdin.write_all(format!("{command}\n").as_bytes()).unwrap();
            }
            Commands::Thread(thread) => thread.send(command).unwrap(),
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LINE_TIMEOUT).unwrap_or_else(|_| panic!("{} has failed", self.name))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Commands::Process(process) = &mut self.commands {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A client of each kind for one cache.
fn clients(product: &Product, credentials: &Credentials) -> Vec<Client> {
    let libraries = ["pylibmc", "bmemcached", "pymemcache", "emcache", "dalli", "memjs"];
    let libraries = libraries.map(|name| Client::library(product, name, credentials));
    libraries.into_iter().chain([Client::text(product, credentials)]).collect()
}

fn each_prints(clients: &[Client], expected: &str) {
    for client in clients {
        assert_eq!(client.line(), expected, "{}", client.name);
    }
}

/// Which items an operation may lose, of those that one client has stored.
#[derive(Clone, Copy, PartialEq)]
enum Loses {
    Nothing,
    /// All of them, and some at least.
    Contents,
    /// As many as it says.
    Evicted,
}

/// Lets clients work while an operation is done, and checks what they have seen. `how`: `use`, or `read` for an operation that a
/// write in flight doesn't survive. Returns how many items they have lost.
fn observe(
    clients: &mut [Client],
    how: &'static str,
    operation: &str,
    run: impl FnOnce(),
    loses: Loses,
) -> u64 {
    clients.iter_mut().for_each(|client| client.command(how));
    each_prints(clients, "begun");
    let started = Instant::now();
    run();
    let took = started.elapsed();
    clients.iter_mut().for_each(|client| client.command("stop"));
    let mut failures = Vec::new();
    let mut lost_items = 0;
    println!("{operation}: {:.1} s", took.as_secs_f64());
    for client in clients {
        let report: Value = serde_json::from_str(&client.line()).unwrap();
        let number = |name: &str| report[name].as_u64().unwrap();
        let [requests, errors, lost] = ["requests", "errors", "lost"].map(number);
        let [wrong, longest] = ["wrong", "longest_ms"].map(number);
        println!(
            "    {:12} {requests:6} requests {errors:4} errors {lost:5} lost {wrong:4} wrong {longest:6} ms",
            client.name
        );
        let may_lose = match loses {
            Loses::Nothing => 0..=0,
            Loses::Contents => 1..=ITEMS,
            Loses::Evicted => 0..=ITEMS,
        };
        if errors > 0 || wrong > 0 || requests < REQUESTS_MIN || !may_lose.contains(&lost) {
            failures.push(format!("{}: {report}", client.name));
        }
        lost_items += lost;
    }
    assert!(failures.is_empty(), "{operation}: {failures:#?}");
    lost_items
}

/// How many items were evicted, as an operation says.
fn evicted(said: &str) -> u64 {
    let count = said.split("; ").nth(1).and_then(|text| text.split(' ').next()).unwrap();
    if count == "nothing" { 0 } else { count.parse().unwrap_or_else(|_| panic!("{said}")) }
}

/// Gives memcached pages that it doesn't need any more: items of half a megabyte come and go.
fn use_memory(product: &Product, cold: &Credentials) {
    let mut client = TextClient::log_in(product.endpoint(), cold);
    let value = vec![b'v'; 500_000];
    let keys: Vec<_> = (0..160).map(|number| format!("large-{number}")).collect();
    for key in &keys {
        assert_eq!(client.set(key, &value), "STORED");
    }
    for key in &keys[30..] {
        assert_eq!(client.request(format!("delete {key}\r\n").as_bytes()), "DELETED");
    }
}

/// An image with another memcached, as operators build it.
fn build_image(product: &Product) {
    let binary = product.dir().join("memcached-built");
    let path = binary.to_str().unwrap();
    docker(&["cp", &format!("{}:/usr/bin/memcached", product.container(COLD)), path]);
    product.json(&["image", "build", "--binary", path]);
}

fn upgrade(product: &Product) {
    let upgrade = product.json(&["image", "upgrade"]);
    assert_eq!((&upgrade["state"], &upgrade["done"]), (&"done".into(), &2.into()), "{upgrade}");
}

/// The operations on a cache that isn't warm.
fn operate_on_cold_cache(product: &Product, cold: &Credentials, clients: &mut [Client]) {
    let enlarge = || {
        let said = product.operate(&["cache", "resize", COLD, "--memory-mb", "128"]);
        assert_eq!(said, "memcached has 128 MB; nothing was evicted");
    };
    observe(clients, "use", "cache resize, larger", enlarge, Loses::Nothing);
    use_memory(product, cold);
    let mut said = String::new();
    let shrink = || said = product.operate(&["cache", "resize", COLD, "--memory-mb", "64"]);
    let lost = observe(clients, "use", "cache resize, smaller", shrink, Loses::Evicted);
    println!("    {said}");
    assert!(said.starts_with("memcached has 64 MB; ") && lost <= evicted(&said), "{lost} lost: {said}");
    let restart = || assert!(product.operate(&["cache", "restart", COLD]).contains("contents are gone"));
    observe(clients, "use", "cache restart", restart, Loses::Contents);

    // Nobody has told the proxy to hold requests: a write that memcached has may fail (F-1).
    let container = product.container(COLD);
    let started = || docker(&["inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", &container]);
    let restart = || drop(docker(&["restart", "--time", "1", &container]));
    observe(clients, "read", "docker restart", restart, Loses::Contents);
    let kill = || {
        let before = started();
        docker(&["kill", "--signal", "KILL", &container]);
        wait_until(deadline_in(30), "it runs again", || started()[0] == "true" && started() != before);
    };
    observe(clients, "read", "docker kill", kill, Loses::Contents);
}

// F-1, F-35, F-36, F-37, R-47, R-51, P-11.
#[test]
fn client_libraries_see_operations_as_latency() {
    // On a machine that is busy with other tests, a container may take longer than the default of two seconds.
    let product = Product::start_with(&[LOOK_EVERY_SECOND, ("MEMGATE_PROXY__HOLD", "10")]);
    product.json(&["plan", "create", "warm", "--memory-mb", "64", "--warm", "true"]);
    let warm = product.credentials(&["user", "add", WARM, "--plan", "warm"]);
    let cold = product.add_user(COLD);
    let mut warm_clients = clients(&product, &warm);
    let mut cold_clients = clients(&product, &cold);
    each_prints(&warm_clients, "ready");
    each_prints(&cold_clients, "ready");

    let items = ITEMS * u64::try_from(warm_clients.len()).unwrap();
    let kept = format!("memcached was restarted; it kept {items} items");
    let restart = || assert_eq!(product.operate(&["cache", "restart", WARM]), kept);
    observe(&mut warm_clients, "use", "cache restart, warm", restart, Loses::Nothing);
    let enlarged = format!("memcached has 96 MB; it kept {items} items");
    let enlarge = || assert_eq!(product.operate(&["cache", "resize", WARM, "--memory-mb", "96"]), enlarged);
    observe(&mut warm_clients, "use", "cache resize, warm and larger", enlarge, Loses::Nothing);

    build_image(&product);
    let upgrade_both = || {
        let upgrade = || upgrade(&product);
        observe(&mut warm_clients, "use", "image upgrade, warm", upgrade, Loses::Nothing);
    };
    observe(&mut cold_clients, "use", "image upgrade", upgrade_both, Loses::Contents);

    // It falls asleep while the other one is worked on.
    product.json(&["plan", "update", "warm", "--sleep-after", "10s"]);
    operate_on_cold_cache(&product, &cold, &mut cold_clients);
    let state = || product.json(&["cache", "show", WARM])["state"].clone();
    let container = product.container(WARM);
    let stopped = || docker(&["inspect", "-f", "{{.State.Running}}", &container]) == ["false"];
    wait_until(deadline_in(60), "the warm cache sleeps", || state() == "asleep" && stopped());
    let woken = || assert_eq!(state(), "running");
    observe(&mut warm_clients, "use", "sleep and wake, warm", woken, Loses::Nothing);
}

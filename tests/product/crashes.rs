//! The provisioner is killed at each request that changes something in Docker: before the request reaches Docker, while Docker
//! carries it out, and before Docker's answer comes back. Then it is started again. Nothing may be left over, and
//! what was asked for must be done. What it writes into the store comes between two such requests.
//!
//! `MEMGATE_TEST_LONG` kills it at each of these moments, of slow operations before and after each request.
//! Otherwise every other request has one moment, and of slow operations one in the middle.

mod inventory;
mod operations;
mod relay;
mod roles;
mod warm;

use std::time::{Duration, Instant};

use rustix::process::Pid;

use self::operations::{Create, Delete, Operation, Replace, Resize};
use self::relay::{Crash, Moment, Relay, Request};
use self::roles::Role;
use self::warm::{Restart, Sleep, Upgrade, Wake};
use crate::harness::{
    Credentials, Installation, LOOK_EVERY_SECOND, Product, deadline_in, is_long, wait_until,
};
use crate::text_client::TextClient;

/// What a crash leaves is there for no longer than this (F-12).
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const ITEMS: usize = 50;
/// The plan of the caches that things are done to.
const PLAN: &str = "tested";

/// A product whose provisioner asks Docker through a relay.
struct Fixture {
    /// Stopped before the product is removed.
    provisioner: Role,
    _others: [Role; 2],
    product: Product,
    /// Its id.
    installation: String,
    relay: Relay,
    is_warm: bool,
    neighbour: Credentials,
}

/// What became of an operation.
struct Settled {
    requests: Vec<Request>,
    /// Since the crash.
    after: Duration,
}

/// The crashes of one operation.
struct Row {
    name: &'static str,
    requests: Vec<String>,
    crashes: usize,
    longest: Duration,
}

impl Fixture {
    /// `limits`: of the plan.
    fn start(limits: &[&str], settings: &[(&str, &str)]) -> Self {
        let installation = Installation::new();
        let socket = installation.dir().join("docker.sock");
        let relay = Relay::start(&socket);
        let mut product = Product::start_at(installation);
        let id = product.id();
        product.interrupt();
        let docker = ("MEMGATE_PROVISIONER__DOCKER_SOCKET", socket.to_str().unwrap());
        let start = |name: &str| Role::start(&product, name, &[settings, &[docker]].concat());
        let (provisioner, others) = (start("provisioner"), ["proxy", "webui"].map(start));
        let is_warm = limits.contains(&"--warm");
        let warm = if is_warm { "true" } else { "false" };
        product.json(&["plan", "update", "default", "--warm", warm]);
        product.json(&[&["plan", "create", PLAN], limits].concat());
        let neighbour = product.add_user("neighbour@example.org");
        let fixture =
            Self { provisioner, _others: others, product, installation: id, relay, is_warm, neighbour };
        fixture.fill(&fixture.neighbour);
        fixture
    }

    /// Creates a user with a cache of the plan, and items in it.
    fn add_user(&self, email: &str) -> Credentials {
        let user = self.product.credentials(&["user", "add", email, "--plan", PLAN]);
        self.fill(&user);
        user
    }

    /// Stores items that only this cache has.
    fn fill(&self, of: &Credentials) {
        let mut client = TextClient::log_in(self.product.endpoint(), of);
        for item in 0..ITEMS {
            assert_eq!(client.set(&format!("item-{item}"), of.email.as_bytes()), "STORED");
        }
    }

    /// How many of its items a cache has.
    fn kept(&self, of: &Credentials) -> usize {
        let mut client = TextClient::log_in(self.product.endpoint(), of);
        let mut is_kept = |item: &usize| match client.get(&format!("item-{item}")) {
            Ok(Some(value)) => {
                assert_eq!(value, of.email.as_bytes());
                true
            }
            Ok(None) => false,
            Err(error) => panic!("{error}"),
        };
        (0..ITEMS).filter(&mut is_kept).count()
    }

    /// Carries out an operation, with a crash at one of its requests.
    fn run(&self, operation: &mut dyn Operation, at: Option<(usize, Moment)>) -> Settled {
        operation.prepare(self);
        let neighbour = self.product.container(&self.neighbour.email);
        let started = Instant::now();
        let process = self.provisioner.process();
        self.relay.begin(at.map(|(request, moment)| Crash { request, moment, process }));
        operation.run(self);
        if at.is_some() {
            wait_until(deadline_in(60), "the crash", || self.relay.crashed_at().is_some());
        }
        let crashed_at = self.relay.crashed_at();
        let since = crashed_at.unwrap_or(started);
        loop {
            let problems = self.problems(operation, crashed_at.map(|_| process));
            if problems.is_empty() {
                break;
            }
            let name = operation.name();
            assert!(since.elapsed() < SETTLE_TIMEOUT, "{name} {at:?}: {problems:#?}");
            std::thread::sleep(POLL_INTERVAL);
        }
        let settled = Settled { requests: self.relay.requests(), after: since.elapsed() };
        operation.check(self);
        assert_eq!(self.kept(&self.neighbour), ITEMS, "{} {at:?}", operation.name());
        if !operation.is_for_all() {
            assert_eq!(self.product.container(&self.neighbour.email), neighbour, "{at:?}");
        }
        settled
    }

    /// Why it hasn't settled. `killed`: the process that was.
    fn problems(&self, operation: &dyn Operation, killed: Option<Pid>) -> Vec<String> {
        if killed == Some(self.provisioner.process()) {
            return vec!["the provisioner isn't started again".to_owned()];
        }
        let status = self.product.run(&["status"]);
        if !status.status.success() {
            return vec![String::from_utf8_lossy(&status.stdout).into_owned()];
        }
        if let Some(what) = operation.missing(self) {
            return vec![what];
        }
        inventory::differences(self)
    }

    /// Crashes at every request of each operation, which go on from where the one before has ended.
    fn sweep(&self, operations: &mut [&mut dyn Operation]) {
        let mut rows = Vec::new();
        for operation in operations.iter_mut() {
            let settled = self.run(*operation, None);
            let requests = settled.requests.iter().map(Request::name).collect();
            rows.push(Row { name: operation.name(), requests, crashes: 0, longest: Duration::ZERO });
        }
        let longest = rows.iter().map(|row| row.requests.len()).max().unwrap_or(0);
        for request in 1..=longest {
            for moment in [Moment::Before, Moment::During, Moment::After] {
                for (operation, row) in operations.iter_mut().zip(&mut rows) {
                    let swept = operation.swept(row.requests.len());
                    if request <= swept && is_chosen((request, swept), moment, operation.is_slow()) {
                        let settled = self.run(*operation, Some((request, moment)));
                        row.crashes += 1;
                        row.longest = row.longest.max(settled.after);
                        println!("{} {request} {moment:?}: {:.1?}", row.name, settled.after);
                        assert_eq!(settled.requests[request - 1].name(), row.requests[request - 1]);
                    }
                }
            }
        }
        println!("{:<16} {:>8} {:>7} {:>7}  requests", "operation", "requests", "crashes", "longest");
        for Row { name, requests, crashes, longest } in rows {
            assert_ne!(crashes, 0, "{name} changes nothing in Docker");
            let (count, longest, requests) = (requests.len(), longest.as_secs_f64(), requests.join(", "));
            println!("{name:<16} {count:>8} {crashes:>7} {longest:>5.1} s  {requests}");
        }
    }
}

/// Whether the provisioner crashes at a request, of so many. In any case it crashes once after one.
fn is_chosen((request, count): (usize, usize), moment: Moment, is_slow: bool) -> bool {
    match (is_long(), is_slow) {
        (true, _) => moment != Moment::During || !is_slow,
        (false, true) => moment == Moment::After && request == (count / 2).max(1),
        (false, false) => match request % 4 {
            1 => moment == Moment::After,
            3 => moment == Moment::Before,
            _ => false,
        },
    }
}

// F-12, R-47, R-56.
#[test]
fn crashes_while_caches_are_created_resized_and_deleted_leave_nothing() {
    let settings = [LOOK_EVERY_SECOND, ("MEMGATE_PROVISIONER__READY_INSTANCES", "1")];
    // No instance that is made ahead has this size.
    let fixture = Fixture::start(&["--memory-mb", "48"], &settings);
    let (mut created, mut on_new_network) = (Create::default(), Create::on_new_network());
    // It waits until the first one is there.
    let mut made_ahead = Replace::default();
    fixture.sweep(&mut [&mut made_ahead, &mut created, &mut on_new_network, &mut Delete::default()]);
    let mut grown = Resize::new(&fixture);
    let mut shrunk = grown.reverse();
    fixture.sweep(&mut [&mut grown, &mut shrunk]);
}

// F-12, F-36, R-47, R-51.
#[test]
fn crashes_during_a_warm_restart_or_upgrade_keep_the_contents() {
    let fixture = Fixture::start(&["--warm", "true"], &[]);
    let ada = fixture.add_user("ada@example.org");
    fixture.sweep(&mut [&mut Restart::of(&ada), &mut Upgrade::of(&ada, &fixture)]);
}

// F-12, F-37.
#[test]
fn crashes_while_a_cache_goes_to_sleep_and_wakes_keep_the_contents() {
    let limits = ["--warm", "true", "--sleep-after", "10s"];
    let fixture = Fixture::start(&limits, &[LOOK_EVERY_SECOND, ("MEMGATE_PROXY__HOLD_WAKE", "60")]);
    let ada = fixture.add_user("ada@example.org");
    fixture.sweep(&mut [&mut Sleep::of(&ada), &mut Wake::of(&ada)]);
}

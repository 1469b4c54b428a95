//! What caches used, hour by hour, equals what a client has counted itself, however roles are stopped and killed; and
//! statistics equal memcached's own.

use std::time::Instant;

use serde_json::Value;
use testkit::Postgres;

use crate::harness::{Credentials, Installation, Product, deadline_in, signal, wait_until};
use crate::text_client::TextClient;

const ADA: &str = "ada@example.org";
/// More than a report of the proxy takes.
const FLUSH_SECONDS: u64 = 15;
const NAMES: [&str; 9] =
    ["hits", "misses", "stores", "deletes", "arithmetic", "touches", "others", "bytes_in", "bytes_out"];

/// What clients have sent and received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts([i64; 9]);

/// A client that counts for itself.
struct CountingClient<'a> {
    product: &'a Product,
    ada: &'a Credentials,
    client: TextClient,
    counted: Counts,
}

impl<'a> CountingClient<'a> {
    fn new(product: &'a Product, ada: &'a Credentials) -> Self {
        let client = TextClient::log_in(product.endpoint(), ada);
        let mut it = Self { product, ada, client, counted: Counts::default() };
        it.logged_in();
        it
    }

    /// The answer to the login is the first that is counted.
    fn logged_in(&mut self) {
        self.counted.0[8] += 8;
    }

    /// Another connection: the proxy has been restarted.
    fn reconnect(&mut self) {
        let mut client = None;
        wait_until(deadline_in(30), "the proxy answers", || {
            client = TextClient::try_log_in(self.product.endpoint(), self.ada);
            client.is_some()
        });
        self.client = client.unwrap();
        self.logged_in();
    }

    /// Sends a request of a kind with a reply of one line.
    fn ask(&mut self, kind: usize, request: &str, reply: &str) {
        assert_eq!(self.client.request(request.as_bytes()), reply);
        self.count(kind, request.len(), reply.len() + 2);
    }

    fn count(&mut self, kind: usize, sent: usize, received: usize) {
        self.counted.0[kind] += 1;
        self.counted.0[7] += i64::try_from(sent).unwrap();
        self.counted.0[8] += i64::try_from(received).unwrap();
    }

    fn work(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.ask(2, "set counter 0 0 1\r\n5\r\n", "STORED");
            assert_eq!(self.client.get("counter").unwrap().unwrap(), b"5");
            self.count(0, "get counter\r\n".len(), "VALUE counter 0 1\r\n5\r\nEND\r\n".len());
            self.ask(1, "get nothing\r\n", "END");
            self.ask(4, "incr counter 1\r\n", "6");
            self.ask(5, "touch counter 0\r\n", "TOUCHED");
            self.ask(3, "delete counter\r\n", "DELETED");
            let version = self.client.request(b"version\r\n");
            assert!(version.starts_with("VERSION "), "{version}");
            self.count(6, "version\r\n".len(), version.len() + 2);
        }
    }
}

/// The sums of all hours, and the greatest number of connections.
fn metered(product: &Product) -> (Counts, i64, i64) {
    let (mut sums, mut peak, mut memory) = (Counts::default(), 0, 0);
    for hour in product.json(&["usage", "export", ADA])["hours"].as_array().unwrap() {
        let number = |name: &str| hour[name].as_i64().unwrap();
        for (sum, name) in sums.0.iter_mut().zip(NAMES) {
            *sum += number(name);
        }
        peak = peak.max(number("peak_connections"));
        memory += number("memory_mb_seconds");
        assert_eq!((hour["plan"].as_str(), hour["errors"].as_i64()), (Some("default"), Some(0)));
    }
    (sums, peak, memory)
}

impl Counts {
    fn is_within(&self, counted: &Self) -> bool {
        self.0.iter().zip(counted.0).all(|(metered, counted)| *metered <= counted)
    }
}

/// Waits until as much is metered as was counted; more never is.
fn until_equal(product: &Product, counted: &Counts) {
    let deadline = deadline_in(FLUSH_SECONDS);
    let mut last = Counts::default();
    while last != *counted && Instant::now() < deadline {
        last = metered(product).0;
        assert!(last.is_within(counted), "{last:?} is more than {counted:?}");
    }
    assert_eq!(last, *counted, "{NAMES:?}");
}

fn end_role(product: &Product, role: &str, with: &str) {
    let before = product.role(role).unwrap();
    signal(before, with);
    wait_until(deadline_in(60), "the role is started again", || {
        product.role(role).is_some_and(|pid| pid != before)
    });
}

/// How much memory is metered now, in seconds of a cache of 64 MiB, and between which moments it was.
struct MemoryRound {
    seconds: i64,
    after: Instant,
    before: Instant,
}

/// Waits until memory is metered the next time.
fn next_memory_round(product: &Product) -> MemoryRound {
    let (mut after, old) = (Instant::now(), metered(product).2);
    let mut memory = old;
    wait_until(deadline_in(40), "memory is metered", || {
        let asked = Instant::now();
        memory = metered(product).2;
        if memory == old {
            after = asked;
        }
        memory != old
    });
    MemoryRound { seconds: memory / 64, after, before: Instant::now() }
}

/// Works while each role is stopped, and killed, and compares.
fn meter_across_restarts(product: &mut Product) {
    let begun = Instant::now();
    let ada = product.add_user(ADA);
    let first;
    let counted = {
        let product = &*product;
        let mut client = CountingClient::new(product, &ada);
        client.work(50);
        first = next_memory_round(product);
        for role in ["webui", "provisioner", "proxy"] {
            client.work(20);
            end_role(product, role, "TERM");
            if role == "proxy" {
                client.reconnect();
            }
            client.work(20);
        }
        until_equal(product, &client.counted);
        for role in ["webui", "provisioner"] {
            client.work(20);
            end_role(product, role, "KILL");
            client.work(20);
        }
        until_equal(product, &client.counted);
        assert_eq!(metered(product).1, 1, "one connection at a time");
        client.work(30);
        end_role(product, "proxy", "KILL");
        client.reconnect();
        client.work(20);
        wait_until(deadline_in(FLUSH_SECONDS), "the last work is metered", || {
            let (now, ..) = metered(product);
            assert!(now.is_within(&client.counted), "{now:?} is more than {:?}", client.counted);
            // All but what the killed process hadn't written: the work before it, and nothing else.
            now.0[0] >= client.counted.0[0] - 30
        });
        client.counted
    };
    let before = metered(product);
    product.interrupt();
    product.restart();
    let after = metered(product);
    assert!(before.0.is_within(&after.0) && after.0.is_within(&counted), "{after:?} of {counted:?}");
    assert!((0..7).all(|kind| after.0.0[kind] >= counted.0[kind] - 30), "{after:?} of {counted:?}");
    // All time counts, that in which it stood still, too: as much as between the two rounds, however long these took. A
    // round begins a moment before it can be read.
    let last = next_memory_round(product);
    let seconds =
        |from: Instant, to: Instant| i64::try_from(to.saturating_duration_since(from).as_secs()).unwrap();
    let (least, most) = (seconds(first.before, last.after) - 5, seconds(first.after, last.before) + 5);
    let metered = last.seconds - first.seconds;
    assert!(
        last.seconds * 64 > before.2 && (least..=most).contains(&metered),
        "{metered} s of {least} s to {most} s"
    );
    assert!(last.seconds <= seconds(begun, last.before) + 1, "not before it ran: {} s", last.seconds);
}

//
#[test]
fn metering_equals_the_clients_own_count_across_stops_and_kills() {
    meter_across_restarts(&mut Product::start());
}

//
#[test]
fn metering_is_as_exact_with_postgresql() {
    let postgres = Postgres::start();
    meter_across_restarts(&mut Product::start_at(Installation::with_postgres(postgres.url())));
}

//
#[test]
fn export_is_a_table_that_spreadsheets_read() {
    let product = Product::start();
    product.add_user(ADA);
    let formula = "=1+1@example.org";
    let bob = product.add_user(formula);
    TextClient::log_in(product.endpoint(), &bob).set("a", b"b");
    let text = |arguments: &[&str]| {
        let output = product.run(&[&["usage", "export"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    wait_until(deadline_in(40), "both are metered", || {
        let all = text(&[]);
        all.contains("ada@example.org") && all.contains(",0,0,1,0,0,0,0,0,")
    });
    let table = text(&[formula, "--cache", "default"]);
    let lines: Vec<&str> = table.split("\r\n").collect();
    assert!(
        lines[0].starts_with("hour,user_id,email,cache_id,cache,instance_id,plan,memory_mb_seconds,hits,")
    );
    assert!(lines[1].contains(",\"'=1+1@example.org\",") && lines.last() == Some(&""), "{table}");
    let columns = |line: &str| line.split(',').count();
    assert_eq!(columns(lines[0]), columns(lines[1]));
    // A deleted user's hours stay, under the id.
    let id = product.json(&["user", "show", formula])["id"].as_str().unwrap().to_owned();
    product.json(&["user", "delete", formula, "--yes"]);
    assert!(text(&[&id]).contains(&format!("deleted {id}")));
    assert_eq!(text(&["--from", "2999-01-01", "--to", "2999-01-02"]).lines().count(), 1);
    for (arguments, error) in [
        (&["nobody@example.org"][..], "no user nobody@example.org"),
        (&["--cache", "default"], "--cache needs the user"),
        (&["--from", "2026-02-02", "--to", "2026-02-01"], "--from isn't before --to"),
        (&["--from", "yesterday"], "2026-11-29T08"),
    ] {
        let output = product.run(&[&["usage", "export"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(error), "{arguments:?}: {said}");
    }
}

fn history(product: &Product) -> Value {
    product.json(&["cache", "stats", ADA, "--since", "1h"])
}

fn sum(history: &Value, name: &str) -> i64 {
    history["intervals"].as_array().unwrap().iter().map(|it| it[name].as_i64().unwrap()).sum()
}

/// Waits until the newest sample equals what memcached says itself.
fn until_sampled(product: &Product) -> Value {
    let mut shown = Value::Null;
    wait_until(deadline_in(40), "a sample that equals memcached's own figures", || {
        let own = product.json(&["instance", "show", ADA])["memcached"].clone();
        shown = history(product);
        let newest = &shown["newest"];
        let pairs = [
            ("bytes", "bytes"),
            ("limit_bytes", "limit_maxbytes"),
            ("items", "curr_items"),
            ("hits", "get_hits"),
            ("misses", "get_misses"),
            ("sets", "cmd_set"),
            ("evictions", "evictions"),
            ("evicted_unfetched", "evicted_unfetched"),
            ("reclaimed", "reclaimed"),
        ];
        own.is_object()
            && pairs.iter().all(|(sampled, said)| newest[*sampled] == own[*said])
            && shown["slab_classes"] == own["slab_classes"]
    });
    shown
}

//
#[test]
fn statistics_equal_memcacheds_own_and_have_right_increments() {
    let product = Product::start();
    let ada = product.add_user(ADA);
    // Before there is anything to count, so that all that follows is an increment.
    wait_until(deadline_in(40), "the first sample", || history(&product)["newest"].is_object());
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    let value = vec![b'v'; 500_000];
    for number in 0..200 {
        assert_eq!(client.set(&format!("large-{number}"), &value), "STORED");
    }
    let read = (0..200).filter(|number| client.get(&format!("large-{number}")).unwrap().is_some()).count();
    let shown = until_sampled(&product);
    let newest = |name: &str| shown["newest"][name].as_i64().unwrap();
    let (hits, evictions) = (newest("hits"), newest("evictions"));
    // A large value that arrived on a shared lane was read once more.
    assert!(hits >= i64::try_from(read).unwrap() && evictions > 50, "{shown}");
    for name in ["hits", "misses", "sets", "evictions", "evicted_unfetched", "reclaimed"] {
        assert_eq!(sum(&shown, name), newest(name), "{name}");
    }
    assert_eq!(newest("sets"), 200);
    let by_size = shown["slab_classes"].as_array().unwrap().iter();
    assert_eq!(by_size.map(|it| it["evicted"].as_i64().unwrap()).sum::<i64>(), evictions);
    assert!(shown["newest"]["container_bytes"].as_i64().unwrap() > 40 << 20, "{shown}");
    assert!(sum(&shown, "cpu_us") > 0);

    // Neither a restart of memcached nor one of the provisioner makes a rate wrong.
    end_role(&product, "provisioner", "KILL");
    assert_eq!(product.json(&["cache", "restart", ADA])["state"], "done");
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    wait_until(deadline_in(20), "the cache answers", || client.set("probe", b"x") == "STORED");
    assert!((0..30).all(|_| client.get("probe").unwrap().is_some()));
    let shown = until_sampled(&product);
    assert_eq!(sum(&shown, "hits"), hits + 30);
    assert_eq!(sum(&shown, "evictions"), evictions);
    for interval in shown["intervals"].as_array().unwrap() {
        let numbers = interval.as_object().unwrap().values();
        assert!(numbers.into_iter().all(|number| number.as_i64().unwrap() >= 0), "{interval}");
    }
    let table = String::from_utf8(product.run(&["cache", "stats", ADA]).stdout).unwrap();
    assert!(table.starts_with("FROM") && table.contains(" UTC "), "{table}");
}

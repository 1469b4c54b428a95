//! The figures behind a cache's charts, under load: what the API shows equals what memcached itself says, within one sample.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::SetOnDrop;

use crate::harness::{Credentials, Product, deadline_in, wait_until};
use crate::text_client::TextClient;

/// Samples that are taken under load, one each 10 s.
const LOAD: Duration = Duration::from_secs(35);
/// The API allows 300 requests a minute.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes of a value: with many of them a cache of 8 MB evicts.
const VALUE: [u8; 8_000] = [b'v'; 8_000];
const KEYS: usize = 3_000;

/// Counters that both name, in memcached's and in the API's words.
const COUNTERS: [(&str, &str); 4] =
    [("get_hits", "hits"), ("get_misses", "misses"), ("cmd_set", "sets"), ("evictions", "evictions")];
const GAUGES: [(&str, &str); 3] =
    [("bytes", "bytes"), ("limit_maxbytes", "limit_bytes"), ("curr_items", "items")];

/// Stores and reads, hits and misses, until it is told to stop.
fn load(product: &Product, of: &Credentials, is_stopped: &AtomicBool) {
    let mut client = TextClient::log_in(product.endpoint(), of);
    for number in 0.. {
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("key{}", number % KEYS);
        assert_eq!(client.set(&key, &VALUE), "STORED");
        assert_eq!(client.get(&key), Ok(Some(VALUE.to_vec())));
        assert_eq!(client.get("missing"), Ok(None));
    }
}

/// What memcached says now, asked directly.
fn memcached(product: &Product, email: &str) -> Value {
    product.json(&["instance", "show", email])["memcached"].clone()
}

fn number(document: &Value, name: &str) -> i64 {
    document[name].as_i64().unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// A reader of the API.
struct Api<'a> {
    product: &'a Product,
    key: String,
    cache: String,
}

impl<'a> Api<'a> {
    fn new(product: &'a Product, email: &str) -> Self {
        let created = product.json(&["api-key", "create", email, "--scope", "read"]);
        let key = created["api_key"].as_str().unwrap().to_owned();
        product.register_secret(&key);
        let mut api = Self { product, key, cache: String::new() };
        api.cache = api.get("/caches")["items"][0]["id"].as_str().unwrap().to_owned();
        api
    }

    fn get(&self, path: &str) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--header", &format!("Authorization: Bearer {}", self.key)]);
        let output = curl.arg(format!("http://{}/api/v1{path}", self.product.web())).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The intervals of 10 s, as the charts of an hour draw them.
    fn history(&self) -> Vec<Value> {
        let history = self.get(&format!("/caches/{}/statistics/history?range=hour", self.cache));
        history["intervals"].as_array().unwrap().clone()
    }
}

fn sum(intervals: &[Value], name: &str) -> i64 {
    intervals.iter().map(|interval| number(interval, name)).sum()
}

#[test]
fn charts_equal_what_memcached_says_within_one_sample() {
    let product = Product::start_with(&[]);
    product.json(&["plan", "create", "small", "--memory-mb", "8"]);
    let ada = product.credentials(&["user", "add", "ada@example.org", "--plan", "small"]);
    let api = Api::new(&product, &ada.email);
    wait_until(deadline_in(60), "the first sample", || {
        std::thread::sleep(POLL_INTERVAL);
        !api.history().is_empty()
    });
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopped = SetOnDrop(&is_stopped);
        let clients = [(); 2].map(|()| scope.spawn(|| load(&product, &ada, &is_stopped)));
        let started = Instant::now();
        let mut compared = 0;
        // A sample is at most what memcached says afterwards, and at least what it said before the sample.
        let mut before = memcached(&product, &ada.email);
        let mut samples = api.history().len();
        while started.elapsed() < LOAD || compared < 2 {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client failed");
            let earlier = memcached(&product, &ada.email);
            let history = api.history();
            if history.len() == samples {
                before = earlier;
                std::thread::sleep(POLL_INTERVAL);
                continue;
            }
            let after = memcached(&product, &ada.email);
            for (direct, shown) in COUNTERS {
                let shown = sum(&history, shown);
                let bounds = number(&before, direct)..=number(&after, direct);
                assert!(bounds.contains(&shown), "{direct}: {shown} isn't in {bounds:?}");
            }
            (samples, compared, before) = (history.len(), compared + 1, after);
        }
        drop(stopped);
        clients.into_iter().for_each(|client| client.join().unwrap());
        println!("{compared} samples compared under load");
    });
    // At rest all is equal with the next sample.
    let direct = memcached(&product, &ada.email);
    for (name, _) in COUNTERS {
        assert!(number(&direct, name) > 0, "{name}: {direct}");
    }
    let are_equal = || {
        let history = api.history();
        let last = history.last().unwrap();
        COUNTERS.iter().all(|(name, shown)| sum(&history, shown) == number(&direct, name))
            && GAUGES.iter().all(|(name, shown)| number(last, shown) == number(&direct, name))
    };
    wait_until(deadline_in(60), "the charts equal memcached's figures", || {
        std::thread::sleep(POLL_INTERVAL);
        are_equal()
    });
    drop(api);
    drop(product);
}

//! A cache's life while an application uses it: a warm restart, more memory of a warm cache, sleep and wake, suspension, deletion.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use testkit::SetOnDrop;

use crate::harness::{Credentials, LOOK_EVERY_SECOND, Product, deadline_in, docker, wait_until};
use crate::text_client::TextClient;

const ADA: &str = "ada@example.org";
const CLIENTS: usize = 4;
/// Of each client.
const ITEMS: usize = 2_000;

/// More than requests wait for in the proxy.
const REPLY_TIMEOUT: Duration = Duration::from_secs(70);

fn value(number: usize) -> Vec<u8> {
    format!("value {number} ").repeat(20).into_bytes()
}

/// Reads and writes items in turn, and checks each. Returns how many requests that were, and the longest time of one.
fn check(client: &mut TextClient, first: usize, is_over: &AtomicBool) -> (usize, Duration) {
    let (mut requests, mut longest) = (0, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        let number = first + requests % ITEMS;
        let begun = Instant::now();
        if requests % 5 == 0 {
            assert_eq!(client.set(&format!("item-{number}"), &value(number)), "STORED");
        } else {
            assert_eq!(client.get(&format!("item-{number}")), Ok(Some(value(number))), "item {number}");
        }
        longest = longest.max(begun.elapsed());
        requests += 1;
    }
    (requests, longest)
}

fn restart(product: &Product) -> String {
    product.operate(&["cache", "restart", ADA])
}

/// Clients that have stored all of their items in a warm cache.
fn warm_clients(product: &Product) -> (Credentials, Vec<TextClient>) {
    product.json(&["plan", "update", "default", "--warm", "true"]);
    let ada = product.add_user(ADA);
    let mut clients: Vec<TextClient> = (0..CLIENTS)
        .map(|_| TextClient::log_in(product.endpoint(), &ada).with_timeout(REPLY_TIMEOUT))
        .collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        for number in nth * ITEMS..(nth + 1) * ITEMS {
            assert_eq!(client.set(&format!("item-{number}"), &value(number)), "STORED");
        }
    }
    (ada, clients)
}

/// Carries out operations while each client checks its items; returns what they say.
fn while_checked(clients: &mut [TextClient], operations: impl FnOnce() -> Vec<String>) -> Vec<String> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(nth, client)| {
                let is_over = &is_over;
                scope.spawn(move || check(client, nth * ITEMS, is_over))
            })
            .collect();
        let said = {
            let _is_over = SetOnDrop(&is_over);
            operations()
        };
        for client in running {
            let (requests, longest) = client.join().unwrap();
            println!("{requests} requests during {} operations, the longest took {longest:?}", said.len());
        }
        said
    })
}

// F-36, F-35.
#[test]
fn warm_cache_gets_more_memory_while_clients_check_every_item() {
    // On a machine that is busy with other tests, a copy takes longer than requests wait by default.
    let product = Product::start_with(&[LOOK_EVERY_SECOND, ("MEMGATE_PROXY__HOLD_WAKE", "60")]);
    let (_ada, mut clients) = warm_clients(&product);
    let sizes = ["96", "128", "300"];
    let resize = |memory_mb| product.operate(&["cache", "resize", ADA, "--memory-mb", memory_mb]);
    let said = while_checked(&mut clients, || sizes.map(resize).to_vec());
    assert_eq!(said, sizes.map(|size| format!("memcached has {size} MB; it kept {} items", CLIENTS * ITEMS)));
    for (nth, client) in clients.iter_mut().enumerate() {
        for number in nth * ITEMS..(nth + 1) * ITEMS {
            assert_eq!(client.get(&format!("item-{number}")), Ok(Some(value(number))), "item {number}");
        }
    }
    // Less empties it, which is said.
    let said = resize("64");
    let expected = "memcached has 64 MB; its contents could not be kept: a warm cache that gets less memory starts empty";
    assert_eq!(said, expected);
    assert_eq!(clients[0].get("item-1"), Ok(None));
}

// F-36, F-35.
#[test]
fn warm_restarts_are_a_delay_for_clients_that_check_every_item() {
    let product = Product::start_with(&[LOOK_EVERY_SECOND]);
    let (ada, mut clients) = warm_clients(&product);
    let said = while_checked(&mut clients, || (0..3).map(|_| restart(&product)).collect());
    assert_eq!(said, vec![format!("memcached was restarted; it kept {} items", CLIENTS * ITEMS); 3]);
    // What can't be kept is said.
    let container = product.container(ADA);
    docker(&["kill", &container]);
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    wait_until(deadline_in(20), "it runs, empty", || client.get("item-1") == Ok(None));
    let events = product.json(&["instance", "events", ADA]);
    assert_eq!(events["events"][0]["contents_lost"], true, "{events}");
}

fn state(product: &Product) -> String {
    product.json(&["cache", "show", ADA])["state"].as_str().unwrap().to_owned()
}

fn log_in_is_refused(product: &Product, ada: &Credentials) {
    let login = format!("{} {}", ada.username, ada.password);
    let reply = TextClient::connect(product.endpoint()).set("auth", login.as_bytes());
    assert_eq!(reply, "CLIENT_ERROR authentication failure");
}

// F-37, R-15, R-47.
#[test]
fn cache_sleeps_wakes_is_suspended_and_deleted() {
    let product = Product::start_with(&[LOOK_EVERY_SECOND]);
    product.json(&["plan", "update", "default", "--sleep-after", "10s"]);
    let ada = product.add_user(ADA);
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(client.set("steady", b"before"), "STORED");
    wait_until(deadline_in(60), "it sleeps although a connection is open", || state(&product) == "asleep");
    let list = product.json(&["instance", "list"]);
    assert_eq!(list["instances"][0]["state"], "asleep");
    let mut new = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(state(&product), "asleep", "a login wakes nothing");
    for client in [&mut new, &mut client] {
        let begun = Instant::now();
        assert_eq!(client.get("steady"), Ok(None));
        println!("the first command took {:?}", begun.elapsed());
    }
    assert_eq!(state(&product), "running");
    product.json(&["plan", "update", "default", "--sleep-after", "never"]);

    let suspended = product.json(&["cache", "suspend", ADA]);
    assert_eq!((&suspended["kind"], &suspended["state"]), (&"suspend".into(), &"done".into()));
    assert_eq!(state(&product), "suspended");
    log_in_is_refused(&product, &ada);
    for command in [&["restart"][..], &["flush"], &["resize", "--memory-mb", "32"]] {
        let output = product.run(&[&["cache", command[0], ADA], &command[1..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            stderr.trim(),
            "error: the cache is suspended: resume it with `memgate cache resume ada@example.org --cache default`"
        );
    }
    let resumed = product.json(&["cache", "resume", ADA]);
    assert_eq!((&resumed["state"], &resumed["message"]), (&"done".into(), &"the cache runs".into()));
    let mut client = TextClient::log_in(product.endpoint(), &ada);
    assert_eq!(client.set("steady", b"again"), "STORED");
    let deleted = product.json(&["cache", "delete", ADA, "--yes"]);
    assert_eq!((&deleted["deleted"], &deleted["operation"]["state"]), (&true.into(), &"done".into()));
    log_in_is_refused(&product, &ada);
    let filter = format!("label=memgate={}", product.id());
    assert_eq!(docker(&["container", "ls", "-aq", "--filter", &filter]), [""; 0]);
    let log = product.json(&["audit", "list"]);
    let actions: Vec<_> =
        log["entries"].as_array().unwrap().iter().map(|it| it["action"].as_str().unwrap()).collect();
    for action in ["cache.suspend", "cache.resume", "cache.delete"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
}

//! What counts as ready.

use daemon::Shutdown;
use daemon::health::{self, ProcessInfo};
use store::{IsolationFailure, Timestamp};

use super::*;

fn ready() -> Health {
    Health::of(Ok(None))
}

fn down() -> Health {
    Health::of(Err("connection refused".to_owned()))
}

fn role(health: Health) -> RoleHealth {
    RoleHealth { health, address: "127.0.0.1:1".parse().unwrap(), process: None, notices: Vec::new() }
}

fn status(instances: &[(&'static str, u64)]) -> Status {
    Status {
        roles: BTreeMap::from([("proxy", role(ready()))]),
        store: ready(),
        docker: ready(),
        instances: instances.iter().copied().collect(),
        ..Status::default()
    }
}

#[test]
fn failed_instance_is_not_ready() {
    let healthy = status(&[("pending", 1), ("running", 2)]);
    assert!(healthy.is_ready());
    assert!(healthy.describe().contains("1 pending, 2 running"));
    assert!(status(&[]).is_ready());
    let failed = status(&[("failed", 1), ("running", 2)]);
    assert!(!failed.is_ready());
    assert!(failed.describe().contains("not ready: 1 failed, 2 running"));
}

#[test]
fn promised_memory_is_shown_with_what_still_fits() {
    let plan = Plan {
        name: "default".to_owned(),
        memory_mb: 64,
        connections: 20_000,
        item_size_max: 1 << 20,
        operations_per_second: None,
        bytes_per_second: None,
        warm: false,
        sleep_after_seconds: None,
        cpu_weight: 100,
        caches_per_user: None,
        price_label: None,
    };
    let of = |promised_mb: i64, plan: Option<&Plan>| {
        let memory = PromisedMemory { promised_bytes: promised_mb << 20, budget_bytes: 1000 << 20 };
        Status { memory: Room::new(memory, "default", plan, 3), ..status(&[]) }.describe()
    };
    // A cache of this plan has a limit of 140 MB.
    for (promised_mb, shown) in [
        (140, "140 MB of 1000 MB promised, 860 MB free: room for 6 more caches of the plan default"),
        (
            861,
            "861 MB of 1000 MB promised: no room for another cache of the plan default, so sign-up is refused",
        ),
        (1001, "1001 MB of 1000 MB promised: further caches wait for room"),
    ] {
        let text = of(promised_mb, Some(&plan));
        assert!(text.contains(shown), "{text}");
    }
    assert!(of(140, None).contains("140 MB of 1000 MB promised\n"), "without its plan");
    assert!(
        of(140, None).contains("ready instances") && of(140, None).contains("3 run and wait for a sign-up")
    );
    assert!(!status(&[]).describe().contains("promised"), "without a store");
}

//
#[test]
fn failed_isolation_check_is_not_ready() {
    assert!(!status(&[]).describe().contains("isolation"), "nothing to check");
    let oldest_at = Some(now().saturating_sub(Duration::from_secs(180)));
    let checked = IsolationSummary { checked: 12, oldest_at, incomplete: 1, ..Default::default() };
    let passed = Status { isolation: checked.clone(), ..status(&[]) };
    assert!(passed.is_ready());
    let text = passed.describe();
    assert!(text.contains("12 checked, the oldest check 3 minutes ago, 1 not fully checked\n"), "{text}");
    let (email, cache) = ("ada@example.org".to_owned(), "shop".to_owned());
    let failure = IsolationFailure { email, cache, detail: "it publishes ports".to_owned() };
    let failed = IsolationSummary { failed: 1, failures: vec![failure], ..checked };
    let failed = Status { isolation: failed, ..status(&[]) };
    assert!(!failed.is_ready());
    let text = failed.describe();
    assert!(
        text.contains("not ready: 1 failed (cache shop of ada@example.org: it publishes ports); 12"),
        "{text}"
    );
}

//
#[test]
fn foreign_resources_are_shown() {
    let with = Status { foreign: vec!["container red".to_owned()], ..status(&[]) };
    assert!(with.describe().contains("container red") && with.is_ready());
    assert!(!status(&[]).describe().contains("not memgate's"));
}

#[test]
fn role_store_and_docker_must_be_ready() {
    assert!(!Status { store: down(), ..status(&[]) }.is_ready());
    assert!(!Status { docker: down(), ..status(&[]) }.is_ready());
    assert!(!Status { roles: BTreeMap::from([("proxy", role(down()))]), ..status(&[]) }.is_ready());
}

fn proxy(name: &str, started: Duration, seen: Duration) -> Proxy {
    let ago = |age| now().saturating_sub(age);
    let version = "1.2.3".to_owned();
    let id = format!("{name}/{started:?}");
    Proxy { id, name: name.to_owned(), version, started_at: ago(started), seen_at: ago(seen), applied: 0 }
}

#[test]
fn proxy_without_heartbeat_is_not_ready_until_another_takes_its_place() {
    let seconds = Duration::from_secs;
    let killed = proxy("vm:11211", seconds(100), seconds(20));
    let mut with = status(&[]);
    with.add_proxies(&[killed.clone(), proxy("other:11211", seconds(90), seconds(1))]);
    assert!(!with.is_ready());
    let text = with.describe();
    assert!(text.contains("not ready: no heartbeat of vm:11211 (1.2.3), seen 20 seconds ago"), "{text}");
    assert!(text.contains("other:11211 (1.2.3), seen"), "{text}");

    let mut restarted = status(&[]);
    restarted.add_proxies(&[killed.clone(), proxy("vm:11211", seconds(5), seconds(0))]);
    assert!(restarted.is_ready());
    assert_eq!(restarted.proxies.len(), 1);

    let mut gone = status(&[]);
    gone.add_proxies(&[Proxy { seen_at: Timestamp::EPOCH, ..killed }]);
    assert!(gone.is_ready() && gone.proxies.is_empty());
}

// F-27, F-26, F-31.
#[tokio::test]
async fn role_is_ready_only_for_its_own_installation_and_without_problems() {
    let health = daemon::health::Health::new(ProcessInfo::new("abc234", "proxy", "1.2.3"));
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let shutdown = Shutdown::new();
    health::serve(address, &health, &shutdown).await.unwrap();
    let ask = async |installation: &'static str| ask_role(Role::Proxy, address, installation).await;
    assert_eq!(ask("abc234").await.health.message.as_deref(), Some("starting"));
    health.ready();
    let own = ask("abc234").await;
    assert!(own.health.ready && own.process.unwrap().pid == std::process::id());
    let other = ask("xyz567").await;
    assert!(!other.health.ready);
    assert!(other.health.message.unwrap().contains("another installation (abc234) answers"));
    assert!(!ask("").await.health.ready, "a data directory without an installation");

    health.set_notice("certificate", Some("it ends in 3 days".into()));
    let warned = ask("abc234").await.health;
    assert_eq!((warned.ready, warned.message.as_deref()), (true, Some("it ends in 3 days")));
    health.set_problem("store", Some("the store is unavailable".into()));
    let broken = ask("abc234").await.health;
    assert_eq!((broken.ready, broken.message.as_deref()), (false, Some("the store is unavailable")));
    shutdown.begin();
}

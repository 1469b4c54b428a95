//! Operations on a cache that runs: more and less memory in place, flush, restart; also from where a crash left them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use provisioner::statistics::{self, Statistics};
use store::{
    Instance, NewOperation, Operation, OperationError, OperationKind, OperationProgress, OperationState,
    Route, StoreError,
};

use crate::harness::{Installation, docker, inspect, output, ready, until};

const MIB: u64 = 1 << 20;
/// Bytes of the items that tests fill caches with.
pub(crate) const ITEM: usize = 10_000;

pub(crate) async fn ask(installation: &Installation, instance: &Instance, new: NewOperation) -> Operation {
    installation.store.request_operation(&instance.cache_id, new).await.unwrap()
}

pub(crate) async fn until_finished(installation: &Installation, operation: &Operation) -> Operation {
    until("the end of the operation", Duration::from_secs(60), || async {
        let read = installation.store.operation(&operation.cache_id, &operation.id).await.unwrap().unwrap();
        read.state.is_finished().then_some(read)
    })
    .await
}

/// Asks for an operation and waits until it is done; returns what it says.
pub(crate) async fn done(installation: &Installation, instance: &Instance, new: NewOperation) -> String {
    let asked = ask(installation, instance, new).await;
    let ended = until_finished(installation, &asked).await;
    assert_eq!((ended.state, ended.progress), (OperationState::Done, 100), "{ended:?}");
    ended.message.unwrap()
}

fn resize(memory_mb: i64) -> NewOperation {
    NewOperation::Resize { memory_mb }
}

async fn statistics_of(installation: &Installation, instance: &Instance, route: &Route) -> Statistics {
    let address = route.address.as_ref().unwrap().parse().unwrap();
    statistics::read(address, &installation.lane_key.credential(&instance.id, route.generation))
        .await
        .unwrap()
}

/// When Docker started the container last, and its limit in bytes.
fn container(installation: &Installation, instance: &Instance) -> (String, String, u64) {
    let found = inspect("container", &installation.container(instance));
    assert_eq!(found["State"]["OOMKilled"], false);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let memory = found["HostConfig"]["Memory"].as_u64().unwrap();
    (text(&found["Id"]), text(&found["State"]["StartedAt"]), memory)
}

/// How many of the items that `fill` has stored are there.
pub(crate) fn hits(installation: &Installation, instance: &Instance, route: &Route, count: usize) -> usize {
    installation.hits(instance, route, (ITEM, count))
}

// R-47, R-25.
#[tokio::test]
async fn memory_grows_and_shrinks_without_a_restart() {
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 4_000));
    let (id, started, limit) = container(&installation, &instance);
    let full = statistics_of(&installation, &instance, &route).await;
    assert_eq!((full.limit_maxbytes, full.curr_items), (64 * MIB, 4_000));

    let said = done(&installation, &instance, resize(192)).await;
    assert_eq!(said, "memcached has 192 MB; nothing was evicted");
    let grown = container(&installation, &instance);
    assert_eq!((&grown.0, &grown.1), (&id, &started), "the same container, and no restart");
    assert_eq!(grown.2, limit + 128 * MIB * 5 / 4);
    let figures = statistics_of(&installation, &instance, &route).await;
    assert_eq!((figures.limit_maxbytes, figures.curr_items), (192 * MIB, 4_000));
    installation.fill(&instance, &route, 1, (ITEM, 14_000));
    let figures = statistics_of(&installation, &instance, &route).await;
    assert_eq!((figures.curr_items, figures.evictions), (18_000, 0));

    // Docker starts it with the first size.
    docker(&["restart", "-t", "0", &installation.container(&instance)]);
    until("the size after a restart", Duration::from_secs(10), || async {
        let route = installation.route(&instance).await?;
        let address = route.address.as_ref()?.parse().ok()?;
        let credential = installation.lane_key.credential(&instance.id, route.generation);
        let figures = statistics::read(address, &credential).await.ok()?;
        (figures.limit_maxbytes == 192 * MIB).then_some(())
    })
    .await;
    let route = installation.until_running(&instance, 0).await;
    assert_eq!(container(&installation, &instance).0, id);

    installation.fill(&instance, &route, 0, (ITEM, 15_000));
    installation.fill(&instance, &route, 2, (100, 20_000));
    let said = done(&installation, &instance, resize(32)).await;
    assert!(said.starts_with("memcached has 32 MB; ") && said.contains("items were evicted"), "{said}");
    let shrunk = container(&installation, &instance);
    assert_eq!(shrunk.0, id);
    assert_eq!(shrunk.2, limit - 32 * MIB * 5 / 4, "the container's limit follows");
    let figures = statistics_of(&installation, &instance, &route).await;
    assert_eq!(figures.limit_maxbytes, 32 * MIB);
    let kept = hits(&installation, &instance, &route, 15_000);
    assert!((2_000..3_500).contains(&kept), "{kept} items of 10 kB in 32 MB");
    installation.fill(&instance, &route, 3, (ITEM, 15_000));
    assert_eq!(container(&installation, &instance), shrunk, "full again, and not ended");
    assert_eq!(installation.route(&instance).await.unwrap().generation, route.generation);
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert!(events.iter().all(|event| event.cause == store::EventCause::Stopped), "{events:?}");
}

// R-47.
#[tokio::test]
async fn restart_and_flush_empty_a_cache() {
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    installation.fill(&instance, &route, 0, (ITEM, 10));
    let before = container(&installation, &instance);
    assert_eq!(hits(&installation, &instance, &route, 10), 10);
    assert_eq!(done(&installation, &instance, NewOperation::Flush).await, "all items were removed");
    assert_eq!(hits(&installation, &instance, &route, 10), 0);
    assert_eq!(container(&installation, &instance), before, "not restarted");

    installation.fill(&instance, &route, 0, (ITEM, 10));
    let mut feed = installation.store.feed().await.unwrap();
    let said = done(&installation, &instance, NewOperation::Restart).await;
    assert!(said.contains("contents are gone"), "{said}");
    assert_eq!(hits(&installation, &instance, &route, 10), 0, "with the same secret");
    let after = container(&installation, &instance);
    assert!(after.0 == before.0 && after.1 != before.1, "{before:?} {after:?}");
    let running = installation.until_running(&instance, 0).await;
    assert_eq!((running.address, running.generation), (route.address, route.generation));
    assert!(feed.next().await.unwrap().caches.contains(&instance.cache_id));
    let events = installation.store.instance_events(&instance.id, 10).await.unwrap();
    assert_eq!(events, [], "an operation is no repair");

    // A restart is the time for the size that memcached was given meanwhile.
    done(&installation, &instance, resize(32)).await;
    done(&installation, &instance, NewOperation::Restart).await;
    let new = inspect("container", &installation.container(&instance));
    assert!(new["Config"]["Cmd"].to_string().contains("\"-m\",\"32\""), "{new}");
    let route = installation.until_running(&instance, route.generation).await;
    assert_eq!(statistics_of(&installation, &instance, &route).await.limit_maxbytes, 32 * MIB);
}

// R-47, R-43.
#[tokio::test]
async fn rows_that_nobody_has_asked_for_harm_nobody() {
    let installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    let (victim, victim_route) = installation.running_instance().await;
    installation.fill(&victim, &victim_route, 0, (ITEM, 10));
    // As the web UI's user could write with SQLite: kinds that don't exist, sizes without end, rows without number.
    let sql = "PRAGMA ignore_check_constraints = 1; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
               WHERE i < 30000) INSERT INTO operations SELECT 'id' || i, (SELECT cache_id FROM instances WHERE id = '";
    let rest = "'), i, CASE i % 6 WHEN 0 THEN 'delete' WHEN 4 THEN 'erase' WHEN 5 THEN 'suspend' WHEN 1 THEN 'flush' WHEN 2 THEN 'restart' ELSE 'resize' END, \
                9223372036854775807, 'x', 1, 1, 1, 1 FROM n";
    installation.execute(&format!("{sql}{}{rest}", instance.id));
    let asked = ask(&installation, &victim, NewOperation::Flush).await;
    until_finished(&installation, &asked).await;
    assert_eq!(hits(&installation, &victim, &victim_route, 10), 0);
    assert_eq!(statistics_of(&installation, &instance, &route).await.limit_maxbytes, 64 * MIB);
    let memory = container(&installation, &instance).2;
    assert_eq!(memory, container(&installation, &victim).2, "rows of operations give nobody memory");
}

/// Records what a provisioner had written before it was killed.
pub(crate) async fn left(installation: &Installation, operation: &Operation, checkpoint: &str) {
    let checkpoint = Some(checkpoint.to_owned());
    let (state, progress, message) = (OperationState::Running, 5, None);
    let begun = OperationProgress { state, progress, message, checkpoint };
    installation.store.record_operation(&operation.id, &begun).await.unwrap();
}

// R-47.
#[tokio::test]
async fn operations_go_on_from_where_a_crash_left_them() {
    let mut installation = Installation::start().await;
    let (instance, route) = installation.running_instance().await;
    let name = installation.container(&instance);
    for (what, command) in [
        ("not stopped yet", &[][..]),
        ("stopped", &["stop", "-t", "1"]),
        ("started again", &["restart", "-t", "1"]),
        ("removed", &["rm", "-f"]),
    ] {
        let (_, before, _) = container(&installation, &instance);
        installation.stop_provisioner();
        let asked = ask(&installation, &instance, NewOperation::Restart).await;
        left(&installation, &asked, &before).await;
        if !command.is_empty() {
            docker(&[command, &[name.as_str()]].concat());
        }
        let started = (what == "started again").then(|| container(&installation, &instance).1);
        installation.start_provisioner();
        installation.until_ready().await;
        assert_eq!(until_finished(&installation, &asked).await.state, OperationState::Done, "{what}");
        let (_, after, _) = container(&installation, &instance);
        assert!(after != before, "{what}");
        assert!(started.is_none_or(|started| started == after), "{what}: not restarted twice");
    }
    let route = installation.until_running(&instance, route.generation).await;

    // In the middle of giving pages back: memcached has its new limit, and its container not yet.
    installation.fill(&instance, &route, 0, (ITEM, 5_000));
    installation.stop_provisioner();
    let asked = ask(&installation, &instance, resize(16)).await;
    left(&installation, &asked, "0 67108864").await;
    assert_eq!(installation.request(&instance, &route, "cache_memlimit 16").as_deref(), Some("OK"));
    installation.start_provisioner();
    installation.until_ready().await;
    let ended = until_finished(&installation, &asked).await;
    assert_eq!((ended.kind, ended.state), (OperationKind::Resize, OperationState::Done), "{ended:?}");
    assert!(ended.message.unwrap().contains("items were evicted"));
    let limit = container(&installation, &instance).2;
    assert_eq!(limit, (16 * 5 / 4 + 24 + 32 + 4) * MIB);
}

/// Answers in the place of a memcached, in its network: passes all on, but says for ever that a page is being moved.
struct BusyForEver(Child);

impl BusyForEver {
    const PROGRAM: &str = r#"
import socket, threading
server = socket.create_server(('', 11212))
print('ready', flush=True)
def copy(source, target):
    while data := source.recv(65536):
        target.sendall(data)
def serve(client):
    memcached = socket.create_connection(('127.0.0.1', 11211))
    threading.Thread(target=copy, args=(memcached, client), daemon=True).start()
    while data := client.recv(65536):
        if data.startswith(b'slabs reassign'):
            client.sendall(b'BUSY currently processing reassign request\r\n')
        else:
            memcached.sendall(data)
    memcached.shutdown(socket.SHUT_RDWR)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"#;

    fn in_place_of(installation: &Installation, instance: &Instance) -> Self {
        let pid = inspect("container", &installation.container(instance))["State"]["Pid"].to_string();
        let in_network = ["-t", &pid, "-n"];
        let mut process = Command::new("nsenter")
            .args(in_network)
            .args(["python3", "-c", Self::PROGRAM])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let hijacked = Self(process);
        assert_eq!(ready, "ready\n");
        let rules = "add table ip test; add chain ip test before { type nat hook prerouting priority -100; }; \
                     add rule ip test before iifname != lo tcp dport 11211 redirect to :11212";
        output("nsenter", &[&in_network[..], &["nft", rules]].concat());
        hijacked
    }
}

impl Drop for BusyForEver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// R-47, F-16.
#[tokio::test]
async fn a_resize_that_a_memcached_draws_out_holds_up_no_repair_and_fails() {
    let installation = Installation::start().await;
    let (hijacked, _) = installation.running_instance().await;
    let (other, route) = installation.running_instance().await;
    installation.fill(&other, &route, 0, (ITEM, 10));
    let _busy = BusyForEver::in_place_of(&installation, &hijacked);
    let asked = ask(&installation, &hijacked, resize(32)).await;
    let read = async || installation.store.operation(&asked.cache_id, &asked.id).await.unwrap().unwrap();
    until("the begin of the resize", Duration::from_secs(10), || async {
        (read().await.state == OperationState::Running).then_some(())
    })
    .await;
    let started = Instant::now();
    output("ip", &["link", "del", &format!("mg{}-0", installation.id)]);
    until("a report", Duration::from_secs(15), || async {
        (!ready(installation.config.health)).then_some(())
    })
    .await;
    // Before that, something elsewhere may answer at their addresses.
    installation.until_ready().await;
    assert_eq!(hits(&installation, &other, &route, 10), 10);
    println!("the network was made again within {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // A resize whose memcached can't be reached for long fails with the network. Another one meets a memcached that is only busy.
    installation.until_running(&hijacked, 0).await;
    let (asked, memory_mb) = match read().await.state {
        OperationState::Running => (asked, 32),
        _ => (ask(&installation, &hijacked, resize(24)).await, 24),
    };
    let ended = until_finished(&installation, &asked).await;
    println!("the resize ended after {:?}", started.elapsed());
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
    assert!(ended.message.as_ref().unwrap().contains(": restart the cache"), "{ended:?}");
    // That helps.
    done(&installation, &hijacked, NewOperation::Restart).await;
    let route = installation.until_running(&hijacked, 0).await;
    let limit = statistics_of(&installation, &hijacked, &route).await.limit_maxbytes;
    assert_eq!(limit, memory_mb * MIB);
}

// R-47.
#[tokio::test]
async fn what_the_machine_has_no_room_for_is_refused_or_waits() {
    let mut installation = Installation::new().await;
    installation.config.memory_mb = Some(300);
    installation.start_provisioner();
    installation.until_ready().await;
    let (instance, route) = installation.running_instance().await;
    // Before the capacity is known, the operation waits.
    let growing = if installation.store.host_capacity().await.unwrap().is_none() {
        Some(ask(&installation, &instance, resize(640)).await)
    } else {
        None
    };
    let capacity = until("the machine's capacity", Duration::from_secs(30), || async {
        installation.store.host_capacity().await.unwrap().filter(|capacity| capacity.reserved_bytes > 0)
    })
    .await;
    assert_eq!((capacity.budget_bytes, capacity.reserved_bytes), (300 << 20, 140 << 20));
    assert_eq!(capacity.growth_mb, 128);
    if let Some(growing) = growing {
        let waiting = until("a message", Duration::from_secs(10), || async {
            let read = installation.store.operation(&instance.cache_id, &growing.id).await.unwrap().unwrap();
            read.message.is_some().then_some(read)
        })
        .await;
        assert_eq!(waiting.state, OperationState::Pending);
        assert!(waiting.message.unwrap().starts_with("waiting for memory"));
        assert_eq!(capacity.waiting, 1);
        // What stops meanwhile is started with the memory that it has.
        docker(&["stop", "-t", "1", &installation.container(&instance)]);
        until("the container to run", Duration::from_secs(15), || async {
            let found = inspect("container", &installation.container(&instance));
            (found["State"]["Running"] == true).then_some(())
        })
        .await;
    }
    let refused = installation.store.request_operation(&instance.cache_id, resize(1_000)).await;
    assert!(
        matches!(refused, Err(StoreError::Operation(OperationError::NoRoom { memory_mb: 1_000, .. }))),
        "{refused:?}"
    );
    let said = done(&installation, &instance, resize(190)).await;
    assert!(said.starts_with("memcached has 190 MB"), "{said}");
    assert_eq!(installation.until_running(&instance, 0).await.generation, route.generation);
    let sampled = until("statistics", Duration::from_secs(30), || async {
        let sampled = installation.store.instance_statistics(&instance.id).await.unwrap();
        sampled.filter(|sampled| sampled.gauges.limit_bytes == 190 << 20)
    })
    .await;
    assert_eq!((sampled.gauges.items, sampled.counters.evictions), (0, 0));
}

//! Memory is metered hour by hour, once, and up to the second.

use std::time::Duration;

use store::{
    InstanceState, MemoryChanges, Observed, ReservedMemory, Store, Timestamp, UsageSpan, UserState, now,
};

use crate::test_db::{TestDb, sign_up};

on_both!(
    memory_counts_hour_by_hour_with_its_size,
    memory_that_two_provisioners_meter_counts_once,
    memory_of_what_stops_counts_until_then,
    time_without_a_container_does_not_count,
    a_clock_that_was_wrong_counts_nothing_twice,
    instances_that_run_have_memory_reserved,
);

const HOUR: i64 = 3_600;
const ALWAYS: UsageSpan = UsageSpan { from: Timestamp::EPOCH, to: Timestamp::MAX };

/// Seconds since an hour that was a while ago.
fn at(seconds: i64) -> Timestamp {
    let begin = now().hour().as_millis() - 100 * HOUR * 1_000;
    Timestamp::from_millis(begin + seconds * 1_000)
}

async fn instance(store: &Store, email: &str) -> String {
    let (user, _) = sign_up(store, email).await;
    store.first_instance_of(&user.id).await.unwrap().unwrap().id
}

fn begin(instance: &str, memory_mb: i64, since: i64) -> MemoryChanges {
    let reserved = ReservedMemory { instance_id: instance.to_owned(), memory_mb, since: at(since) };
    MemoryChanges { begun: vec![reserved], ..MemoryChanges::default() }
}

async fn meter(store: &Store, seconds: i64, changes: &MemoryChanges) {
    store.meter_memory(at(seconds), changes).await.unwrap();
}

/// MiB times seconds by hour, since the hour that [`at`] counts from.
async fn metered(store: &Store) -> Vec<(i64, i64)> {
    let begin = at(0).as_millis();
    let hours = store.usage_hours(ALWAYS, None, None).await.unwrap();
    let hour = |at: Timestamp| (at.as_millis() - begin) / (HOUR * 1_000);
    hours.into_iter().map(|it| (hour(it.hour), it.memory_mb_seconds)).collect()
}

//
async fn memory_counts_hour_by_hour_with_its_size(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let nothing = MemoryChanges::default();
    meter(&store, 100, &begin(&id, 64, 90)).await;
    assert_eq!(metered(&store).await, [], "counted from the next time on");
    meter(&store, 110, &nothing).await;
    assert_eq!(metered(&store).await, [(0, 64 * 20)]);
    // Grown: what it was until now counts with the former size.
    meter(&store, 120, &begin(&id, 100, 120)).await;
    assert_eq!(metered(&store).await, [(0, 64 * 30)]);
    // Another provisioner goes on three hours later, the container has run.
    let other = db.open().await;
    meter(&other, 3 * HOUR + 20, &nothing).await;
    let whole = 100 * HOUR;
    let first = 64 * 30 + 100 * (HOUR - 120);
    assert_eq!(metered(&store).await, [(0, first), (1, whole), (2, whole), (3, 100 * 20)]);
    let fraction = Timestamp::from_millis(at(3 * HOUR + 29).as_millis() + 999);
    store.meter_memory(fraction, &nothing).await.unwrap();
    assert_eq!(metered(&store).await[3], (3, 100 * 29), "parts of a second count the next time");
}

//
async fn memory_that_two_provisioners_meter_counts_once(db: TestDb) {
    let stores = [db.open().await, db.open().await];
    let id = instance(&stores[0], "ann@example.com").await;
    meter(&stores[0], 0, &begin(&id, 64, 0)).await;
    let nothing = MemoryChanges::default();
    for round in 1..=20 {
        let (one, two) = tokio::join!(
            stores[0].meter_memory(at(round * 10), &nothing),
            stores[1].meter_memory(at(round * 10 + round % 3 - 1), &nothing)
        );
        one.and(two).unwrap();
    }
    assert_eq!(metered(&stores[0]).await, [(0, 64 * 201)]);
}

//
async fn memory_of_what_stops_counts_until_then(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    meter(&store, 0, &begin(&id, 64, 0)).await;
    let end = |until| MemoryChanges { ended: vec![(id.clone(), at(until))], ..MemoryChanges::default() };
    meter(&store, 10, &end(4)).await;
    assert_eq!(metered(&store).await, [(0, 64 * 4)]);
    meter(&store, 20, &MemoryChanges::default()).await;
    assert_eq!(metered(&store).await, [(0, 64 * 4)]);
    meter(&store, 30, &begin(&id, 64, 25)).await;
    // An end before what was metered takes nothing back.
    meter(&store, 40, &end(3)).await;
    assert_eq!(metered(&store).await, [(0, 64 * 4)]);
    assert_eq!(store.metered_memory().await.unwrap(), []);
}

//
async fn time_without_a_container_does_not_count(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    meter(&store, 0, &begin(&id, 64, 0)).await;
    let skip = |until| MemoryChanges { skipped: vec![(id.clone(), at(until))], ..MemoryChanges::default() };
    meter(&store, 2 * HOUR, &skip(2 * HOUR - 5)).await;
    assert_eq!(metered(&store).await, [(1, 64 * 5)]);
    meter(&store, 2 * HOUR + 10, &skip(HOUR)).await;
    assert_eq!(metered(&store).await, [(1, 64 * 5), (2, 64 * 10)], "it has run since before");
    let other = instance(&store, "bob@example.com").await;
    meter(&store, 2 * HOUR + 10, &begin(&other, i64::MAX, -1_000 * HOUR)).await;
    let one = store.metered_memory().await.unwrap().into_iter().find(|it| it.instance_id == other).unwrap();
    assert_eq!(one.memory_mb, 1 << 20);
    assert!(one.metered_until >= at(2 * HOUR - 15 * 24 * HOUR), "two weeks are counted at most");
}

//
async fn a_clock_that_was_wrong_counts_nothing_twice(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let nothing = MemoryChanges::default();
    meter(&store, 1_000, &begin(&id, 64, 1_000)).await;
    meter(&store, 1_010, &nothing).await;
    meter(&store, 1_005, &nothing).await;
    meter(&store, 1_020, &nothing).await;
    assert_eq!(metered(&store).await, [(0, 64 * 20)]);
    // It was far ahead for a while, and is right again.
    meter(
        &store,
        50_000,
        &MemoryChanges { skipped: vec![(id.clone(), at(50_000))], ..MemoryChanges::default() },
    )
    .await;
    meter(&store, 1_030, &nothing).await;
    meter(&store, 1_040, &nothing).await;
    assert_eq!(metered(&store).await, [(0, 64 * 30)]);
}

async fn instances_that_run_have_memory_reserved(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ann@example.com").await;
    let id = store.first_instance_of(&user.id).await.unwrap().unwrap().id;
    for (state, is_reserved) in [
        (InstanceState::Pending, false),
        (InstanceState::Running, true),
        (InstanceState::Restarting, true),
        (InstanceState::Failed, false),
        (InstanceState::Running, true),
    ] {
        let seen =
            Observed { state, generation: 1, address: None, container: None, version: None, message: None };
        store.record_route(&id, &seen).await.unwrap();
        let reserved = store.reserved_memory().await.unwrap();
        let expected: Vec<&str> = is_reserved.then_some(id.as_str()).into_iter().collect();
        assert_eq!(
            reserved.iter().map(|it| it.instance_id.as_str()).collect::<Vec<_>>(),
            expected,
            "{state:?}"
        );
        assert!(
            reserved.iter().all(|it| it.memory_mb == 64 && now().since(it.since) < Duration::from_secs(60))
        );
    }
    store.set_user_state(&user.id, UserState::Suspended).await.unwrap();
    assert_eq!(store.reserved_memory().await.unwrap(), []);
}

//! Usage is summed over all proxies, once for each batch however often it is sent, and in the hour of its report.

use std::collections::HashMap;
use std::time::Duration;

use store::{
    InstanceUsage, Proxy, Store, Timestamp, Usage, UsageBatch, UsageHour, UsageReport, UsageReporterId,
    UsageSpan, now,
};

use crate::test_db::{TestDb, sign_up};

on_both!(
    usage_is_summed_over_proxies,
    a_batch_that_is_sent_again_counts_once,
    a_batch_that_is_sent_twice_at_once_counts_once,
    usage_counts_in_its_hour_and_plan,
    a_peak_is_of_all_proxies_that_live,
    two_hours_in_one_batch_are_added_up,
    what_a_broken_proxy_reports_is_bounded,
    old_hours_and_reports_are_deleted,
    hours_are_read_page_by_page,
);

/// Adds usage now.
async fn add(store: &Store, sent: &UsageBatch) {
    store.add_usage(sent, now()).await.unwrap();
}

const HOUR: Duration = Duration::from_hours(1);
const ALWAYS: UsageSpan = UsageSpan { from: Timestamp::EPOCH, to: Timestamp::MAX };

async fn instance(store: &Store, email: &str) -> String {
    let (user, _) = sign_up(store, email).await;
    store.first_instance_of(&user.id).await.unwrap().unwrap().id
}

fn report(instance_id: &str, hits: i64, connections: i64) -> UsageReport {
    UsageReport {
        instance_id: instance_id.to_owned(),
        hour: now().hour(),
        usage: Usage { hits, bytes_in: 10, ..Usage::default() },
        latency: vec![(128, hits), (256, 1)],
        connections,
        peak_connections: connections,
    }
}

fn batch(reporter: &UsageReporterId, number: i64, proxy: &str, reports: Vec<UsageReport>) -> UsageBatch {
    UsageBatch { reporter: reporter.clone(), number, proxy: proxy.to_owned(), reports }
}

async fn hours(store: &Store) -> Vec<UsageHour> {
    store.usage_hours(ALWAYS, None, None).await.unwrap()
}

async fn usage_is_summed_over_proxies(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    assert_eq!(store.usage(&id).await.unwrap(), Usage::default());
    assert_eq!(store.connections(&id).await.unwrap(), 0);
    let (one, two) = (UsageReporterId::new(), UsageReporterId::new());
    add(&store, &batch(&one, 1, "one", vec![report(&id, 3, 2)])).await;
    add(&store, &batch(&two, 1, "two", vec![report(&id, 4, 5)])).await;
    // Usage of an unknown instance is ignored.
    let both = vec![report("gone", 100, 100), report(&id, 5, 1)];
    add(&store, &batch(&one, 2, "one", both)).await;
    let expected = Usage { hits: 12, bytes_in: 30, ..Usage::default() };
    assert_eq!(store.usage(&id).await.unwrap(), expected);
    assert_eq!(store.latency(&id).await.unwrap(), [(128, 12), (256, 3)]);
    assert_eq!(store.connections(&id).await.unwrap(), 6);
    let hits: i64 = hours(&store).await.iter().map(|hour| hour.usage.hits).sum();
    assert_eq!(hits, 12);
    instance(&store, "bob@example.com").await;
    let all = store.usage_of_all().await.unwrap();
    let expected = InstanceUsage { usage: expected, latency: vec![(128, 12), (256, 3)], connections: 6 };
    assert_eq!(all, HashMap::from([(id, expected)]), "of those that have some");
}

//
async fn a_batch_that_is_sent_again_counts_once(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let reporter = UsageReporterId::new();
    let first = batch(&reporter, 1, "one", vec![report(&id, 3, 2)]);
    let second = batch(&reporter, 2, "one", vec![report(&id, 40, 1)]);
    for sent in [&first, &first, &second, &first, &second] {
        add(&store, sent).await;
    }
    assert_eq!(store.usage(&id).await.unwrap().hits, 43);
    assert_eq!(store.latency(&id).await.unwrap(), [(128, 43), (256, 2)]);
    assert_eq!(store.connections(&id).await.unwrap(), 1);
    // Another process of the same proxy counts from one again.
    add(&store, &batch(&UsageReporterId::new(), 1, "one", vec![report(&id, 500, 0)])).await;
    assert_eq!(store.usage(&id).await.unwrap().hits, 543);
}

// a write that timed out may still be under way when it is tried again.
async fn a_batch_that_is_sent_twice_at_once_counts_once(db: TestDb) {
    let stores = [db.open().await, db.open().await];
    let id = instance(&stores[0], "ann@example.com").await;
    let reporter = UsageReporterId::new();
    for number in 1..=20 {
        let sent = batch(&reporter, number, "one", vec![report(&id, 1, 0)]);
        let (one, two) = tokio::join!(stores[0].add_usage(&sent, now()), stores[1].add_usage(&sent, now()));
        one.and(two).unwrap();
    }
    assert_eq!(stores[0].usage(&id).await.unwrap().hits, 20);
    // Given up in the middle, and sent again.
    for number in 21..=40 {
        let sent = batch(&reporter, number, "one", vec![report(&id, 1, 0)]);
        let _ = tokio::time::timeout(
            Duration::from_micros(300 * (number as u64 - 20)),
            stores[0].add_usage(&sent, now()),
        )
        .await;
        add(&stores[1], &sent).await;
    }
    assert_eq!(stores[1].usage(&id).await.unwrap().hits, 40);
}

//
async fn usage_counts_in_its_hour_and_plan(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ann@example.com").await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    let (current, previous) = (now().hour(), now().previous_hour());
    let of = |hour: Timestamp, hits| UsageReport { hour, ..report(&instance.id, hits, 1) };
    let reporter = UsageReporterId::new();
    let reports =
        vec![of(current, 1), of(previous, 20), of(Timestamp::EPOCH, 300), of(Timestamp::MAX, 4_000)];
    add(&store, &batch(&reporter, 1, "one", reports)).await;
    let mut plan = store.plan("default").await.unwrap().unwrap();
    plan.name = "large".to_owned();
    store.create_plan(&plan).await.unwrap();
    let change = store::UserChange { plan: Some("large"), ..store::UserChange::default() };
    store.update_user(&user.id, &change).await.unwrap();
    add(&store, &batch(&reporter, 2, "one", vec![of(current, 50_000)])).await;
    let counted: Vec<_> =
        hours(&store).await.into_iter().map(|it| (it.hour, it.plan, it.usage.hits)).collect();
    // The test may have begun in one hour and ended in the next one.
    let later = now().hour() > current;
    if !later {
        let expected = [(previous, "default", 320), (current, "default", 4_001), (current, "large", 50_000)];
        assert_eq!(counted, expected.map(|(hour, plan, hits)| (hour, plan.to_owned(), hits)));
    }
    let all = hours(&store).await;
    assert_eq!((all[0].email.as_str(), all[0].cache.as_str()), ("ann@example.com", "default"));
    assert_eq!((&all[0].user_id, &all[0].cache_id), (&user.id, &instance.cache_id));
    // They stay when the cache, and the account, are deleted.
    store.delete_user(&user.id).await.unwrap();
    let left = hours(&store).await;
    assert_eq!((left.len(), left[0].email.as_str()), (all.len(), &*format!("deleted {}", user.id)));
    assert_eq!(store.instance_ids_of_user(&user.id).await.unwrap(), [instance.id]);
}

//
async fn two_hours_in_one_batch_are_added_up(db: TestDb) {
    let store = db.open().await;
    let (one, two) = (instance(&store, "a@example.com").await, instance(&store, "b@example.com").await);
    let now = now();
    let of = |id: &str, hour: Timestamp, hits, connections| UsageReport {
        hour,
        latency: (0..30).map(|bucket| (1 << bucket, hits)).collect(),
        ..report(id, hits, connections)
    };
    let (hour, before) = (now.hour(), now.previous_hour());
    let reports =
        vec![of(&two, hour, 1, 5), of(&one, hour, 2, 3), of(&one, before, 4, 9), of("gone", hour, 8, 9)];
    let sent = batch(&UsageReporterId::new(), 1, "one", reports);
    store.add_usage(&sent, now).await.unwrap();
    store.add_usage(&batch(&UsageReporterId::new(), 1, "two", sent.reports.clone()), now).await.unwrap();
    let expected = |requests| (0..30).map(|bucket| (1 << bucket, requests)).collect::<Vec<_>>();
    assert_eq!(store.latency(&one).await.unwrap(), expected(12));
    assert_eq!(store.latency(&two).await.unwrap(), expected(2));
    assert_eq!((store.usage(&one).await.unwrap().hits, store.connections(&one).await.unwrap()), (12, 6));
    assert_eq!(hours(&store).await.iter().map(|it| it.usage.hits).sum::<i64>(), 14);
}

//
async fn a_peak_is_of_all_proxies_that_live(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let now = now();
    let add = async |sent: &UsageBatch| store.add_usage(sent, now).await.unwrap();
    let heartbeat = async |name: &str, seen_at| {
        let (id, name, version) = (name.to_owned(), name.to_owned(), String::new());
        let proxy = Proxy { id, name, version, started_at: seen_at, seen_at, applied: 0 };
        store.renew_proxy(&proxy).await.unwrap();
    };
    heartbeat("lives", now).await;
    heartbeat("killed", now.saturating_sub(Duration::from_secs(30))).await;
    for (name, connections) in [("lives", 20), ("killed", 300), ("never seen", 4_000)] {
        let sent = batch(&UsageReporterId::new(), 1, name, vec![report(&id, 0, connections)]);
        add(&sent).await;
    }
    // What the others counted for themselves isn't of interest here.
    db.execute("UPDATE usage_hours SET peak_connections = 0").await.unwrap();
    let mine = UsageReport { peak_connections: 7, ..report(&id, 0, 2) };
    add(&batch(&UsageReporterId::new(), 1, "mine", vec![mine])).await;
    let peak = hours(&store).await.iter().map(|hour| hour.peak_connections).max();
    assert_eq!(peak, Some(27));
    let fewer = UsageReport { peak_connections: 1, ..report(&id, 0, 1) };
    add(&batch(&UsageReporterId::new(), 1, "mine", vec![fewer])).await;
    assert_eq!(hours(&store).await.iter().map(|hour| hour.peak_connections).max(), Some(27));
}

//
async fn what_a_broken_proxy_reports_is_bounded(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let now = now();
    let add = async |sent: &UsageBatch| store.add_usage(sent, now).await.unwrap();
    let absurd = UsageReport {
        usage: Usage { hits: i64::MAX, misses: -5, ..Usage::default() },
        latency: vec![(128, i64::MAX)],
        peak_connections: i64::MAX,
        connections: -1,
        hour: now.hour(),
        ..report(&id, 0, 0)
    };
    // Sums that somebody wrote without the store.
    add(&batch(&UsageReporterId::new(), 1, "broken", vec![absurd.clone()])).await;
    db.execute("UPDATE usage SET hits = 9223372036854775807").await.unwrap();
    db.execute("UPDATE usage_hours SET hits = 9223372036854775807").await.unwrap();
    db.execute("UPDATE usage_latency SET requests = 9223372036854775807").await.unwrap();
    add(&batch(&UsageReporterId::new(), 1, "broken", vec![absurd; 3])).await;
    let after = batch(
        &UsageReporterId::new(),
        1,
        "right",
        vec![UsageReport { hour: now.hour(), ..report(&id, 1, 1) }],
    );
    add(&after).await;
    let usage = store.usage(&id).await.unwrap();
    assert_eq!((usage.hits, usage.misses, usage.bytes_in), (i64::MAX, 0, 10));
    let rows = hours(&store).await;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].usage.hits, rows[0].usage.misses), (i64::MAX, 0));
    assert!(db.execute("UPDATE usage_hours SET hour = hour + 1").await.is_err());
}

//
async fn old_hours_and_reports_are_deleted(db: TestDb) {
    let store = db.open().await;
    let id = instance(&store, "ann@example.com").await;
    let now = now();
    let add = async |sent: &UsageBatch| store.add_usage(sent, now).await.unwrap();
    add(&batch(
        &UsageReporterId::new(),
        1,
        "one",
        vec![UsageReport { hour: now.hour(), ..report(&id, 1, 0) }],
    ))
    .await;
    let insert = |hour: Timestamp, plan: usize| {
        format!("INSERT INTO usage_hours (hour, instance_id, plan) VALUES ({hour}, '{id}', 'plan {plan}');")
    };
    let (old, future) = (now.hour().saturating_sub(1_000 * HOUR), now.hour().saturating_add(5 * HOUR));
    let mut sql: String = (0..2_500).map(|plan| insert(old, plan)).collect();
    sql += &insert(future, 0);
    for number in 0..1_100 {
        sql += &format!("INSERT INTO usage_reports VALUES ('r{number}', 1, {});", now.as_millis() - number);
    }
    sql += "INSERT INTO usage_reports VALUES ('old', 1, 5);";
    db.execute(&sql).await.unwrap();
    let forget = async |at: Timestamp| store.forget_usage_hours(at, 40 * HOUR).await.unwrap();
    // Neither a clock that is far ahead, nor one that is behind, deletes anything: nobody knows which hours are old.
    for days in [1, 1_000, 100_000] {
        assert!(!forget(now.saturating_add(24 * days * HOUR)).await);
        assert!(!forget(now.saturating_sub(24 * days * HOUR)).await);
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM usage_hours").await, 2_502);
    let recent: String = (1..40).map(|hour| insert(now.hour().saturating_sub(hour * HOUR), 0)).collect();
    db.execute(&recent).await.unwrap();
    assert!(forget(now).await, "a part at a time");
    assert!(!forget(now).await);
    assert!(!forget(now.saturating_sub(24 * HOUR)).await);
    assert!(!forget(now.saturating_add(3 * HOUR)).await);
    // Those of the last hours, and the one that was counted while the clock was ahead.
    assert_eq!(db.number("SELECT COUNT(*) FROM usage_hours").await, 41);
    add(&batch(
        &UsageReporterId::new(),
        1,
        "one",
        vec![UsageReport { hour: now.hour(), ..report(&id, 1, 0) }],
    ))
    .await;
    assert_eq!(db.number("SELECT COUNT(*) FROM usage_reports").await, 1_000);
    assert_eq!(db.number("SELECT COUNT(*) FROM usage_reports WHERE reporter = 'old'").await, 0);
}

async fn hours_are_read_page_by_page(db: TestDb) {
    let store = db.open().await;
    let (one, two) = (instance(&store, "a@example.com").await, instance(&store, "b@example.com").await);
    let begin = now().hour().saturating_sub(2_000 * HOUR);
    let mut sql = String::new();
    for number in 0..1_200 {
        let hour = begin.saturating_add(number * HOUR);
        for (instance, plan) in [(&one, "a"), (&one, "b"), (&two, "a")] {
            sql += &format!(
                "INSERT INTO usage_hours (hour, instance_id, plan) VALUES ({hour}, '{instance}', '{plan}');"
            );
        }
    }
    db.execute(&sql).await.unwrap();
    let span = UsageSpan { from: begin.saturating_add(HOUR), to: begin.saturating_add(1_100 * HOUR) };
    for (instance, expected) in
        [(None, 3 * 1_099), (Some(one.as_str()), 2 * 1_099), (Some(two.as_str()), 1_099)]
    {
        let (mut all, mut last) = (Vec::new(), None);
        loop {
            let page = store.usage_hours(span, instance, last.as_ref()).await.unwrap();
            let Some(end) = page.last() else { break };
            assert!(page.len() <= 1_000);
            last = Some(end.clone());
            all.extend(page);
        }
        assert_eq!(all.len(), expected, "{instance:?}");
        let keys: Vec<_> = all.iter().map(|it| (it.hour, it.instance_id.clone(), it.plan.clone())).collect();
        assert!(keys.is_sorted() && all[0].hour == span.from, "{instance:?}");
    }
}

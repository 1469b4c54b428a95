//! Statistics: the newest of each instance, and a history that has never more than its rows.

use std::time::Duration;

use store::{
    InstanceStatistics, SlabClass, StatisticsCounters, StatisticsGauges, StatisticsResolution,
    StatisticsSample, Store, Timestamp, now,
};

use crate::test_db::{TestDb, sign_up};

on_both!(
    newest_statistics_are_kept,
    history_is_added_up_at_each_resolution,
    history_has_never_more_rows_than_it_keeps,
    what_a_hostile_memcached_says_can_be_added_up,
    statistics_of_deleted_caches_and_silent_instances_are_deleted,
);

async fn instance(store: &Store, email: &str) -> (String, String) {
    let (user, _) = sign_up(store, email).await;
    (store.first_instance_of(&user.id).await.unwrap().unwrap().id, user.id)
}

/// A sample `seconds` after a time at which an hour began.
fn sampled(instance_id: &str, seconds: i64, hits: i64) -> InstanceStatistics {
    let begin = now().hour().as_millis() - 3_600_000;
    let gauges =
        StatisticsGauges { items: hits, connections: 100 - seconds % 100, ..StatisticsGauges::default() };
    let counters = StatisticsCounters { hits, ..StatisticsCounters::default() };
    InstanceStatistics {
        instance_id: instance_id.to_owned(),
        gauges,
        counters,
        uptime_seconds: seconds,
        sampled_at: Timestamp::from_millis(begin + seconds * 1_000),
        slab_text: String::new(),
    }
}

async fn record(store: &Store, newest: Vec<InstanceStatistics>, before: Option<&InstanceStatistics>) {
    let samples: Vec<_> = newest.into_iter().map(|it| StatisticsSample::new(it, before)).collect();
    store.record_statistics(&samples).await.unwrap();
}

/// Samples at these seconds, each with ten hits more than the one before.
async fn record_all(store: &Store, id: &str, all: impl IntoIterator<Item = i64>) {
    let mut before: Option<InstanceStatistics> = None;
    for (number, seconds) in (1..).zip(all) {
        let newest = sampled(id, seconds, number * 10);
        record(store, vec![newest.clone()], before.as_ref()).await;
        before = Some(newest);
    }
}

async fn newest_statistics_are_kept(db: TestDb) {
    let store = db.open().await;
    let (id, _) = instance(&store, "ada@example.org").await;
    assert_eq!(store.instance_statistics(&id).await.unwrap(), None);
    let class = SlabClass { class: 5, chunk_size: 240, items: 3, ..SlabClass::default() };
    for hits in [1, 2] {
        let mut all: Vec<_> = (0..450).map(|n| sampled(&format!("unknown {n}"), 5, 0)).collect();
        let mut one = sampled(&id, 5, hits);
        one.set_slab_classes(&[class]);
        all.push(one);
        record(&store, all, None).await;
    }
    let newest = store.instance_statistics(&id).await.unwrap().unwrap();
    assert_eq!((newest.counters.hits, newest.slab_classes()), (2, vec![class]));
    assert_eq!(store.all_instance_statistics().await.unwrap(), [newest]);
    assert_eq!(db.number("SELECT COUNT(*) FROM statistics_history").await, 3);
}

async fn history_is_added_up_at_each_resolution(db: TestDb) {
    use StatisticsResolution::{Hours, Minutes, Seconds};
    let store = db.open().await;
    let (id, _) = instance(&store, "ada@example.org").await;
    record_all(&store, &id, [3, 13, 23, 33, 299, 301, 311]).await;
    let read = async |resolution| store.statistics_history(&id, resolution, Timestamp::EPOCH).await.unwrap();
    let seconds = read(Seconds).await;
    let found: Vec<_> =
        seconds.iter().map(|it| (it.measured_ms, it.counters.hits, it.gauges.items)).collect();
    let ten = |items| (10_000, 10, items);
    assert_eq!(found, [(0, 0, 10), ten(20), ten(30), ten(40), (266_000, 10, 50), (2_000, 10, 60), ten(70)]);
    let minutes = read(Minutes).await;
    let found: Vec<_> =
        minutes.iter().map(|it| (it.measured_ms, it.counters.hits, it.gauges.items)).collect();
    assert_eq!(found, [(296_000, 40, 50), (12_000, 20, 70)]);
    assert_eq!(minutes.iter().map(|it| it.gauges.connections).collect::<Vec<_>>(), [97, 99], "the most");
    let hours = read(Hours).await;
    assert_eq!((hours.len(), hours[0].measured_ms, hours[0].counters.hits), (1, 308_000, 60));
    let late = seconds[3].begins_at;
    assert_eq!(store.statistics_history(&id, Seconds, late).await.unwrap(), seconds[3..]);
}

//
async fn history_has_never_more_rows_than_it_keeps(db: TestDb) {
    let store = db.open().await;
    let (id, _) = instance(&store, "ada@example.org").await;
    record_all(&store, &id, (0..500).map(|number| number * 10)).await;
    let count = "SELECT COUNT(*) FROM statistics_history WHERE resolution = ";
    assert_eq!(db.number(&format!("{count}10")).await, 360);
    assert_eq!(db.number(&format!("{count}300")).await, 17);
    assert_eq!(db.number(&format!("{count}3600")).await, 2);
    let seconds =
        store.statistics_history(&id, StatisticsResolution::Seconds, Timestamp::EPOCH).await.unwrap();
    assert!(seconds.is_sorted_by_key(|it| it.begins_at));
    assert!(
        seconds.iter().all(|it| (it.measured_ms, it.counters.hits) == (10_000, 10)),
        "none of the old ones is left"
    );
    for (row, is_one) in [("3600, 8759", true), ("10, 8760", false), ("11, 0", false)] {
        let zeros = [", 0"; 17].concat();
        let sql = format!("INSERT INTO statistics_history SELECT '{id}', {row}{zeros}");
        assert_eq!(db.execute(&sql).await.is_ok(), is_one, "{row}");
    }
}

//
async fn what_a_hostile_memcached_says_can_be_added_up(db: TestDb) {
    let store = db.open().await;
    let ((id, _), (other, _)) =
        (instance(&store, "ada@example.org").await, instance(&store, "bob@example.org").await);
    let mut before: Option<InstanceStatistics> = None;
    for number in 0..60 {
        let absurd = if number % 2 == 0 { 0 } else { i64::MAX };
        let hostile = sampled(&id, 10 * number, absurd);
        let new = [
            StatisticsSample::new(hostile.clone(), before.as_ref()),
            StatisticsSample::new(sampled(&other, 10 * number, 1), None),
        ];
        store.record_statistics(&new).await.unwrap();
        before = Some(hostile);
    }
    let hours = store.statistics_history(&id, StatisticsResolution::Hours, Timestamp::EPOCH).await.unwrap();
    assert!(hours[0].counters.hits > 1 << 52);
    let hours =
        store.statistics_history(&other, StatisticsResolution::Hours, Timestamp::EPOCH).await.unwrap();
    assert_eq!(hours.len(), 1);
}

async fn statistics_of_deleted_caches_and_silent_instances_are_deleted(db: TestDb) {
    let store = db.open().await;
    let ((gone, user), (kept, _)) =
        (instance(&store, "ada@example.org").await, instance(&store, "bob@example.org").await);
    for id in [&gone, &kept] {
        record(&store, vec![sampled(id, 3_600, 1)], None).await;
    }
    store.delete_user(&user).await.unwrap();
    assert!(!store.forget_statistics().await.unwrap());
    assert_eq!(db.number("SELECT COUNT(*) FROM statistics_history").await, 3);
    let read = async |id: &str| {
        store.statistics_history(id, StatisticsResolution::Hours, Timestamp::EPOCH).await.unwrap()
    };
    assert_eq!((read(&gone).await.len(), read(&kept).await.len()), (0, 1));
    db.execute("UPDATE instance_statistics SET sampled_at = 1").await.unwrap();
    store.forget_statistics().await.unwrap();
    assert_eq!(store.instance_statistics(&kept).await.unwrap(), None, "not of a silent one for ever");
    assert!(StatisticsResolution::Seconds.span() == Duration::from_hours(1));
}

//! Events of instances: kept newest first, counted when they repeat, and bounded.

use std::time::Duration;

use store::{EventAction, EventCause, NewInstanceEvent, Timestamp, now};

use crate::test_db::{TestDb, sign_up};

fn event(instance: &str, cause: EventCause, at: Timestamp) -> NewInstanceEvent {
    NewInstanceEvent {
        instance_id: instance.into(),
        cause,
        action: EventAction::Started,
        contents_lost: true,
        detail: "exit code 137".into(),
        at,
    }
}

// F-33.
async fn newest_events_come_first_and_repeated_ones_are_counted(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap().id;
    let at = now();
    let earlier = at.saturating_sub(Duration::from_secs(60));
    let long_ago = at.saturating_sub(Duration::from_secs(3_600));
    let events = [
        event(&instance, EventCause::Stopped, long_ago),
        event(&instance, EventCause::Stopped, earlier),
        event(&instance, EventCause::Stopped, at),
        event(&instance, EventCause::Removed, at),
        event(&instance, EventCause::Stopped, at),
        event("unknown", EventCause::Stopped, at),
    ];
    store.add_instance_events(&events).await.unwrap();
    let listed = store.instance_events(&instance, 10).await.unwrap();
    let short: Vec<_> = listed.iter().map(|it| (it.cause, it.count, it.first_at, it.last_at)).collect();
    assert_eq!(
        short,
        [
            (EventCause::Stopped, 1, at, at),
            (EventCause::Removed, 1, at, at),
            (EventCause::Stopped, 2, earlier, at),
            (EventCause::Stopped, 1, long_ago, long_ago),
        ]
    );
    assert!(listed[0].contents_lost && listed[0].detail == "exit code 137");
    assert!(listed[0].text().ends_with("started again, its contents are lost"), "{}", listed[0].text());
    assert_eq!(store.instance_events(&instance, 2).await.unwrap().len(), 2);
    assert_eq!(db.number("SELECT COUNT(*) FROM instance_events").await, 4);
}

// F-33.
async fn events_are_bounded_for_each_instance(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let (other, _) = sign_up(&store, "bob@example.org").await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    let other = store.first_instance_of(&other.id).await.unwrap().unwrap().id;
    let old = now().saturating_sub(Duration::from_secs(31 * 24 * 3_600));
    store.add_instance_events(&[event(&other, EventCause::Stopped, old)]).await.unwrap();
    store.add_instance_events(&[event(&other, EventCause::Paused, now())]).await.unwrap();
    for _ in 0..60 {
        let pair = [EventCause::Stopped, EventCause::Removed].map(|cause| NewInstanceEvent {
            detail: "\u{1b}ä".repeat(5_000),
            ..event(&instance.id, cause, now())
        });
        store.add_instance_events(&pair).await.unwrap();
    }
    let listed = store.instance_events(&instance.id, 1_000).await.unwrap();
    assert_eq!(listed.len(), 50);
    assert!(listed.iter().all(|it| it.detail.chars().count() == 1_000));
    let kept: Vec<_> = store.instance_events(&other, 10).await.unwrap().iter().map(|it| it.cause).collect();
    assert_eq!(kept, [EventCause::Paused], "an event that is older than a month is forgotten");
    let caches = store.caches_of(&user.id).await.unwrap();
    store.delete_cache(&caches[0].id).await.unwrap();
    store.add_instance_events(&[event(&instance.id, EventCause::Stopped, now())]).await.unwrap();
    assert_eq!(store.instance_events(&instance.id, 10).await.unwrap(), [], "a deleted cache has none");
}

on_both!(newest_events_come_first_and_repeated_ones_are_counted, events_are_bounded_for_each_instance);

//! Proxies: heartbeats, and which revision each proxy has applied.

use std::time::Duration;

use store::{Permissions, Propagation, Proxy, Scopes, Timestamp, now};

use crate::test_db::{TestDb, sign_up};

on_both!(revocation_is_acknowledged_by_proxies_that_applied_it, silent_proxies_are_deleted_after_a_day);

fn proxy(name: &str, seen_at: Timestamp, applied: i64) -> Proxy {
    let id = format!("{name}/1");
    Proxy {
        id,
        name: name.into(),
        version: "1.2.3".into(),
        started_at: Timestamp::from_millis(5),
        seen_at,
        applied,
    }
}

fn names(proxies: &[Proxy]) -> Vec<&str> {
    proxies.iter().map(|proxy| &*proxy.name).collect()
}

async fn revocation_is_acknowledged_by_proxies_that_applied_it(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ann@example.org").await;
    let id = token.token.id();
    let none = store.propagation(&id).await.unwrap();
    assert_eq!(none.count(), "0 of 0 proxies");
    store
        .update_permissions(&id, |permissions: &mut Permissions| permissions.scopes = Scopes::READ)
        .await
        .unwrap();
    store.revoke_token(&id).await.unwrap();
    let revoked = store.revision().await.unwrap();
    for (name, seen_at, applied) in [
        ("a:1", now(), revoked),
        ("b:1", now(), revoked - 1),
        ("c:1", now().saturating_sub(Duration::from_secs(61)), revoked - 1),
        ("d:1", now().saturating_sub(Duration::from_secs(61)), revoked),
    ] {
        store.renew_proxy(&proxy(name, seen_at, applied)).await.unwrap();
    }
    let Propagation { revision, by, awaited, gone } = store.propagation(&id).await.unwrap();
    assert_eq!(revision, revoked);
    assert_eq!((names(&by), names(&awaited), names(&gone)), (vec!["a:1"], vec!["b:1"], vec!["c:1"]));
    // Later changes of other users don't count.
    sign_up(&store, "bob@example.org").await;
    store.renew_proxy(&proxy("b:1", now(), revoked)).await.unwrap();
    let all = store.propagation(&id).await.unwrap();
    assert_eq!((all.count().as_str(), all.by.len()), ("2 of 2 proxies", 2));
}

async fn silent_proxies_are_deleted_after_a_day(db: TestDb) {
    let store = db.open().await;
    let before = store.revision().await.unwrap();
    let day = Duration::from_hours(24);
    for (name, seen_at) in [
        ("old:1", now().saturating_sub(day + Duration::from_secs(1))),
        ("gone:1", now().saturating_sub(day / 2)),
        ("here:1", now()),
    ] {
        store.renew_proxy(&proxy(name, seen_at, 1)).await.unwrap();
    }
    let known = store.proxies().await.unwrap();
    assert_eq!(names(&known), ["gone:1", "here:1"]);
    assert!(known[0].is_gone(now()) && !known[1].is_gone(now()));
    store.remove_proxy("here:1/1").await.unwrap();
    assert_eq!(names(&store.proxies().await.unwrap()), ["gone:1"]);
    assert_eq!(store.revision().await.unwrap(), before, "the revision stays: the feed has nothing to read");
}

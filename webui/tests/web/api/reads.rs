//! What is only read: statistics, usage, connections, denials, activity.

use std::time::Duration;

use serde_json::json;
use store::{DenialCause, DenialRecord, LiveConnection, Proxy, Store, Timestamp, now};

use super::{require_problem, start};
use crate::harness::eventually;

/// The id of the proxy that a test plays.
const PROXY: &str = "host:11211/1";

#[tokio::test]
async fn statistics_are_there_before_anything_was_measured() {
    let (_site, client) = start().await;
    let now = client.read("/caches/{cache}/statistics").await;
    assert_eq!((&now["newest"], &now["hits_per_thousand"]), (&json!(null), &json!(null)));
    assert_eq!((&now["connections"], &now["total"]["hits"]), (&json!(0), &json!(0)));
    for (range, seconds) in [("", 10), ("?range=hour", 10), ("?range=day", 300), ("?range=month", 3600)] {
        let history = client.read(&format!("/caches/{{cache}}/statistics/history{range}")).await;
        assert_eq!((&history["interval_seconds"], &history["intervals"]), (&json!(seconds), &json!([])));
    }
    assert_eq!(client.read("/caches/{cache}/usage?from=2026-01-01T00:00:00Z").await["items"], json!([]));
}

#[tokio::test]
async fn denials_are_listed_with_what_helps() {
    let (site, client) = start().await;
    let denial = |minutes: u64, detail: &str| DenialRecord {
        token_id: client.token.clone(),
        cause: DenialCause::WrongSecret,
        source: Some("192.0.2.7".into()),
        detail: detail.into(),
        protocol: "text".into(),
        tls: false,
        count: 3,
        first_at: now(),
        last_at: now().saturating_sub(Duration::from_secs(60 * minutes)),
    };
    site.store.add_denials(&[denial(2, "older"), denial(1, "newer")]).await.unwrap();
    let page = client.read("/caches/{cache}/denials?limit=1").await;
    let newest = &page["items"][0];
    assert_eq!(
        (&newest["detail"], &newest["cause"], &newest["count"]),
        (&json!("newer"), &json!("wrong_secret"), &json!(3))
    );
    assert!(newest["fix"].as_str().unwrap().len() > 10);
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = client.read(&format!("/caches/{{cache}}/denials?limit=1&cursor={cursor}")).await;
    assert_eq!((&page["items"][0]["detail"], &page["next_cursor"]), (&json!("older"), &json!(null)));
}

#[tokio::test]
async fn activity_is_what_the_user_did() {
    let (_site, client) = start().await;
    for n in 0..3 {
        client.post("/caches/{cache}/tokens", &format!("{{\"name\":\"n{n}\"}}")).await;
    }
    let page = client.read("/activity?limit=2").await;
    let items = page["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["action"]), (2, &json!("token.create")));
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = client.read(&format!("/activity?limit=200&cursor={cursor}")).await;
    assert!(rest["items"].as_array().unwrap().len() == 1 && rest["next_cursor"].is_null(), "{rest}");
}

/// Plays a proxy with one connection of every cache, until it has closed one.
async fn play_proxy(store: Store, token_id: &str) {
    let connection = LiveConnection {
        id: format!("7-1000@{PROXY}").parse().unwrap(),
        token_id: token_id.to_owned(),
        source: "192.0.2.7".into(),
        protocol: "text".into(),
        tls: true,
        since: Timestamp::from_millis(1_000),
        operations: 5,
    };
    loop {
        for request in store.connection_requests().await.unwrap() {
            store.list_connections(PROXY, &request, 1, std::slice::from_ref(&connection)).await.unwrap();
        }
        if let Some((instance, id)) = store.pending_closes(PROXY).await.unwrap().pop() {
            return store.mark_closed(&instance, &id).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn connections_are_listed_and_closed() {
    let (site, client) = start().await;
    let proxy = Proxy {
        id: PROXY.into(),
        name: "host:11211".into(),
        version: "1".into(),
        started_at: now(),
        seen_at: now(),
        applied: 0,
    };
    site.store.renew_proxy(&proxy).await.unwrap();
    // An answer that takes a busy machine longer than two seconds isn't waited for.
    let list_and_close = async {
        eventually("the proxy's list", async || {
            let listed = client.read("/caches/{cache}/connections").await;
            if listed["unanswered"] != 0 {
                return false;
            }
            assert_eq!(listed["total"], 1);
            let connection = &listed["items"][0];
            assert_eq!(connection["id"], format!("7-1000@{PROXY}"));
            assert_eq!((&connection["source"], &connection["tls"]), (&json!("192.0.2.7"), &json!(true)));
            true
        })
        .await;
        let path = format!("/caches/{{cache}}/connections/7-1000@{}", PROXY.replace('/', "%2F"));
        eventually("the connection's end", async || {
            let closed = client.delete(&path).await;
            assert!([202, 204].contains(&closed.status), "{}", closed.body);
            closed.status == 204
        })
        .await;
    };
    tokio::join!(list_and_close, play_proxy(site.store.clone(), &client.token));
    for bad in ["x", "1-1", "@", "-1-1@p", "1-1@p%00"] {
        let refused = client.delete(&format!("/caches/{{cache}}/connections/{bad}")).await;
        require_problem(&refused, 404, "not_found");
    }
}

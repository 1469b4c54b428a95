//! Live connections: a viewer requests a list, proxies answer, and a close request closes one connection.

#![expect(clippy::disallowed_methods, reason = "a test may leave a task untracked")]

use std::time::{Duration, Instant};

use store::{ConnectionId, ListRequest, LiveConnection, Proxy, Store, Timestamp, now};

use crate::test_db::{DEADLINE, TestDb, sign_up};

on_both!(
    connections_are_listed_on_request,
    connection_list_of_a_killed_proxy_is_deleted,
    close_request_is_for_one_connection_of_one_cache,
    connection_that_no_proxy_lists_is_neither_closed_nor_noted,
);

async fn proxy(store: &Store, id: &str) {
    let at = now();
    let (name, version) = (id.to_owned(), "1".to_owned());
    let proxy = Proxy { id: id.into(), name, version, started_at: at, seen_at: at, applied: 1 };
    store.renew_proxy(&proxy).await.unwrap();
}

fn live(proxy: &str, number: i64) -> LiveConnection {
    let id = ConnectionId { proxy: proxy.into(), number, since: Timestamp::from_millis(77 + number) };
    let (token_id, source, protocol) = ("aaaaaaaaaaaa".into(), "192.0.2.1".into(), "text".into());
    LiveConnection { since: id.since, id, token_id, source, protocol, tls: true, operations: 5 }
}

/// Waits for a list request that is newer than `last`.
async fn next_request(store: &Store, last: Timestamp) -> ListRequest {
    let start = Instant::now();
    loop {
        let requests = store.connection_requests().await.unwrap();
        if let Some(request) = requests.into_iter().find(|request| request.requested_at > last) {
            return request;
        }
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connections_are_listed_on_request(db: TestDb) {
    let store = db.open().await;
    let (ann, _) = sign_up(&store, "ann@example.org").await;
    let instance = store.first_instance_of(&ann.id).await.unwrap().unwrap().id;
    let none = store.live_connections(&instance).await.unwrap();
    assert_eq!((none.total, none.unanswered, none.connections), (0, 0, vec![]), "no proxy runs");
    proxy(&store, "a").await;
    proxy(&store, "b").await;
    let before = store.revision().await.unwrap();
    let mut last = next_request(&store, Timestamp::EPOCH).await.requested_at;
    for round in 0..2 {
        let asking = tokio::spawn({
            let (store, instance) = (store.clone(), instance.clone());
            async move { store.live_connections(&instance).await.unwrap() }
        });
        let request = next_request(&store, last).await;
        last = request.requested_at;
        store.list_connections("a", &request, 7, &[live("a", 1), live("a", round)]).await.unwrap_or_else(
            |_| {
                assert_eq!(round, 1, "one connection, twice");
            },
        );
        store.list_connections("a", &request, 7, &[live("a", 1)]).await.unwrap();
        store.list_connections("b", &request, 1, &[live("b", 0)]).await.unwrap();
        let listed = asking.await.unwrap();
        assert_eq!((listed.total, listed.unanswered), (8, 0));
        assert_eq!(listed.connections, [live("b", 0), live("a", 1)]);
    }
    store.forget_connections("a", &instance).await.unwrap();
    store.forget_connections("b", &instance).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM live_connections").await, 0);
    assert_eq!(store.live_connections(&instance).await.unwrap().unanswered, 2, "no proxy answered in time");
    assert_eq!(store.revision().await.unwrap(), before, "the revision stays: the feed has nothing to read");
}

async fn connection_list_of_a_killed_proxy_is_deleted(db: TestDb) {
    let store = db.open().await;
    let (ann, _) = sign_up(&store, "ann@example.org").await;
    let instance_id = store.first_instance_of(&ann.id).await.unwrap().unwrap().id;
    for (id, requested_at) in [
        ("killed", now().saturating_sub(Duration::from_mins(11))),
        ("here", now().saturating_sub(Duration::from_mins(1))),
    ] {
        let request = ListRequest { instance_id: instance_id.clone(), requested_at };
        store.list_connections(id, &request, 1, &[live(id, 1)]).await.unwrap();
    }
    proxy(&store, "here").await;
    for table in ["connection_lists", "live_connections"] {
        let rows = async |proxy_id: &str| {
            db.number(&format!("SELECT COUNT(*) FROM {table} WHERE proxy_id = '{proxy_id}'")).await
        };
        assert_eq!((rows("killed").await, rows("here").await), (0, 1), "{table}");
    }
}

async fn close_request_is_for_one_connection_of_one_cache(db: TestDb) {
    let store = db.open().await;
    let (ann, _) = sign_up(&store, "ann@example.org").await;
    let instance = store.first_instance_of(&ann.id).await.unwrap().unwrap().id;
    let id = live("host:1/5", 3).id;
    assert_eq!(id.to_string(), "3-80@host:1/5");
    assert_eq!(id.to_string().parse(), Ok(id.clone()));
    list(&store, &instance, &live("host:1/5", 3)).await;
    let ending = tokio::spawn({
        let (store, instance, id) = (store.clone(), instance.clone(), id.clone());
        async move { store.close_connection(&instance, &id).await.unwrap() }
    });
    let start = Instant::now();
    while store.pending_closes("host:1/5").await.unwrap().is_empty() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.pending_closes("host:1/5").await.unwrap(), [(instance.clone(), id.clone())]);
    assert_eq!(store.pending_closes("host:2/5").await.unwrap(), []);
    store.mark_closed(&instance, &id).await.unwrap();
    assert!(ending.await.unwrap());
    assert_eq!(store.pending_closes("host:1/5").await.unwrap(), []);
    list(&store, &instance, &live("hangs", 1)).await;
    assert!(!store.close_connection(&instance, &live("hangs", 1).id).await.unwrap(), "no proxy closes it");
    assert_eq!(
        noted(&store).await,
        [(instance.clone(), "3-80@host:1/5".into()), (instance, "1-78@hangs".into())]
    );
}

/// A proxy's list of one connection.
async fn list(store: &Store, instance: &str, connection: &LiveConnection) {
    let request = ListRequest { instance_id: instance.to_owned(), requested_at: now() };
    let connections = std::slice::from_ref(connection);
    store.list_connections(&connection.id.proxy, &request, 1, connections).await.unwrap();
}

/// The closes in the audit log.
async fn noted(store: &Store) -> Vec<(String, String)> {
    let entries = store.audit_after(0, 100).await.unwrap();
    let closes = entries.into_iter().filter(|entry| entry.action == "connection.close");
    closes.map(|entry| (entry.subject, entry.detail)).collect()
}

//
async fn connection_that_no_proxy_lists_is_neither_closed_nor_noted(db: TestDb) {
    let store = db.open().await;
    let (ann, _) = sign_up(&store, "ann@example.org").await;
    let instance = store.first_instance_of(&ann.id).await.unwrap().unwrap().id;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let of_bob = store.first_instance_of(&bob.id).await.unwrap().unwrap().id;
    list(&store, &of_bob, &live("p", 1)).await;
    let before = store.audit_length().await.unwrap();
    for made_up in [live("p", 1).id, live("p", 2).id, live(&"x".repeat(16_000), 1).id] {
        assert!(store.close_connection(&instance, &made_up).await.unwrap(), "no proxy has it");
    }
    assert_eq!(store.audit_length().await.unwrap(), before);
    assert_eq!(db.number("SELECT COUNT(*) FROM connection_closes").await, 0);
    proxy(&store, "p").await;
    assert!(!store.close_connection(&instance, &live("p", 3).id).await.unwrap(), "a proxy doesn't answer");
    list(&store, &instance, &live("p", 1)).await;
    for _ in 0..2 {
        assert!(!store.close_connection(&instance, &live("p", 1).id).await.unwrap());
    }
    assert_eq!(noted(&store).await, [(instance, "1-78@p".into())], "once");
}

//
#[test]
fn connection_ids_are_short_and_have_one_spelling() {
    let parse = |text: &str| text.parse::<ConnectionId>();
    let host = format!("{}:11211/4194304", "h".repeat(64));
    for id in ["3-80@host:1/5", "0-0@a", "9-8@2001-db8.example.org:1/5", &format!("1-2@{host}")] {
        assert_eq!(parse(id).unwrap().to_string(), id);
    }
    for wrong in [
        "",
        "3-80",
        "x-80@a",
        "3@a",
        "3-@a",
        "3-80@",
        "-3-80@a",
        "3--80@a",
        "+3-80@a",
        "03-80@a",
        "3-80@a b",
        "3-80@a\n",
        "3-80@ä",
        "3-80@a@b",
        "9223372036854775808-1@a",
        &format!("3-80@{}", "h".repeat(129)),
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

//! Live connections: listed and closed by the cache's owner only.

#![expect(clippy::disallowed_methods, reason = "a test may leave a task to itself")]

use std::time::Duration;

use store::{ConnectionId, LiveConnection, Proxy, Store, Timestamp, now};

use crate::harness::{Site, eventually};

/// Plays a proxy with one connection of every cache.
fn answer_for(store: Store, token_id: String) {
    tokio::spawn(async move {
        let (id, name, version) = ("p:1/1".to_owned(), "p:1".to_owned(), "1".to_owned());
        let proxy = Proxy { id, name, version, started_at: Timestamp::EPOCH, seen_at: now(), applied: 1 };
        store.renew_proxy(&proxy).await.unwrap();
        let since = now().saturating_sub(Duration::from_secs(61));
        loop {
            for request in store.connection_requests().await.unwrap() {
                let id = ConnectionId { proxy: "p:1/1".into(), number: 4, since };
                let (source, protocol) = ("192.0.2.9".into(), "binary".into());
                let token_id = token_id.clone();
                let live =
                    LiveConnection { id, token_id, source, protocol, tls: true, since, operations: 12 };
                store.list_connections("p:1/1", &request, 3, &[live]).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[tokio::test]
async fn connections_are_listed_and_closed() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    assert!(ann.get("/caches/{cache}/connections").await.body.contains("No live connections"));
    let token = ann.get("/caches/{cache}/tokens").await.tokens().pop().unwrap();
    answer_for(site.store.clone(), token.clone());
    eventually("the proxy is there", async || !site.store.proxies().await.unwrap().is_empty()).await;
    let page = ann.get("/caches/{cache}/connections").await;
    for text in [
        "Showing 1 of 3.",
        "<strong>192.0.2.9</strong>",
        "binary protocol with TLS, connected 1 minute ago, 12 operations",
        "First token",
    ] {
        assert!(page.body.contains(text), "{text} is not in {}", page.body);
    }
    let id = page.field("id").unwrap().replace("&#64;", "@");
    // no proxy lists it.
    let made_up = id.replace("p:1/1", "q:1/1");
    let instance = async |email: &str| {
        let user = site.store.user_by_email(email).await.unwrap().unwrap();
        site.store.first_instance_of(&user.id).await.unwrap().unwrap().id
    };
    let length = site.store.audit_length().await.unwrap();
    for _ in 0..3 {
        bob.get("/caches/{cache}/tokens").await;
        let closed = bob.post("/caches/{cache}/connections/close", &[("id", &made_up)]).await;
        assert_eq!(closed.location(), bob.path("/caches/{cache}/connections?closed"));
    }
    assert_eq!(site.store.pending_closes("q:1/1").await.unwrap(), []);
    assert_eq!(site.store.audit_length().await.unwrap(), length, "nothing is noted");
    // Bob's request for Ann's connection names Bob's cache, of which this proxy lists a connection with the same id.
    bob.get("/caches/{cache}/connections").await;
    for (visitor, email) in [(&mut bob, "bob@example.com"), (&mut ann, "ann@example.com")] {
        let closed = visitor.post("/caches/{cache}/connections/close", &[("id", &id)]).await;
        assert_eq!(closed.location(), visitor.path("/caches/{cache}/connections?closed"));
        let ordered = site.store.pending_closes("p:1/1").await.unwrap();
        assert_eq!(ordered.len(), 1, "{email}");
        assert_eq!((&ordered[0].0, ordered[0].1.to_string()), (&instance(email).await, id.clone()));
        site.store.mark_closed(&ordered[0].0, &ordered[0].1).await.unwrap();
    }
    ann.get("/caches/{cache}/tokens").await;
    assert_eq!(ann.post("/caches/{cache}/connections/close", &[("id", "x")]).await.status, 400);
    assert_eq!(site.visitor().get("/caches/{cache}/connections").await.status, 303);
}

#[tokio::test]
async fn lists_and_closes_are_rate_limited_per_user() {
    let site = Site::start_with(|config| config.limits.connections_per_minute = 2).await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let (mut lists, mut closes) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        lists.push(ann.get("/caches/{cache}/connections").await);
        ann.get("/caches/{cache}/tokens").await;
        closes.push(ann.post("/caches/{cache}/connections/close", &[("id", "x")]).await);
    }
    for (responses, done) in [(&lists, 200), (&closes, 400)] {
        let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
        assert_eq!(statuses, [done, done, 429]);
        let wait: u64 = responses[2].header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
    }
    assert_eq!(bob.get("/caches/{cache}/connections").await.status, 200, "another user");
}

//! Creations with an `Idempotency-Key`: sent again, they are done once, and no secret is answered twice.

use serde_json::Value;
use store::{ApiScopes, InstanceState};

use super::{Client, json, require_problem, start};
use crate::harness::Response;

async fn post(client: &Client, path: &str, key: &str, body: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    client.send("POST", path, &headers, body).await
}

async fn tokens(client: &Client) -> usize {
    client.read("/caches/{cache}/tokens").await["items"].as_array().unwrap().len()
}

// W-27.
#[tokio::test]
async fn a_creation_that_is_sent_again_is_done_once_and_shows_no_secret() {
    let (site, client) = start().await;
    let first = post(&client, "/caches/{cache}/tokens", "one", r#"{"name":"x"}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, None));
    let secret = json(&first)["password"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let again = post(&client, "/caches/{cache}/tokens", "one", r#"{"name":"x"}"#).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")));
        let repeated = json(&again);
        assert_eq!((&repeated["id"], &repeated["has_secret"]), (&json(&first)["id"], &false.into()));
        assert!(repeated["password"].is_null() && repeated["secret"].is_null());
        assert!(!again.body.contains(&secret));
    }
    assert_eq!(tokens(&client).await, 2);
    // Another request with the key, and the same one without it or of another user.
    let other = post(&client, "/caches/{cache}/tokens", "one", r#"{"name":"y"}"#).await;
    require_problem(&other, 422, "idempotency_key_reused");
    let other = post(&client, "/caches", "one", r#"{"name":"x"}"#).await;
    require_problem(&other, 422, "idempotency_key_reused");
    assert_eq!(client.post("/caches/{cache}/tokens", r#"{"name":"x"}"#).await.status, 201);
    let bob = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    assert_eq!(post(&bob, "/caches/{cache}/tokens", "one", r#"{"name":"x"}"#).await.status, 201);
    for bad in [&*"x".repeat(256), "", "\u{e9}"] {
        let refused = post(&client, "/caches/{cache}/tokens", bad, r#"{"name":"x"}"#).await;
        require_problem(&refused, 400, "invalid_request");
    }
}

// W-27.
#[tokio::test]
async fn every_creation_can_be_sent_again() {
    let (site, client) = start().await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    for (path, body, secret) in [
        ("/caches", r#"{"name":"other"}"#, None),
        ("/caches/{cache}/operations", r#"{"kind":"restart"}"#, None),
        ("/tokens/{token}/certificates", "{}", Some("private_key")),
        ("/tokens/{token}/rotate", "{}", Some("password")),
    ] {
        let first = post(&client, path, path, body).await;
        assert!(first.status == 201 || first.status == 202, "{path}: {}", first.body);
        let again = post(&client, path, path, body).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, Some("true")), "{path}");
        let (first, again): (Value, Value) = (json(&first), json(&again));
        for id in ["id", "fingerprint"] {
            assert_eq!(first[id], again[id], "{path}");
        }
        if let Some(secret) = secret {
            assert!(first[secret].is_string() && again[secret].is_null(), "{path}");
        }
    }
}

// W-27.
#[tokio::test]
async fn what_was_refused_may_be_sent_again() {
    let (_site, client) = start().await;
    let refused = post(&client, "/caches/{cache}/tokens", "one", r#"{"name":""}"#).await;
    require_problem(&refused, 422, "invalid_fields");
    assert_eq!(post(&client, "/caches/{cache}/tokens", "one", r#"{"name":"x"}"#).await.status, 201);
    // Many at once make one.
    let before = tokens(&client).await;
    let send = || post(&client, "/caches/{cache}/tokens", "two", r#"{"name":"x"}"#);
    let (a, b, c, d) = tokio::join!(send(), send(), send(), send());
    let mut statuses = [a.status, b.status, c.status, d.status];
    statuses.sort_unstable();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 201 | 409)), "{statuses:?}");
    assert_eq!(tokens(&client).await, before + 1);
}

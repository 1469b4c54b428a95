//! Webhooks and notifications through the API.

use serde_json::json;
use store::{ApiScopes, InstanceState};

use super::{Client, json, require_problem, start};
use crate::harness::eventually;

const URL: &str = r#"{"url":"https://hooks.example/memgate"}"#;

// W-32.
#[tokio::test]
async fn a_webhook_lives_through_the_api() {
    let (site, client) = start().await;
    let created = client
        .post(
            "/webhooks",
            r#"{"url":"https://hooks.example/a","description":"shop","kinds":["cache_failed"]}"#,
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.body);
    let webhook = json(&created);
    let id = webhook["id"].as_str().unwrap();
    let path = format!("/webhooks/{id}");
    assert_eq!(created.header("location"), Some(&*format!("/api/v1{path}")));
    let secret = webhook["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_") && webhook["has_secret"] == true);
    let shown = client.get(&path).await;
    assert!(!shown.body.contains(&secret));
    assert_eq!(json(&shown)["kinds"], json!(["cache_failed"]));
    let tag = shown.header("etag").unwrap().to_owned();
    let headers = [("Content-Type", "application/json"), ("If-Match", &*tag)];
    let changed = client
        .send("PATCH", &path, &headers, r#"{"kinds":["token_leaked","cache_failed"],"enabled":false}"#)
        .await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let changed = json(&changed);
    assert_eq!((&changed["enabled"], &changed["disabled_reason"]), (&false.into(), &"user".into()));
    assert_eq!(
        (&changed["url"], &changed["description"]),
        (&"https://hooks.example/a".into(), &"shop".into())
    );
    let stale = client.send("PATCH", &path, &headers, r#"{"enabled":true}"#).await;
    require_problem(&stale, 412, "changed");
    require_problem(&client.post(&format!("{path}/test"), "{}").await, 409, "wrong_state");
    assert_eq!(client.patch(&path, r#"{"enabled":true}"#).await.status, 200);
    let rotated = client.post(&format!("{path}/rotate-secret"), "{}").await;
    assert_eq!(rotated.status, 201);
    assert_ne!(json(&rotated)["secret"], secret.as_str());
    assert_eq!(client.read("/webhooks").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(client.delete(&path).await.status, 204);
    require_problem(&client.get(&path).await, 404, "not_found");
    let entries = format!("{:?}", site.store.audit_after(0, 1_000).await.unwrap());
    assert!(!entries.contains(&secret) && entries.contains("webhook.delete"));
}

// W-27.
#[tokio::test]
async fn what_is_sent_again_is_done_once_and_shows_no_secret() {
    let (_site, client) = start().await;
    let send = async |path: &str, body: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", path)];
        client.send("POST", path, &headers, body).await
    };
    let first = json(&send("/webhooks", URL).await);
    let again = send("/webhooks", URL).await;
    assert_eq!((again.status, &json(&again)["id"]), (200, &first["id"]));
    assert!(json(&again)["secret"].is_null());
    let path = format!("/webhooks/{}", first["id"].as_str().unwrap());
    for (path, done) in [(format!("{path}/rotate-secret"), 201), (format!("{path}/test"), 202)] {
        assert_eq!(send(&path, "{}").await.status, done);
        let again = send(&path, "{}").await;
        assert_eq!(
            (again.status, again.header("idempotency-replayed")),
            (200, Some("true")),
            "{}",
            again.body
        );
    }
    assert_eq!(client.read(&format!("{path}/deliveries")).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn invalid_webhooks_are_told_by_field() {
    let (_site, client) = start().await;
    for (body, field) in [
        (r#"{"url":"http://hooks.example/"}"#, "url"),
        (r#"{"url":"https://127.0.0.1/"}"#, "url"),
        (r#"{"url":"https://hooks.example/","kinds":[]}"#, "kinds"),
        (r#"{"url":"https://hooks.example/","kinds":["test"]}"#, "kinds[0]"),
        (r#"{"url":"https://hooks.example/","description":"a\u0000b"}"#, "description"),
        (r#"{}"#, "url"),
    ] {
        let problem = require_problem(&client.post("/webhooks", body).await, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
    }
    for _ in 0..5 {
        assert_eq!(client.post("/webhooks", URL).await.status, 201);
    }
    require_problem(&client.post("/webhooks", URL).await, 409, "limit_reached");
}

// W-31.
#[tokio::test]
async fn notifications_are_listed_in_pages() {
    let (site, client) = start().await;
    site.set_state("ann@example.com", InstanceState::Failed).await;
    let listed = async || client.read("/notifications").await["items"].as_array().unwrap().clone();
    eventually("it is told", async || listed().await.len() == 1).await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    eventually("it is told", async || listed().await.len() == 2).await;
    let first = client.read("/notifications?limit=1").await;
    assert_eq!(
        (&first["items"][0]["kind"], &first["items"][0]["cache"]["id"]),
        (&"cache_recovered".into(), &client.cache.as_str().into())
    );
    let next = client
        .read(&format!("/notifications?limit=1&cursor={}", first["next_cursor"].as_str().unwrap()))
        .await;
    assert_eq!(
        (&next["items"][0]["kind"], &next["next_cursor"]),
        (&"cache_failed".into(), &serde_json::Value::Null)
    );
    require_problem(&client.get("/notifications?cursor=eA").await, 400, "invalid_request");
    let bob = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    assert_eq!(bob.read("/notifications").await["items"], json!([]));
}

//! Caches and operations through the API.

use serde_json::json;
use store::{InstanceState, NewOperation, OperationProgress, OperationState};

use super::{json, require_problem, start};

// W-26.
#[tokio::test]
async fn a_cache_is_created_shown_and_deleted() {
    let (site, client) = start().await;
    let created = client.post("/caches", r#"{"name":"sessions"}"#).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let cache = json(&created);
    let path = format!("/caches/{}", cache["id"].as_str().unwrap());
    assert_eq!(created.header("location"), Some(&*format!("/api/v1{path}")));
    assert_eq!(
        (&cache["name"], &cache["state"], &cache["suspended"]),
        (&json!("sessions"), &json!("pending"), &json!(false))
    );
    assert_eq!(client.read("/caches").await["items"].as_array().unwrap().len(), 2);
    assert_eq!(client.read(&path).await["id"], cache["id"]);
    assert_eq!(client.read(&format!("{path}/tokens")).await["items"], json!([]), "it has no token yet");
    require_problem(&client.post("/caches", r#"{"name":"sessions"}"#).await, 409, "already_exists");
    for bad in ["", "A", "a b", "-a", &"x".repeat(41), "\u{202e}"] {
        let body = json!({ "name": bad }).to_string();
        let problem = require_problem(&client.post("/caches", &body).await, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], "name");
    }
    assert_eq!(client.post("/caches", r#"{"name":"third"}"#).await.status, 201);
    require_problem(&client.post("/caches", r#"{"name":"fourth"}"#).await, 409, "limit_reached");
    require_problem(&client.send("DELETE", &path, &[("If-Match", "\"x\"")], "").await, 412, "changed");
    let tag = client.get(&path).await.header("etag").unwrap().to_owned();
    assert_eq!(client.send("DELETE", &path, &[("If-Match", &tag)], "").await.status, 204);
    require_problem(&client.delete(&path).await, 404, "not_found");
    require_problem(&client.get(&path).await, 404, "not_found");
    assert_eq!(site.store.caches_of(&client.user_id).await.unwrap().len(), 2);
}

#[tokio::test]
async fn operations_are_asked_for_and_followed() {
    let (site, client) = start().await;
    require_problem(
        &client.post("/caches/{cache}/operations", r#"{"kind":"flush"}"#).await,
        409,
        "wrong_state",
    );
    site.set_state("ann@example.com", InstanceState::Running).await;
    let asked = client.post("/caches/{cache}/operations", r#"{"kind":"restart"}"#).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let operation = json(&asked);
    assert_eq!((&operation["state"], &operation["requested_by"]), (&json!("pending"), &json!("you")));
    let path = asked.header("location").unwrap().strip_prefix("/api/v1").unwrap().to_owned();
    assert_eq!(client.read(&path).await, operation);
    let again = json(&client.post("/caches/{cache}/operations", r#"{"kind":"restart"}"#).await);
    assert_eq!(again["id"], operation["id"], "an unfinished one goes on");
    let done = OperationProgress {
        state: OperationState::Done,
        progress: 100,
        message: Some("done".into()),
        checkpoint: None,
    };
    site.store.record_operation(operation["id"].as_str().unwrap(), &done).await.unwrap();
    let shown = client.read(&path).await;
    assert_eq!((&shown["state"], &shown["message"]), (&json!("done"), &json!("done")));
    assert!(shown["finished_at"].is_string());
    site.store.request_operation(&client.cache, NewOperation::Flush).await.unwrap();
    let listed = client.read("/caches/{cache}/operations").await;
    let mut kinds: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["flush", "restart"]);
    require_problem(&client.get("/caches/{cache}/operations/none").await, 404, "not_found");
    require_problem(&client.get("/caches/{cache}/operations/%00").await, 404, "not_found");
}

#[tokio::test]
async fn resizes_stay_within_the_plan() {
    let (site, client) = start().await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    let cache = client.get("/caches/{cache}").await;
    let (tag, has) = (cache.header("etag").unwrap().to_owned(), json(&cache)["memory_mb"].as_i64().unwrap());
    let resize = async |size: String| {
        client
            .post("/caches/{cache}/operations", &format!("{{\"kind\":\"resize\",\"memory_mb\":{size}}}"))
            .await
    };
    for bad in [
        has.to_string(),
        (has + 1).to_string(),
        "1".into(),
        "0".into(),
        "-5".into(),
        i64::MAX.to_string(),
        i64::MIN.to_string(),
    ] {
        let problem = require_problem(&resize(bad).await, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], "memory_mb");
    }
    for bad in ["99999999999999999999", "\"64\"", "1.5", "true", "[]"] {
        require_problem(&resize(bad.into()).await, 422, "invalid_fields");
    }
    let missing = client.post("/caches/{cache}/operations", r#"{"kind":"resize"}"#).await;
    require_problem(&missing, 422, "invalid_fields");
    let surplus = client.post("/caches/{cache}/operations", r#"{"kind":"flush","memory_mb":32}"#).await;
    require_problem(&surplus, 422, "invalid_fields");
    let unknown = client.post("/caches/{cache}/operations", r#"{"kind":"delete"}"#).await;
    require_problem(&unknown, 422, "invalid_fields");
    let smaller = resize((has / 2).to_string()).await;
    assert_eq!(smaller.status, 202, "{}", smaller.body);
    let cache = client.get("/caches/{cache}").await;
    assert_eq!(json(&cache)["memory_mb"], has / 2);
    assert_ne!(cache.header("etag"), Some(&*tag));
    let headers = [("Content-Type", "application/json"), ("If-Match", &*tag)];
    let late = client.send("POST", "/caches/{cache}/operations", &headers, r#"{"kind":"flush"}"#).await;
    require_problem(&late, 412, "changed");
}

#[tokio::test]
async fn what_the_operator_has_suspended_stays_suspended() {
    let (site, client) = start().await;
    site.store.request_operation(&client.cache, NewOperation::Suspend).await.unwrap();
    let refused = client.post("/caches/{cache}/operations", r#"{"kind":"resume"}"#).await;
    require_problem(&refused, 403, "suspended");
    assert_eq!(client.read("/caches/{cache}").await["suspended"], true);
}

#[tokio::test]
async fn when_a_cache_sleeps_is_changed_within_its_plan() {
    let (site, client) = start().await;
    let cache = client.get("/caches/{cache}").await;
    let tag = cache.header("etag").unwrap().to_owned();
    assert_eq!(json(&cache)["sleep_after_seconds"], json!(null));
    let patch = async |body: &str, tag: Option<&str>| {
        let mut headers = vec![("Content-Type", "application/json")];
        headers.extend(tag.map(|tag| ("If-Match", tag)));
        client.send("PATCH", "/caches/{cache}", &headers, body).await
    };
    let changed = patch(r#"{"sleep_after_seconds":3600}"#, Some(&tag)).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let times = |answer: &crate::harness::Response| {
        let cache = json(answer);
        (cache["sleep_after_seconds"].as_i64(), cache["sleep_after_seconds_in_effect"].as_i64())
    };
    assert_eq!(times(&changed), (Some(3600), Some(3600)));
    assert_eq!(changed.header("etag"), client.get("/caches/{cache}").await.header("etag"));
    require_problem(&patch(r#"{"sleep_after_seconds":null}"#, Some(&tag)).await, 412, "changed");
    assert_eq!(times(&patch("{}", None).await), (Some(3600), Some(3600)), "nothing was sent");
    site.store.update_plan("default", |plan| plan.sleep_after_seconds = Some(1800)).await.unwrap();
    assert_eq!(times(&client.get("/caches/{cache}").await), (Some(3600), Some(1800)));
    for bad in ["1801", "59", "0", "-1", "9223372036854775807", "-9223372036854775808"] {
        let refused = patch(&format!("{{\"sleep_after_seconds\":{bad}}}"), None).await;
        let problem = require_problem(&refused, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], "sleep_after_seconds", "{bad}");
    }
    for bad in [r#"{"sleep_after_seconds":"1h"}"#, r#"{"sleep_after_seconds":1.5}"#, r#"{"name":"x"}"#] {
        require_problem(&patch(bad, None).await, 422, "invalid_fields");
    }
    assert_eq!(times(&patch(r#"{"sleep_after_seconds":null}"#, None).await), (None, Some(1800)));
    let entry = site.store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!((entry.action.as_str(), entry.actor), ("cache.update", format!("user {}", client.user_id)));
}

// R-47.
#[tokio::test]
async fn operations_are_limited_per_cache() {
    let (site, client) = start().await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    let mut statuses = Vec::new();
    for size in 30..52 {
        let body = format!("{{\"kind\":\"resize\",\"memory_mb\":{size}}}");
        statuses.push(client.post("/caches/{cache}/operations", &body).await.status);
    }
    assert_eq!(statuses, [[202; 20].as_slice(), &[429; 2]].concat());
}

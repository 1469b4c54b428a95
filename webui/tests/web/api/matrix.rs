//! Two users, every route, every method: what is another's isn't there, and what isn't documented isn't done.

use serde_json::Value;
use store::ApiScopes;

use super::keys::operations;
use super::{Client, json, require_problem, start};

const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

/// Bodies that the routes accept, by the end of the path.
fn body_for(path: &str) -> &'static str {
    match path.rsplit('/').next().unwrap_or_default() {
        "operations" => r#"{"kind":"suspend"}"#,
        "rotate" | "certificates" | "rotate-secret" | "test" | "send-again" | "{cache}" => "{}",
        _ => r#"{"name":"x"}"#,
    }
}

/// An operation, a certificate, a webhook and a delivery of a user's.
async fn resources_of(client: &Client) -> [Value; 4] {
    let webhook = json(&client.post("/webhooks", r#"{"url":"https://hooks.example/x"}"#).await);
    let test = format!("/webhooks/{}/test", webhook["id"].as_str().unwrap());
    let delivery = json(&client.post(&test, "{}").await);
    let operation = client.post("/caches/{cache}/operations", r#"{"kind":"suspend"}"#).await;
    let certificate = client.post("/tokens/{token}/certificates", "{}").await;
    [json(&operation), json(&certificate), webhook, delivery]
}

// W-11, W-24.
#[tokio::test]
async fn what_is_another_users_is_not_found() {
    let (site, ann) = start().await;
    let bob = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    let [operation, certificate, webhook, delivery] = resources_of(&bob).await;
    let before = site.store.audit_length().await.unwrap();
    // Ann's key with Bob's ids.
    let thief = Client { key: ann.key.clone(), ..bob.clone() };
    let mut tried = 0;
    for (method, path, _) in operations(&ann).await {
        if !path.contains('{') {
            continue;
        }
        let own_cache = path.contains("{cache}");
        let path = path
            .replace("{operation}", operation["id"].as_str().unwrap())
            .replace("{fingerprint}", certificate["fingerprint"].as_str().unwrap())
            .replace("{connection}", "1-1@proxy")
            .replace("{delivery}", delivery["id"].as_str().unwrap());
        let headers = [("Content-Type", "application/json")];
        let body = match &*path {
            "/webhooks/{webhook}" => r#"{"enabled":false}"#,
            path => body_for(path),
        };
        let with_id = |id: &str| path.replace("{webhook}", id);
        let stolen = thief.send(&method, &with_id(webhook["id"].as_str().unwrap()), &headers, body).await;
        require_problem(&stolen, 404, "not_found");
        // The same bytes as for what doesn't exist.
        let nothing = Client { cache: "a".repeat(24), token: "aaaaaaaaaaaa".into(), ..thief.clone() };
        let path_to_nothing = with_id(&"a".repeat(24));
        assert_eq!(nothing.send(&method, &path_to_nothing, &headers, body).await.body, stolen.body, "{path}");
        for id in ["x", "%00", "..%2f..", "%ff", "'", &"a".repeat(3_000)] {
            let nothing = Client { cache: id.into(), token: id.into(), ..thief.clone() };
            let refused = nothing.send(&method, &with_id(id), &headers, body).await;
            require_problem(&refused, 404, "not_found");
        }
        tried += usize::from(own_cache);
    }
    assert!(tried > 10);
    assert_eq!(site.store.audit_length().await.unwrap(), before, "nothing was changed");
    // With Ann's own cache, Bob's operation and certificate aren't there either.
    for path in [
        format!("/caches/{{cache}}/operations/{}", operation["id"].as_str().unwrap()),
        format!("/tokens/{{token}}/certificates/{}", certificate["fingerprint"].as_str().unwrap()),
    ] {
        require_problem(&ann.get(&path).await, 404, "not_found");
    }
    let mine = ann.read("/activity").await.to_string();
    assert!(!mine.contains(&bob.cache) && !mine.contains(&bob.token) && !mine.contains(&bob.user_id));
}

// W-24.
#[tokio::test]
async fn methods_that_are_not_documented_are_refused() {
    let (site, ann) = start().await;
    let documented = operations(&ann).await;
    let before = site.store.audit_length().await.unwrap();
    let mut paths: Vec<&String> = documented.iter().map(|(_, path, _)| path).collect();
    paths.dedup();
    for path in paths {
        for method in METHODS {
            if documented.iter().any(|(known, of, _)| known == method && of == path) {
                continue;
            }
            let answer = ann.send(method, path, &[("Content-Type", "application/json")], "{}").await;
            if path == "/openapi.json" {
                assert_eq!(answer.status, 405, "{method}");
            } else {
                require_problem(&answer, 405, "method_not_allowed");
                assert!(answer.header("allow").is_some(), "{method} {path}");
            }
        }
    }
    assert_eq!(site.store.audit_length().await.unwrap(), before);
    for path in ["", "/", "/nothing", "/caches/", "/caches/{cache}/", "//caches", "/../v1/account", "/tokens"]
    {
        require_problem(&ann.get(path).await, 404, "not_found");
    }
}

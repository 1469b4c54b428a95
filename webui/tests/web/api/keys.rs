//! Who may use the API: valid keys with the right scope, and nothing else.

use std::time::Duration;

use serde_json::Value;
use store::{ApiKey, ApiKeyId, ApiScope, ApiScopes, NewApiKey, UserState, now};

use super::{Client, json, require_problem, start, start_with};
use crate::harness::Site;

fn id_of(key: &str) -> ApiKeyId {
    ApiKey::parse(key).unwrap().id()
}

// W-24.
#[tokio::test]
async fn only_a_valid_key_counts() {
    let (site, client) = start().await;
    let with = async |authorization: &str| {
        client.send("GET", "/account", &[("Authorization", authorization)], "").await
    };
    let key = &client.key;
    assert_eq!(with(&format!("Bearer {key}")).await.status, 200);
    assert_eq!(with(&format!("bearer  {key}")).await.status, 200, "as RFC 9110 says");
    let unknown = ApiKey::generate().reveal();
    let (id, secret) = key.rsplit_once('_').unwrap();
    let other = format!("{id}_{}", unknown.rsplit_once('_').unwrap().1);
    let token = store::Token::generate().reveal();
    for sent in [
        String::new(),
        "Bearer".into(),
        key.clone(),
        format!("Basic {key}"),
        format!("Bearer {unknown}"),
        format!("Bearer {other}"),
        format!("Bearer {token}"),
        format!("Bearer {secret}"),
        format!("Bearer {key}x"),
        format!("Bearer {key}, Bearer {key}"),
        "Bearer \u{e9}".into(),
    ] {
        let refused = with(&sent).await;
        require_problem(&refused, 401, "invalid_key");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"), "{sent}");
        assert!(!refused.body.contains(secret), "{sent}");
    }
    assert!(site.store.api_key(&id_of(key)).await.unwrap().unwrap().last_used_at.is_some());
}

// W-24.
#[tokio::test]
async fn cookies_count_for_nothing() {
    let (site, client) = start().await;
    let mut browser = site.visitor();
    browser.sign_in("ann@example.com", crate::harness::PASSWORD).await;
    for (method, path) in [("GET", "/account"), ("POST", "/caches"), ("DELETE", "/caches/{cache}")] {
        let path = path.replace("{cache}", &client.cache);
        let head = browser.request_head(method, &format!("/api/v1{path}"));
        let refused = browser.send(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).await;
        require_problem(&refused, 401, "invalid_key");
    }
    // And no answer sets one, or lets another site's script read it.
    let answer = client.send("GET", "/account", &[("Origin", "https://evil.example")], "").await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let preflight = client.send("OPTIONS", "/caches", &[("Origin", "https://evil.example")], "").await;
    require_problem(&preflight, 405, "method_not_allowed");
}

// W-25: a key that was valid until now is tried no more often than one that never was.
#[tokio::test]
async fn keys_that_ended_are_limited() {
    for ends in [true, false] {
        let (site, client) = start_with(|config| config.limits.api_key_failures_per_minute = 3).await;
        assert_eq!(client.get("/account").await.status, 200);
        if ends {
            site.store.revoke_api_key(&id_of(&client.key)).await.unwrap();
        } else {
            site.store.set_user_state(&client.user_id, UserState::Suspended).await.unwrap();
        }
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(client.get("/account").await.status);
        }
        assert_eq!(statuses, [401, 401, 401, 401, 429, 429], "{ends}");
        require_problem(&client.get("/account").await, 429, "rate_limited");
    }
}

// W-23.
#[tokio::test]
async fn keys_that_ended_are_refused_and_told_why() {
    let (site, client) = start().await;
    let expiring = NewApiKey {
        key: ApiKey::generate(),
        name: "short",
        scopes: ApiScopes::ALL,
        expires_at: Some(now().saturating_add(Duration::from_millis(1))),
    };
    site.store.create_api_key(&site.token_key(), &client.user_id, &expiring).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let expired = Client { key: expiring.key.reveal(), ..client.clone() };
    let problem = require_problem(&expired.get("/account").await, 401, "invalid_key");
    assert!(problem["detail"].as_str().unwrap().contains("expired"));

    site.store.set_user_state(&client.user_id, UserState::Suspended).await.unwrap();
    let problem = require_problem(&client.get("/account").await, 401, "invalid_key");
    assert!(problem["detail"].as_str().unwrap().contains("suspended"));
    site.store.set_user_state(&client.user_id, UserState::Active).await.unwrap();
    assert_eq!(client.get("/account").await.status, 200, "the suspension is over");

    site.store.revoke_api_key(&id_of(&client.key)).await.unwrap();
    let problem = require_problem(&client.get("/account").await, 401, "invalid_key");
    assert!(problem["detail"].as_str().unwrap().contains("revoked"));
    let other = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    site.store.delete_user(&other.user_id).await.unwrap();
    require_problem(&other.get("/account").await, 401, "invalid_key");
}

/// Every operation of the document: method, path and scope.
pub(super) async fn operations(client: &Client) -> Vec<(String, String, String)> {
    let document = client.read("/openapi.json").await;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let scope = operation["security"][0]["api_key"][0].as_str().unwrap_or_default();
            found.push((method.to_uppercase(), path.clone(), scope.to_owned()));
        }
    }
    assert!(found.len() > 20);
    found
}

// W-24.
#[tokio::test]
async fn every_operation_needs_its_scope() {
    let (site, client) = start().await;
    for (method, path, needed) in operations(&client).await {
        if needed.is_empty() {
            continue;
        }
        assert_eq!(["read", "metrics"].contains(&&*needed), method == "GET", "{method} {path}");
        let path = path
            .replace("{operation}", &"a".repeat(24))
            .replace("{connection}", "1-1@none")
            .replace("{webhook}", &"a".repeat(24))
            .replace("{delivery}", &"a".repeat(24))
            .replace("{fingerprint}", &"a".repeat(64));
        for scope in ApiScope::ALL.into_iter().filter(|scope| scope.name() != needed) {
            let narrow = client.with_scopes(&site, [scope].into_iter().collect()).await;
            let refused = narrow.send(&method, &path, &[("Content-Type", "application/json")], "{}").await;
            let problem = require_problem(&refused, 403, "missing_scope");
            assert!(problem["detail"].as_str().unwrap().contains(&format!("`{needed}`")), "{problem}");
            site.store.revoke_api_key(&id_of(&narrow.key)).await.unwrap();
        }
        let scope = ApiScope::ALL.into_iter().find(|scope| scope.name() == needed).unwrap();
        if method == "GET" {
            let wide = client.with_scopes(&site, [scope].into_iter().collect()).await;
            assert_ne!(wide.get(&path).await.status, 403, "{path}");
            site.store.revoke_api_key(&id_of(&wide.key)).await.unwrap();
        }
    }
}

// W-25.
#[tokio::test]
async fn wrong_keys_are_limited_per_source_and_right_ones_go_on() {
    let (site, client) = start_with(|config| config.limits.api_key_failures_per_minute = 5).await;
    assert_eq!(client.get("/account").await.status, 200);
    let wrong = Client { key: ApiKey::generate().reveal(), ..client.clone() };
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(wrong.get("/account").await.status);
    }
    assert_eq!(statuses, [[401; 5].as_slice(), &[429; 3]].concat());
    let refused = wrong.get("/account").await;
    require_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(client.get("/account").await.status, 200, "a key that was right lately");
    assert!(site.limited("api_keys") >= 4, "counted");
    require_problem(
        &client.send("GET", "/account", &[("Authorization", "Bearer x")], "").await,
        429,
        "rate_limited",
    );
}

#[tokio::test]
async fn account_shows_the_user_and_the_key() {
    let (_site, client) = start().await;
    let account: Value = json(&client.get("/account").await);
    assert_eq!((&account["email"], &account["state"]), (&"ann@example.com".into(), &"active".into()));
    assert_eq!(
        account["api_key"]["scopes"],
        serde_json::json!(["read", "tokens", "caches", "webhooks", "metrics"])
    );
    assert_eq!(account["api_key"]["id"], id_of(&client.key).as_str());
    let plan = client.read("/plan").await;
    assert_eq!(
        (&plan["name"], &plan["caches"], &plan["caches_max"]),
        (&"default".into(), &1.into(), &3.into())
    );
}

#[tokio::test]
async fn page_and_document_are_there_without_a_key() {
    let site = Site::start().await;
    let page = site.visitor().get("/api").await;
    assert_eq!(page.status, 200);
    for part in [
        "id=\"createToken\"",
        "id=\"error-missing_scope\"",
        "id=\"schema-CreatedToken\"",
        "/api/v1/tokens/{token}/rotate",
    ] {
        assert!(page.body.contains(part), "{part}");
    }
    let document = site.visitor().get("/api/v1/openapi.json").await;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert!(json(&document)["openapi"].as_str().unwrap().starts_with("3.1"));
}

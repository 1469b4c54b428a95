//! Tokens and certificates through the API.

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use store::{Token, TokenId};

use super::{json, require_problem, start, start_with};

// W-26.
#[tokio::test]
async fn a_token_is_created_shown_once_changed_rotated_and_revoked() {
    let (site, client) = start().await;
    let body = r#"{"name":"web shop","permissions":{"scopes":["read","write"],"key_prefix":"shop:",
        "expires_at":"2099-01-31T12:00:00Z","allow_from":["10.0.0.0/8","2001:db8::/32"]}}"#;
    let created = client.post("/caches/{cache}/tokens", body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let new = json(&created);
    let secret = Token::parse(new["secret"].as_str().unwrap()).unwrap();
    assert_eq!(new["password"], secret.secret().reveal());
    assert_eq!(new["username"], secret.id().username());
    assert_eq!(new["endpoint"], json!({"host": "cache.example.com", "port": 11999, "tls": false}));
    assert_eq!(new["has_secret"], true);
    let path = format!("/tokens/{}", secret.id());
    assert_eq!(created.header("location"), Some(&*format!("/api/v1{path}")));
    let shown = client.get(&path).await;
    assert_eq!(shown.header("etag"), created.header("etag"));
    assert!(!shown.body.contains(secret.secret().reveal()), "shown once");
    assert_eq!(
        json(&shown)["permissions"],
        json!({"scopes": ["read", "write"], "key_prefix": "shop:", "expires_at": "2099-01-31T12:00:00Z",
            "allow_from": ["10.0.0.0/8", "2001:db8::/32"], "connections_max": null})
    );

    let changed =
        client.patch(&path, r#"{"name":"shop","permissions":{"scopes":["read"],"key_prefix":null}}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_ne!(changed.header("etag"), shown.header("etag"));
    let token = json(&changed);
    assert_eq!((&token["name"], &token["permissions"]["scopes"]), (&json!("shop"), &json!(["read"])));
    assert_eq!(token["permissions"]["key_prefix"], json!(null));
    assert_eq!(token["permissions"]["expires_at"], "2099-01-31T12:00:00Z", "what isn't sent stays");
    assert_eq!(client.patch(&path, "{}").await.status, 200);

    let rotated = client.post(&format!("{path}/rotate"), r#"{"grace_seconds":60}"#).await;
    assert_eq!(rotated.status, 201, "{}", rotated.body);
    let successor = Token::parse(json(&rotated)["secret"].as_str().unwrap()).unwrap();
    assert_eq!(client.read(&path).await["successor"], successor.id().as_str());
    require_problem(&client.post(&format!("{path}/rotate"), "{}").await, 409, "wrong_state");

    let path = format!("/tokens/{}", successor.id());
    for _ in 0..2 {
        assert_eq!(client.delete(&path).await.status, 204);
    }
    assert_eq!(client.read(&path).await["state"], "revoked");
    for (method, below, body) in
        [("PATCH", "", r#"{"name":"x"}"#), ("POST", "/rotate", "{}"), ("POST", "/certificates", "{}")]
    {
        let refused = client
            .send(method, &format!("{path}{below}"), &[("Content-Type", "application/json")], body)
            .await;
        require_problem(&refused, 409, "wrong_state");
    }
    let actor = format!("user {}", client.user_id);
    let entries = site.store.audit_after(0, 100).await.unwrap();
    let done: Vec<&str> =
        entries.iter().filter(|entry| entry.actor == actor).map(|entry| entry.action.as_str()).collect();
    assert_eq!(done, ["token.create", "token.update", "token.update", "token.rotate", "token.revoke"]);
    assert!(!format!("{entries:?}").contains(secret.secret().reveal()));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (_site, client) = start_with(|config| config.limits.tokens_at_once = 100).await;
    for n in 0..7 {
        assert_eq!(
            client.post("/caches/{cache}/tokens", &format!("{{\"name\":\"n{n}\"}}")).await.status,
            201
        );
    }
    let mut names = Vec::new();
    let mut path = "/caches/{cache}/tokens?limit=3".to_owned();
    for _ in 0..3 {
        let page = client.read(&path).await;
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|token| token["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/caches/{{cache}}/tokens?limit=3&cursor={cursor}");
    }
    assert_eq!(names, ["First token", "n0", "n1", "n2", "n3", "n4", "n5", "n6"]);
    client.delete("/tokens/{token}").await;
    let inactive = client.read("/caches/{cache}/tokens?state=inactive").await;
    assert_eq!(
        (inactive["items"].as_array().unwrap().len(), &inactive["items"][0]["name"]),
        (1, &json!("First token"))
    );
    for bad in
        ["limit=0", "limit=201", "limit=x", "cursor=*", "state=all", "other=1", "limit=1&limit=2", "cursor="]
    {
        let refused = client.get(&format!("/caches/{{cache}}/tokens?{bad}")).await;
        require_problem(&refused, 400, "invalid_request");
    }
}

// W-26.
#[tokio::test]
async fn a_change_is_made_only_if_nothing_has_changed_meanwhile() {
    let (_site, client) = start().await;
    let tag = client.get("/tokens/{token}").await.header("etag").unwrap().to_owned();
    let patch = async |tag: &str, name: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", tag)];
        client.send("PATCH", "/tokens/{token}", &headers, &format!("{{\"name\":\"{name}\"}}")).await
    };
    require_problem(&patch("\"other\"", "a").await, 412, "changed");
    let changed = patch(&tag, "a").await;
    assert_eq!(changed.status, 200);
    require_problem(&patch(&tag, "b").await, 412, "changed");
    assert_eq!(client.read("/tokens/{token}").await["name"], "a");
    let refused = client.send("DELETE", "/tokens/{token}", &[("If-Match", &tag)], "").await;
    require_problem(&refused, 412, "changed");
    let tag = changed.header("etag").unwrap();
    assert_eq!(patch("*", "a").await.status, 200);
    // Of two that have seen the same, one changes it.
    let (one, other) = tokio::join!(patch(tag, "one"), patch(tag, "other"));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}

#[tokio::test]
async fn certificates_are_issued_listed_and_revoked() {
    let (site, client) = start().await;
    let issued = client.post("/tokens/{token}/certificates", r#"{"name":"laptop"}"#).await;
    assert_eq!(issued.status, 201, "{}", issued.body);
    let new = json(&issued);
    assert!(KeyPair::from_pem(new["private_key"].as_str().unwrap()).is_ok());
    assert!(new["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({ "request": request }).to_string();
    let for_key = json(&client.post("/tokens/{token}/certificates", &body).await);
    assert!(for_key["private_key"].is_null() && for_key["has_secret"] == true);
    for bad in ["", "rubbish", &request.replace('M', "N")] {
        let body = json!({ "request": bad }).to_string();
        let problem =
            require_problem(&client.post("/tokens/{token}/certificates", &body).await, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], "request");
    }
    let page = client.read("/tokens/{token}/certificates?limit=1").await;
    assert_eq!(page["items"][0]["fingerprint"], new["fingerprint"]);
    assert!(page["next_cursor"].is_string() && page["items"][0]["private_key"].is_null());
    let path = format!("/tokens/{{token}}/certificates/{}", new["fingerprint"].as_str().unwrap());
    let shown = client.read(&path).await;
    assert_eq!((&shown["ended"], &shown["name"]), (&json!(false), &json!("laptop")));
    for _ in 0..2 {
        assert_eq!(client.delete(&path).await.status, 204);
    }
    assert_eq!(client.read(&path).await["ended"], true);
    require_problem(&client.get("/tokens/{token}/certificates/x").await, 404, "not_found");
    let id = TokenId::parse(&client.token).unwrap();
    assert_eq!(site.store.certificates_of(&id).await.unwrap().len(), 2);
}

// W-8.
#[tokio::test]
async fn pages_and_api_share_the_limits() {
    let (site, client) = start_with(|config| {
        config.limits.tokens_per_hour = 2;
        config.limits.tokens_at_once = 3;
    })
    .await;
    let mut browser = site.visitor();
    browser.sign_in("ann@example.com", crate::harness::PASSWORD).await;
    browser.cache = client.cache.clone();
    browser.get("/caches/{cache}/tokens").await;
    assert_eq!(browser.post("/caches/{cache}/tokens", &[("name", "of the page")]).await.status, 200);
    assert_eq!(client.post("/caches/{cache}/tokens", r#"{"name":"of the API"}"#).await.status, 201);
    require_problem(&client.post("/caches/{cache}/tokens", r#"{"name":"x"}"#).await, 409, "limit_reached");
    client.delete("/tokens/{token}").await;
    let refused = client.post("/caches/{cache}/tokens", r#"{"name":"x"}"#).await;
    require_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
}

//! Requests that make no sense: each is refused with an error that says how to fix it, and changes nothing.

use serde_json::{Value, json};

use super::{Client, require_problem, start};
use crate::harness::Site;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Routes that take a body, with one that they accept.
const BODIES: [(&str, &str, &str); 6] = [
    ("POST", "/caches", r#"{"name":"x"}"#),
    ("POST", "/caches/{cache}/operations", r#"{"kind":"suspend"}"#),
    ("POST", "/caches/{cache}/tokens", r#"{"name":"x"}"#),
    ("PATCH", "/tokens/{token}", r#"{"name":"x"}"#),
    ("POST", "/tokens/{token}/rotate", "{}"),
    ("POST", "/tokens/{token}/certificates", "{}"),
];

async fn audit_length(site: &Site) -> i64 {
    site.store.audit_length().await.unwrap()
}

// W-9, W-24.
#[tokio::test]
async fn bodies_that_are_no_small_json_objects_are_refused() {
    let (site, client) = start().await;
    let before = audit_length(&site).await;
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let deep_field = format!("{{\"name\":{deep}}}");
    for (method, path, valid) in BODIES {
        let send =
            async |headers: &[(&str, &str)], body: &str| client.send(method, path, headers, body).await;
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/jsonp",
            "",
        ] {
            require_problem(&send(&[("Content-Type", kind)], valid).await, 415, "unsupported_media_type");
        }
        require_problem(&send(&[], valid).await, 415, "unsupported_media_type");
        let two = format!("{valid}{valid}");
        for body in ["", "{", "nonsense", &two, "{'name':'x'}", "\u{feff}{}"] {
            let refused = send(&[JSON], body).await;
            require_problem(&refused, 400, "invalid_request");
        }
        for body in ["[]", "null", "1", "\"x\"", "[\"x\"]", &deep, "{\"other\":1}", "{\"__proto__\":{}}"] {
            require_problem(&send(&[JSON], body).await, 422, "invalid_fields");
        }
        let refused = send(&[JSON], &deep_field).await;
        assert!(refused.status == 422 || refused.status == 400, "{path}: {}", refused.body);
        for size in [16 * 1024 + 1, 1 << 20] {
            let body = format!("{{\"name\":\"{}\"}}", "x".repeat(size));
            require_problem(&send(&[JSON], &body).await, 413, "too_large");
        }
    }
    assert_eq!(audit_length(&site).await, before, "nothing was changed");
}

// W-12, W-24.
#[tokio::test]
async fn hostile_fields_are_refused_or_kept_as_they_are() {
    let (site, client) = start().await;
    let before = audit_length(&site).await;
    let long = "x".repeat(10_000);
    let hostile: [Value; 14] = [
        json!(long),
        json!("a\u{0}b"),
        json!("\u{0}"),
        json!("a\r\nSet-Cookie: x=y"),
        json!("\u{202e}"),
        json!("\u{1b}[2J"),
        json!(""),
        json!(" "),
        json!(1e308),
        json!(-1),
        json!(true),
        json!([[[]]]),
        json!({"a": {"b": null}}),
        json!(u64::MAX),
    ];
    for value in &hostile {
        for (path, body) in [
            ("/caches", json!({ "name": value })),
            ("/caches/{cache}/tokens", json!({ "name": value })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": value })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": { "scopes": value } })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": { "scopes": [value] } })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": { "expires_at": value } })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": { "allow_from": [value] } })),
            ("/caches/{cache}/tokens", json!({ "name": "x", "permissions": { "connections_max": value } })),
            ("/caches/{cache}/operations", json!({ "kind": value })),
            ("/caches/{cache}/operations", json!({ "kind": "resize", "memory_mb": value })),
            ("/tokens/{token}/rotate", json!({ "grace_seconds": value })),
            ("/tokens/{token}/certificates", json!({ "request": value })),
        ] {
            let refused = client.post(path, &body.to_string()).await;
            let problem = require_problem(&refused, 422, "invalid_fields");
            assert!(!problem["errors"].as_array().unwrap().is_empty(), "{body}");
            assert!(refused.body.len() < 2_000, "{path}: repeats what was sent");
            assert!(!refused.body.contains('\u{202e}'), "{path}");
        }
    }
    for prefix in [json!("a\u{0}b"), json!("a b"), json!(long), json!(1), json!([])] {
        let body = json!({ "name": "x", "permissions": { "key_prefix": prefix } });
        let refused = client.post("/caches/{cache}/tokens", &body.to_string()).await;
        require_problem(&refused, 422, "invalid_fields");
    }
    assert_eq!(audit_length(&site).await, before, "nothing was changed");
    // What is only unusual comes back as it was.
    for name in ["\"><script>alert(1)</script>", "a\u{202e}b", "שלום", "🦀", "{{7*7}}", "' OR 1=1 --"] {
        let created = client.post("/caches/{cache}/tokens", &json!({ "name": name }).to_string()).await;
        assert_eq!(created.status, 201, "{name}: {}", created.body);
        assert_eq!(super::json(&created)["name"], name);
        assert_eq!(created.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn every_wrong_field_is_told_at_once() {
    let (_site, client) = start().await;
    let body = json!({ "name": "", "permissions": { "scopes": [], "key_prefix": "a b", "expires_at": "tomorrow",
        "allow_from": ["::1", "10.0.0.1/8"] } });
    let problem = require_problem(
        &client.post("/caches/{cache}/tokens", &body.to_string()).await,
        422,
        "invalid_fields",
    );
    let errors = problem["errors"].as_array().unwrap();
    let fields: Vec<&str> = errors.iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "name",
            "permissions.scopes",
            "permissions.key_prefix",
            "permissions.expires_at",
            "permissions.allow_from[1]"
        ]
    );
    assert!(errors[4]["message"].as_str().unwrap().contains("Write 10.0.0.0/8"));
    for (body, field) in [
        (r#"{}"#, "name"),
        (r#"{"name":"x","name":"y"}"#, "name"),
        (r#"{"name":"x","nmae":"y"}"#, "nmae"),
        (r#"{"name":"x","permissions":{"scopes":["read","admin"]}}"#, "permissions.scopes[1]"),
        (r#"{"name":"x","permissions":["read"]}"#, "permissions"),
    ] {
        let problem =
            require_problem(&client.post("/caches/{cache}/tokens", body).await, 422, "invalid_fields");
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
}

#[tokio::test]
async fn parameters_are_checked() {
    let (_site, client) = start().await;
    for path in [
        "/caches?limit=0",
        "/caches?limit=-1",
        "/caches?limit=1e2",
        "/caches?limit=99999999999999999999999",
        "/caches?cursor=%00",
        "/caches?cursor=AA",
        "/caches?x=1",
        "/activity?cursor=eA",
        "/caches/{cache}/usage?from=yesterday",
        "/caches/{cache}/usage?to=2026-13-01T00:00:00Z",
        "/caches/{cache}/usage?cursor=eA",
        "/caches/{cache}/statistics/history?range=year",
        "/caches/{cache}/statistics/history?range=hour&range=day",
        "/caches/{cache}/connections?limit=x",
        "/caches/{cache}/denials?limit=x",
        "/caches/{cache}/operations?limit=x",
        "/tokens/{token}/certificates?limit=x",
    ] {
        let problem = require_problem(&client.get(path).await, 400, "invalid_request");
        assert!(problem.to_string().len() < 2_000, "{path}");
    }
    let long = format!("/caches?cursor={}", "A".repeat(5_000));
    require_problem(&client.get(&long).await, 400, "invalid_request");
}

// W-1, W-24.
#[tokio::test]
async fn every_answer_has_security_headers_and_is_not_stored() {
    let (_site, client) = start().await;
    for response in [
        client.get("/account").await,
        client.get("/nothing").await,
        client.send("PUT", "/caches", &[], "").await,
        client.post("/caches", "nonsense").await,
        client.send("GET", "/account", &[("Authorization", "x")], "").await,
        client.send("GET", "/openapi.json", &[("Authorization", "x")], "").await,
    ] {
        assert_eq!(response.header("cache-control"), Some("no-store"), "{}", response.body);
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert!(response.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert!(response.header("content-type").unwrap().starts_with("application/"));
    }
}

// F-4.
#[tokio::test]
async fn an_outage_of_the_store_is_told() {
    let (site, client) = start().await;
    site.store.close().await;
    let refused = client.get("/account").await;
    require_problem(&refused, 503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    let document = Client { key: String::new(), ..client.clone() }.get("/openapi.json").await;
    assert_eq!(document.status, 200);
}

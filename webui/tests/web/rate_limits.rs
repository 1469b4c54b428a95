//! Rate limits and size limits.

use crate::harness::{PASSWORD, Site};

// W-8.
#[tokio::test]
async fn sign_ins_are_limited_per_user_and_client() {
    let site = Site::start().await;
    site.sign_up_user("a@example.com").await;
    site.sign_up_user("b@example.com").await;
    let mut visitor = site.visitor();
    for attempt in 0..5 {
        assert_eq!(visitor.sign_in("a@example.com", "wrong horse").await.status, 401, "{attempt}");
    }
    let refused = visitor.sign_in(" A@EXAMPLE.com", PASSWORD).await;
    assert_eq!(refused.status, 429);
    assert!(refused.body.contains("Too many attempts. Try again in "));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(site.visitor().sign_in("b@example.com", PASSWORD).await.status, 303, "another user");
}

#[tokio::test]
async fn valid_sign_ups_are_limited_per_client() {
    let site = Site::start_with(|config| config.limits.sign_ups_per_hour = 5).await;
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    for _ in 0..20 {
        let response = visitor.post("/sign-up", &[("email", "a@example.com"), ("password", "short")]).await;
        assert_eq!(response.status, 422);
    }
    site.sign_up_user("taken@example.com").await;
    for _ in 0..4 {
        let fields = [("email", "taken@example.com"), ("password", PASSWORD)];
        assert_eq!(visitor.post("/sign-up", &fields).await.status, 409);
    }
    let fields = [("email", "new@example.com"), ("password", PASSWORD)];
    let refused = visitor.post("/sign-up", &fields).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.field("email").as_deref(), Some("new@example.com"));
    assert!(site.store.user_by_email("new@example.com").await.unwrap().is_none());
    // X-Forwarded-For of an untrusted peer is ignored.
    visitor.headers.push(("X-Forwarded-For".into(), "203.0.113.1".into()));
    assert_eq!(visitor.post("/sign-up", &fields).await.status, 429);
}

// W-8, R-31.
#[tokio::test]
async fn valid_sign_ups_are_limited_per_network() {
    let site = Site::start_with(|config| {
        config.limits.sign_ups_per_hour = 1;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    site.sign_up_user("taken@example.com").await;
    let sign_up = async |client: &str, email: &str| {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        visitor.headers.push(("X-Forwarded-For".into(), client.into()));
        visitor.post("/sign-up", &[("email", email), ("password", PASSWORD)]).await.status
    };
    for subnet in 0..10 {
        let client = format!("2001:db8:1:{subnet}::1");
        assert_eq!(sign_up(&client, "taken@example.com").await, 409, "{client}");
    }
    assert_eq!(sign_up("2001:db8:1:10::1", "a@example.com").await, 429, "another /64 of the same /48");
    assert_eq!(site.limited("sign_up_network"), 1);
    assert_eq!(sign_up("2001:db8:2::1", "a@example.com").await, 200, "another network");
}

// W-10.
#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_limited_separately() {
    let site = Site::start_with(|config| {
        config.limits.sign_ups_per_hour = 1;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    for (email, client, status) in [
        ("a@example.com", "203.0.113.1", 200),
        ("b@example.com", "203.0.113.1", 429),
        ("b@example.com", "203.0.113.2", 200),
        ("c@example.com", "2001:db8::1", 200),
        ("d@example.com", "2001:db8::2", 429),
    ] {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        visitor.headers.push(("X-Forwarded-For".into(), client.into()));
        let response = visitor.post("/sign-up", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!(response.status, status, "{email} {client}");
    }
}

// W-8.
#[tokio::test]
async fn new_tokens_are_limited_per_user() {
    let site = Site::start_with(|config| config.limits.tokens_at_once = 1000).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..22 {
        visitor.get("/caches/{cache}/tokens").await;
        statuses.push(visitor.post("/caches/{cache}/tokens", &[("name", "x")]).await.status);
    }
    assert_eq!(statuses, [[200; 20].as_slice(), &[429; 2]].concat());
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    other.get("/caches/{cache}/tokens").await;
    assert_eq!(other.post("/caches/{cache}/tokens", &[("name", "x")]).await.status, 200);
}

// each is an entry in the audit log, which is kept for ever.
#[tokio::test]
async fn uses_of_the_right_password_are_limited_per_user() {
    let site = Site::start_with(|config| {
        config.limits.sign_ins_per_minute = 1000;
        config.limits.sign_ins_per_source_per_minute = 1000;
    })
    .await;
    site.sign_up_user("a@example.com").await;
    site.sign_up_user("b@example.com").await;
    let mut signed_in = site.visitor();
    for _ in 0..60 {
        signed_in = site.visitor();
        assert_eq!(signed_in.sign_in("a@example.com", PASSWORD).await.status, 303);
    }
    let length = site.store.audit_length().await.unwrap();
    let refused = site.visitor_from([127, 2, 0, 1]).sign_in("a@example.com", PASSWORD).await;
    assert_eq!(refused.status, 429, "from another network, too");
    assert!(refused.header("retry-after").is_some());
    signed_in.get("/account").await;
    let fields = [("current_password", PASSWORD), ("new_password", "another horse battery")];
    assert_eq!(signed_in.post("/account/password", &fields).await.status, 429);
    assert_eq!(site.store.audit_length().await.unwrap(), length);
    assert_eq!(site.limited("password_uses"), 2);
    assert_eq!(site.visitor().sign_in("a@example.com", "wrong horse").await.status, 401, "says no more");
    assert_eq!(site.visitor().sign_in("b@example.com", PASSWORD).await.status, 303, "another user");
}

//
#[tokio::test]
async fn pages_are_limited_per_session_and_user() {
    let site = Site::start_with(|config| config.limits.pages_per_minute = 10).await;
    let (mut first, _) = site.sign_up_user("a@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(first.get("/account").await.status);
    }
    assert_eq!(statuses, [[200; 10].as_slice(), &[429; 2]].concat());
    let refused = first.get("/caches/{cache}/tokens").await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some(), "any page");
    let mut second = site.visitor();
    assert_eq!(second.sign_in("a@example.com", PASSWORD).await.status, 303);
    for _ in 0..10 {
        assert_eq!(second.get("/account").await.status, 200, "another session");
    }
    let mut third = site.visitor();
    assert_eq!(third.sign_in("a@example.com", PASSWORD).await.status, 303);
    assert_eq!(third.get("/account").await.status, 429, "the user has twice as many");
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    assert_eq!(other.get("/account").await.status, 200);
    assert_eq!(site.limited("pages"), 4);
}

//
#[tokio::test]
async fn closes_of_connections_are_limited_per_hour() {
    let site = Site::start_with(|config| config.limits.connections_per_minute = 1000).await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    ann.get("/caches/{cache}/tokens").await;
    let mut statuses = Vec::new();
    for _ in 0..101 {
        statuses.push(ann.post("/caches/{cache}/connections/close", &[("id", "x")]).await.status);
    }
    assert_eq!(statuses, [[400; 100].as_slice(), &[429]].concat());
}

// W-9.
#[tokio::test]
async fn bodies_are_limited_to_16_kib() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    for (size, status) in [(16 * 1024 - 200, 422), (16 * 1024 + 1, 413), (1 << 20, 413)] {
        visitor.get("/caches/{cache}/tokens").await;
        let response = visitor.post("/caches/{cache}/tokens", &[("name", &"x".repeat(size))]).await;
        assert_eq!(response.status, status, "{size}");
    }
    let length = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99999999999\r\n\r\n";
    let request = visitor.request_head("POST", "/caches/{cache}/tokens") + length;
    assert_eq!(visitor.send(request.as_bytes()).await.status, 413, "declared, never sent");
}

//! CSRF protection: forms count from our own pages only.

use crate::harness::{PASSWORD, Site};

// W-6, R-22.
#[tokio::test]
async fn forms_of_other_sites_are_rejected() {
    let site = Site::start().await;
    let (mut user, page) = site.sign_up_user("a@example.com").await;
    user.get("/caches/{cache}/tokens").await;
    let host = site.address.to_string();
    let own_origin = format!("http://{host}");
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("Sec-Fetch-Site", "cross-site")], 403),
        (&[("Sec-Fetch-Site", "same-site")], 403),
        (&[("Origin", "https://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Origin", "http://127.0.0.1:1")], 403),
        (&[("Origin", &own_origin)], 200),
        (&[("Sec-Fetch-Site", "same-origin"), ("Origin", &own_origin)], 200),
        (&[], 200),
    ];
    for (headers, status) in cases {
        user.headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let response = user.post("/caches/{cache}/tokens", &[("name", "x")]).await;
        assert_eq!(response.status, *status, "{headers:?}");
        let revoke = format!("/tokens/{}/revoke", page.tokens()[0]);
        if *status == 403 {
            assert_eq!(user.post(&revoke, &[]).await.status, 403);
            assert_eq!(user.post(&revoke.replace("revoke", "certificates"), &[]).await.status, 403);
            assert_eq!(
                user.post(&revoke.replace("revoke", "edit"), &[("has_scopes", "1")]).await.status,
                403
            );
            assert_eq!(user.post("/sign-out", &[]).await.status, 403);
            for path in
                ["/account/password", "/account/delete", "/account/notifications", "/account/webhooks"]
            {
                let fields = [
                    ("current_password", PASSWORD),
                    ("new_password", "another battery"),
                    ("password", PASSWORD),
                ];
                assert_eq!(user.post(path, &fields).await.status, 403, "{path}");
            }
        }
    }
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    assert_eq!(site.store.tokens_of_user(&user.id).await.unwrap().len(), 4);
}

// W-6, R-22.
#[tokio::test]
async fn forms_without_their_csrf_token_are_rejected() {
    let site = Site::start().await;
    let (mut user, page) = site.sign_up_user("a@example.com").await;
    let [revoke, certify, change] =
        ["revoke", "certificates", "edit"].map(|to| format!("/tokens/{}/{to}", page.tokens()[0]));
    let other = "0".repeat(64);
    for path in [
        "/caches/{cache}/tokens",
        "/sign-out",
        &revoke,
        &certify,
        &change,
        "/account/password",
        "/account/delete",
        "/account/notifications",
        "/account/webhooks",
        "/account/webhooks/aaaaaaaaaaaaaaaaaaaaaaaa/delete",
    ] {
        for fields in [vec![], vec![("csrf_token", "")], vec![("csrf_token", &*other)]] {
            let mut fields = fields.clone();
            fields.push(("name", "x"));
            assert_eq!(user.post_without_token(path, &fields).await.status, 403, "{path} {fields:?}");
        }
    }
    let fields = [("email", "b@example.com"), ("password", PASSWORD)];
    for path in ["/sign-up", "/sign-in"] {
        // A CSRF token without its cookie is rejected.
        let mut anonymous = site.visitor();
        assert_eq!(anonymous.post_without_token(path, &fields).await.status, 403);
        assert_eq!(site.visitor().post(path, &fields).await.status, 403, "an empty token");
        let mut forger = site.visitor();
        forger.csrf_token = other.clone();
        assert_eq!(forger.post(path, &fields).await.status, 403);
        forger.cookies.insert("memgate-csrf".into(), String::new());
        forger.csrf_token = String::new();
        assert_eq!(forger.post(path, &fields).await.status, 403);
    }
    assert_eq!(site.store.users().await.unwrap().len(), 1);
}

#[tokio::test]
async fn other_content_types_are_rejected() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let token = user.csrf_token.clone();
    for (kind, body) in [
        ("application/json", format!("{{\"name\":\"x\",\"csrf_token\":\"{token}\"}}")),
        ("text/plain", format!("name=x&csrf_token={token}")),
        ("application/x-www-form-urlencoded", format!("name=x&name=y&csrf_token={token}")),
    ] {
        let length = body.len();
        let request = user.request_head("POST", "/caches/{cache}/tokens")
            + &format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}");
        assert_eq!(user.send(request.as_bytes()).await.status, 400, "{kind} {body}");
    }
}

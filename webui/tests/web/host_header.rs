//! The `Host` header decides nothing: a name that leads to this server may be an attacker's.

use crate::harness::{PASSWORD, Response, Site, Visitor};

const FOREIGN: &str = "rebound.example:8080";

/// Sends a request with another `Host`.
async fn send(visitor: &mut Visitor, request: &str) -> Response {
    let host = format!("Host: {}\r\n", visitor.address);
    assert!(request.contains(&host));
    visitor.send(request.replace(&host, &format!("Host: {FOREIGN}\r\n")).as_bytes()).await
}

fn sign_up(visitor: &Visitor, headers: &str) -> String {
    let password = PASSWORD.replace(' ', "+");
    let body = format!("email=a%40example.com&password={password}&csrf_token={}", visitor.csrf_token);
    format!(
        "{}{headers}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        visitor.request_head("POST", "/sign-up"),
        body.len()
    )
}

// V-12.
#[tokio::test]
async fn pages_contain_nothing_of_it() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    for path in [
        "/",
        "/sign-in",
        "/caches",
        "/account",
        "/caches/{cache}/tokens",
        "/nothing",
        "/ca.pem",
        "/assets/page.js",
    ] {
        let expected = user.get(path).await;
        let request = user.request_head("GET", path) + "X-Forwarded-Host: rebound.example\r\n\r\n";
        let response = send(&mut user, &request).await;
        assert_eq!(response.status, expected.status, "{path}");
        assert_eq!(response.body, expected.body, "{path}");
        assert!(!format!("{:?}", response.headers).contains("rebound"), "{path}: {:?}", response.headers);
    }
}

// V-12, W-6.
#[tokio::test]
async fn forms_of_a_name_that_an_attacker_points_here_are_refused() {
    let site = Site::start().await;
    let mut visitor = site.visitor();
    visitor.get("/sign-up").await;
    // Over plain HTTP to such a name, browsers send no Sec-Fetch-Site. The page has the form's token: it is of one
    // origin with it.
    let request = sign_up(&visitor, &format!("Origin: http://{FOREIGN}\r\n"));
    let refused = send(&mut visitor, &request).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert!(refused.body.contains("webui.base_url"), "{}", refused.body);
    assert_eq!(site.limited("cross_origin"), 1);
    assert!(site.store.users().await.unwrap().is_empty());
}

// V-12.
#[tokio::test]
async fn forms_behind_a_proxy_need_no_host() {
    let site = Site::start_with(|config| config.base_url = Some("http://cache.example.com".into())).await;
    for headers in ["Origin: http://cache.example.com\r\n", "Sec-Fetch-Site: same-origin\r\n"] {
        let mut visitor = site.visitor();
        visitor.get("/sign-up").await;
        let request = sign_up(&visitor, headers);
        let response = send(&mut visitor, &request).await;
        assert!([200, 409].contains(&response.status), "{headers}: {}", response.status);
    }
}

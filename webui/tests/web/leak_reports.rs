//! Reports of leaked tokens: complete tokens are revoked and announced to their users.

use std::time::{Duration, Instant};

use store::{Token, TokenId};

use crate::harness::{Response, Site, Visitor};

const URL: &str = "https://git.example/a/b/blob/main/.env";

async fn report(visitor: &mut Visitor, kind: &str, body: &str) -> Response {
    let head = visitor.request_head("POST", "/leaked-tokens");
    let request = format!("{head}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    visitor.send(request.as_bytes()).await
}

async fn report_json(visitor: &mut Visitor, body: &serde_json::Value) -> Response {
    report(visitor, "application/json", &body.to_string()).await
}

async fn is_revoked(site: &Site, id: &TokenId) -> bool {
    site.store.token(id).await.unwrap().unwrap().revoked_at.is_some()
}

fn revealed(page: &Response) -> Token {
    Token::parse(page.text("token").unwrap()).unwrap()
}

#[tokio::test]
async fn reported_tokens_are_revoked_and_announced_until_dismissed() {
    let site = Site::start().await;
    let (mut ann, page) = site.sign_up_user("ann@example.com").await;
    let (mut bob, bobs) = site.sign_up_user("bob@example.com").await;
    let (token, bobs) = (revealed(&page), revealed(&bobs));
    // The format of GitHub's partner program, with unknown and malformed tokens in between.
    let body = serde_json::json!([
        { "token": "mg_nonsense", "type": "memgate_token", "url": "", "source": "content" },
        { "token": Token::generate().reveal(), "type": "memgate_token", "url": URL, "source": "content" },
        { "token": token.reveal(), "type": "memgate_token", "url": URL, "source": "commit" },
        { "token": token.reveal(), "type": "memgate_token", "url": "https://second.example", "source": null },
    ]);
    let response = report_json(&mut site.visitor(), &body).await;
    assert_eq!((response.status, response.body.as_str()), (200, "{\"received\":4}"));
    assert!(is_revoked(&site, &token.id()).await && !is_revoked(&site, &bobs.id()).await);
    assert_eq!(site.metric("memgate_webui_leaked_tokens_total"), 1);

    let notice = format!("data-leaked-token=\"{}\"", token.id());
    for path in ["/", "/caches/{cache}/tokens", "/account"] {
        let page = ann.get(path).await;
        assert!(page.body.contains(&notice) && page.body.contains(URL), "{path}");
        assert!(!bob.get(path).await.body.contains("data-leaked-token"), "{path}");
    }
    assert!(
        ann.get("/caches/{cache}/tokens").await.body.contains(&format!("found in public at {URL}, revoked "))
    );
    let page = ann.get(&format!("/tokens/{}", token.id())).await;
    assert!(page.text("token-inactive").unwrap().starts_with(&format!("found in public at {URL}, revoked ")));
    let dismiss = format!("/tokens/{}/dismiss-leak", token.id());
    assert_eq!(bob.post(&dismiss, &[]).await.status, 404, "it isn't Bob's");
    assert_eq!(ann.get(&dismiss).await.status, 405);
    assert_eq!(ann.post_without_token(&dismiss, &[]).await.status, 403, "no form token");
    ann.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
    assert_eq!(ann.post(&dismiss, &[]).await.status, 403);
    ann.headers = vec![];
    assert!(ann.get("/caches/{cache}/tokens").await.body.contains(&notice));
    assert_eq!(ann.post(&dismiss, &[]).await.location(), "/caches");
    let page = ann.get("/caches/{cache}/tokens").await;
    assert!(!page.body.contains(&notice) && page.body.contains("found in public at "), "the reason stays");

    let entries = site.store.audit_after(0, 100).await.unwrap();
    let noted: Vec<_> = entries.iter().filter(|entry| entry.action == "token.leak").collect();
    assert_eq!((noted.len(), noted[0].actor.as_str()), (1, "reporter 127.0.0.1"));
    assert!(!format!("{entries:?}").contains(token.secret().reveal()));
}

#[tokio::test]
async fn a_single_report_may_be_an_object_or_a_form() {
    let site = Site::start().await;
    for (i, kind) in ["application/json", "application/x-www-form-urlencoded"].iter().enumerate() {
        let (_, page) = site.sign_up_user(&format!("{i}@example.com")).await;
        let token = revealed(&page);
        let body = if i == 0 {
            serde_json::json!({ "token": token.reveal(), "url": URL }).to_string()
        } else {
            format!("token={}&url=https%3A%2F%2Fgit.example", token.reveal())
        };
        let response = report(&mut site.visitor(), kind, &body).await;
        assert_eq!((response.status, response.body.as_str()), (200, "{\"received\":1}"), "{kind}");
        assert!(is_revoked(&site, &token.id()).await, "{kind}");
    }
}

#[tokio::test]
async fn the_response_does_not_tell_whether_a_token_is_valid() {
    let site = Site::start().await;
    let (_, page) = site.sign_up_user("a@example.com").await;
    let token = revealed(&page);
    let (id, mistyped) = (token.id(), token.reveal().replace('_', "-"));
    let username = id.username();
    let mut responses = Vec::new();
    for sent in [&username, &mistyped, &Token::generate().reveal(), &token.reveal(), &token.reveal()] {
        let revoked = is_revoked(&site, &id).await;
        let started = Instant::now();
        let response = report_json(&mut site.visitor(), &serde_json::json!([{ "token": sent }])).await;
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
        let headers: Vec<_> = response.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
        responses.push((response.status, headers, response.body));
        assert_eq!(is_revoked(&site, &id).await, revoked || *sent == token.reveal());
    }
    assert!(responses.iter().all(|response| *response == responses[0]), "{responses:?}");
}

#[tokio::test]
async fn a_session_alone_can_not_report() {
    let site = Site::start().await;
    let (mut ann, page) = site.sign_up_user("ann@example.com").await;
    let (id, token) = (revealed(&page).id(), ann.csrf_token.clone());
    // Everything that Ann's browser could send, except the token's secret.
    for body in [
        format!("token={}&csrf_token={token}", id.username()),
        format!("id={id}&csrf_token={token}"),
        format!("token=mg_{id}_{}&csrf_token={token}", "0".repeat(33)),
    ] {
        let response = report(&mut ann, "application/x-www-form-urlencoded", &body).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("set-cookie"), None);
    }
    assert!(!is_revoked(&site, &id).await);
    // Cross-origin requests are rejected, even with a complete token.
    let whole = revealed(&page).reveal();
    for header in ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example"] {
        let body = format!("token={whole}");
        let head = ann.request_head("POST", "/leaked-tokens");
        let request = format!(
            "{head}{header}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(ann.send(request.as_bytes()).await.status, 403, "{header}");
    }
    assert!(!is_revoked(&site, &id).await);
}

#[tokio::test]
async fn malformed_and_large_reports_are_rejected() {
    let site = Site::start_with(|config| config.limits.leak_reports_per_minute = 13).await;
    let mut scanner = site.visitor();
    let many = |n: usize| serde_json::json!(vec![serde_json::json!({ "token": "x" }); n]).to_string();
    for (kind, body, status) in [
        ("application/json", "", 400),
        ("application/json", "{", 400),
        ("application/json", "[[]]", 400),
        ("application/json", "[\"mg_x\"]", 400),
        ("application/json", "7", 400),
        ("application/json", "[]", 200),
        ("text/plain", "mg_x", 400),
        ("", "mg_x", 400),
        ("application/json; charset=utf-8", &many(200), 200),
        ("application/json", &many(201), 413),
        ("application/json", &" ".repeat(64 * 1024 + 1), 413),
        ("application/x-www-form-urlencoded", "token=x&token=y", 400),
    ] {
        let response = report(&mut scanner, kind, body).await;
        assert_eq!(response.status, status, "{kind} {}", &body[..body.len().min(40)]);
    }
    assert_eq!(scanner.get("/leaked-tokens").await.status, 405);
    assert_eq!(report(&mut scanner, "application/json", "[]").await.status, 200, "the thirteenth");
    let refused = report(&mut scanner, "application/json", "[]").await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some());
}

#[tokio::test]
async fn reported_text_is_escaped() {
    let site = Site::start().await;
    let (mut ann, page) = site.sign_up_user("ann@example.com").await;
    let token = revealed(&page);
    let url = format!("\"><script>alert(1)</script>\u{202e}{}", token.reveal());
    let body = serde_json::json!({ "token": token.reveal(), "url": url, "source": "<b>" });
    assert_eq!(report_json(&mut site.visitor(), &body).await.status, 200);
    let page = ann.get("/caches/{cache}/tokens").await;
    assert!(page.body.contains("data-leaked-token") && !page.body.contains("<script>"));
    assert!(!page.body.contains(token.secret().reveal()) && !page.body.contains('\u{202e}'));
}

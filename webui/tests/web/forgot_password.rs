//! Forgotten passwords: from the form through the mail to a changed sign-in, and what an attacker may try on the way.

use crate::harness::{PASSWORD, Response, Site, Visitor, eventually};
use crate::mail::ask_for_link;
use crate::mail_server::MailServer;

const EMAIL: &str = "a@example.com";
const NEW: &str = "a better battery";

async fn site(server: &MailServer) -> Site {
    Site::start_with(|config| server.configure(config)).await
}

/// Follows a link and sets a password.
async fn set_password(visitor: &mut Visitor, link: &str, password: &str) -> Response {
    // For a form token, also if the link isn't valid.
    visitor.get("/forgot-password").await;
    visitor.get(link).await;
    visitor.get("/reset-password").await;
    visitor.post("/reset-password", &[("new_password", password)]).await
}

// W-16.
#[tokio::test]
async fn forgotten_password_is_replaced() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (mut signed_in, page) = site.sign_up_user(EMAIL).await;
    let mut other = site.sign_up_user("b@example.com").await.0;
    let mut visitor = site.visitor();
    assert!(visitor.get("/sign-in").await.body.contains("href=\"/forgot-password\""));
    ask_for_link(&site, " A@Example.com ").await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();

    let followed = visitor.get(&link).await;
    assert_eq!((followed.status, followed.location()), (303, "/reset-password"));
    let form = visitor.get("/reset-password").await;
    assert_eq!((form.status, form.text("reset-email")), (200, Some(EMAIL)));
    let short = visitor.post("/reset-password", &[("new_password", "short")]).await;
    assert!(short.status == 422 && short.text("new-password-error").is_some());
    let set = visitor.post("/reset-password", &[("new_password", NEW)]).await;
    assert_eq!((set.status, set.location()), (303, "/sign-in?reset"));
    assert!(visitor.get("/sign-in?reset").await.text("password-reset").is_some());

    assert_eq!(signed_in.get("/caches").await.location(), "/sign-in?next=/caches", "its sessions end");
    assert_eq!(other.get("/caches").await.status, 303, "one cache: redirected to it");
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.status, 401);
    assert_eq!(site.visitor().sign_in(EMAIL, NEW).await.status, 303);
    assert_eq!(site.visitor().sign_in("b@example.com", PASSWORD).await.status, 303);
    assert_eq!(server.mail_to(EMAIL, 2).await.subject(), "Your password was changed");
    visitor.sign_in(EMAIL, NEW).await;
    visitor.cache = signed_in.cache.clone();
    assert_eq!(visitor.get("/caches/{cache}/tokens").await.tokens(), page.tokens(), "tokens stay");

    let entries = site.store.audit_after(0, 100).await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert!(actions.contains(&"user.reset_link") && actions.contains(&"user.password"), "{actions:?}");
    let code = link.rsplit('/').next().unwrap();
    assert!(!format!("{entries:?}").contains(code), "the log has no code");
}

// W-16.
#[tokio::test]
async fn following_a_link_changes_nothing() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    site.sign_up_user(EMAIL).await;
    ask_for_link(&site, EMAIL).await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    for _ in 0..3 {
        // Each is another program that looks at links.
        let mut scanner = site.visitor();
        let response = scanner.get(&link).await;
        assert_eq!(response.status, 303);
        assert_eq!(response.header_values("referrer-policy"), ["no-referrer"]);
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let page = scanner.get("/reset-password").await;
        assert!(page.status == 200 && !page.body.contains(link.rsplit('/').next().unwrap()));
    }
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.status, 303);
    let mut visitor = site.visitor();
    assert_eq!(set_password(&mut visitor, &link, NEW).await.status, 303);
    // Once only.
    assert_eq!(set_password(&mut site.visitor(), &link, "yet another one").await.status, 410);
    let again = visitor.post("/reset-password", &[("new_password", "yet another one")]).await;
    assert_eq!(again.status, 410);
    assert_eq!(site.visitor().sign_in(EMAIL, NEW).await.status, 303);
}

// W-16.
#[tokio::test]
async fn links_end_with_the_password_and_are_not_guessed() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    ask_for_link(&site, EMAIL).await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    user.get("/account").await;
    let fields = [("current_password", PASSWORD), ("new_password", NEW)];
    assert_eq!(user.post("/account/password", &fields).await.status, 303);
    assert_eq!(set_password(&mut site.visitor(), &link, "yet another one").await.status, 410);
    assert_eq!(server.mail_to(EMAIL, 2).await.subject(), "Your password was changed");
    let made_up = [
        "/links/x".to_owned(),
        format!("/links/{}", "a".repeat(56)),
        format!("/links/{}", "é".repeat(28)),
        link[..link.len() - 1].to_owned(),
        format!("{}{}", &link[..link.len() - 1], if link.ends_with('0') { '1' } else { '0' }),
    ];
    for link in &made_up {
        assert_eq!(site.visitor().get(link).await.status, 410, "{link}");
    }
    assert_eq!(site.visitor().get("/reset-password").await.status, 410, "without any link");
    assert_eq!(site.visitor().sign_in(EMAIL, NEW).await.status, 303);
}

// W-16, R-5.
#[tokio::test]
async fn answer_does_not_tell_whether_an_account_exists() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    site.sign_up_user(EMAIL).await;
    let mut answers = Vec::new();
    for email in [EMAIL, "nobody@example.com"] {
        let mut visitor = site.visitor();
        visitor.get("/forgot-password").await;
        let answer = visitor.post("/forgot-password", &[("email", email)]).await;
        let page = visitor.get("/forgot-password?sent").await;
        assert!(!page.body.contains(email));
        let headers = answer.headers.into_iter().filter(|(name, _)| name != "date");
        answers.push((
            answer.status,
            headers.collect::<Vec<_>>(),
            answer.body,
            page.text("sent").map(str::to_owned),
        ));
    }
    assert_eq!(answers[0], answers[1]);
    server.mail_to(EMAIL, 1).await;
    let not_sent = "memgate_webui_mails_total{outcome=\"not_sent\"}";
    eventually("the other isn't sent", async || site.find_metric(not_sent) == Some(1)).await;
    assert_eq!(server.received().len(), 1);
}

// W-17.
#[tokio::test]
async fn requests_and_mails_are_limited() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    site.sign_up_user(EMAIL).await;
    for n in 0..8_u8 {
        let mut visitor = site.visitor_from([127, 0, 1, n]);
        visitor.get("/forgot-password").await;
        assert_eq!(visitor.post("/forgot-password", &[("email", EMAIL)]).await.status, 303);
    }
    let not_sent = "memgate_webui_mails_total{outcome=\"not_sent\"}";
    eventually("three aren't sent", async || site.find_metric(not_sent) == Some(3)).await;
    server.mail_to(EMAIL, 5).await;
    assert_eq!(server.received().len(), 5);
    // One source, whatever the address.
    let mut visitor = site.visitor_from([127, 0, 2, 1]);
    visitor.get("/forgot-password").await;
    for n in 0..10 {
        let email = format!("{n}@example.com");
        assert_eq!(visitor.post("/forgot-password", &[("email", &email)]).await.status, 303, "{n}");
    }
    let refused = visitor.post("/forgot-password", &[("email", "11@example.com")]).await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some());
    assert_eq!(refused.field("email").as_deref(), Some("11@example.com"), "what was typed is kept");
    assert!(refused.text("email-error").is_some());
    assert_eq!(site.limited("mail_requests_source"), 1);
}

// W-16.
#[tokio::test]
async fn link_of_one_user_does_nothing_for_another() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    site.sign_up_user(EMAIL).await;
    let (mut bob, _) = site.sign_up_user("b@example.com").await;
    ask_for_link(&site, EMAIL).await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    // Bob has the link and is signed in: it is still about the other account, and says so.
    bob.get(&link).await;
    assert_eq!(bob.get("/reset-password").await.text("reset-email"), Some(EMAIL));
    assert_eq!(bob.get("/confirm-email").await.status, 410, "a link does one thing only");
    assert_eq!(bob.post("/reset-password", &[("new_password", NEW)]).await.status, 303);
    assert_eq!(site.visitor().sign_in(EMAIL, NEW).await.status, 303);
    assert_eq!(site.visitor().sign_in("b@example.com", PASSWORD).await.status, 303);
    assert_eq!(bob.get("/account").await.status, 200, "Bob's session goes on");
}

// W-6.
#[tokio::test]
async fn forms_need_their_token() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (user, _) = site.sign_up_user(EMAIL).await;
    ask_for_link(&site, EMAIL).await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    let mut visitor = site.visitor();
    visitor.get(&link).await;
    visitor.get("/reset-password").await;
    for path in ["/forgot-password", "/reset-password", "/confirm-email", "/account/email"] {
        let fields =
            [("email", EMAIL), ("new_password", NEW), ("new_email", "c@example.com"), ("password", PASSWORD)];
        let mut sender = if path.starts_with("/account") { user.clone() } else { visitor.clone() };
        assert_eq!(sender.post_without_token(path, &fields).await.status, 403, "{path}");
        sender.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
        assert_eq!(sender.post(path, &fields).await.status, 403, "{path}");
    }
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.status, 303);
}

#[tokio::test]
async fn without_a_mail_server_the_page_says_whom_to_ask() {
    let site = Site::start_with(|config| config.contact = Some("ops@example.org".into())).await;
    let mut visitor = site.visitor();
    let page = visitor.get("/forgot-password").await;
    assert!(page.text("no-mail").is_some() && page.text("forgot-password-form").is_none());
    assert!(
        page.body.contains("mailto:ops@example.org") && page.body.contains("memgate user reset-password")
    );
    assert_eq!(visitor.post("/forgot-password", &[("email", EMAIL)]).await.status, 403);
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    assert!(user.get("/account/email").await.text("no-mail").is_some());
    let fields = [("new_email", "c@example.com"), ("password", PASSWORD)];
    assert_eq!(user.post("/account/email", &fields).await.status, 403);
}

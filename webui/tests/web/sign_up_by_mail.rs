//! Sign-up with a confirmed address, for some domains only, and by invitation.

use std::time::Duration;

use webui::SignUp;

use crate::harness::{PASSWORD, Response, Site, Visitor, eventually};
use crate::mail_server::MailServer;

const EMAIL: &str = "a@example.com";

async fn site(server: &MailServer, sign_up: SignUp) -> Site {
    Site::start_with(|config| {
        server.configure(config);
        config.confirm_email = true;
        config.sign_up = sign_up;
        config.sign_up_domains = vec!["example.com".into()];
    })
    .await
}

async fn ask(visitor: &mut Visitor, email: &str) -> Response {
    visitor.get("/sign-up").await;
    visitor.post("/sign-up", &[("email", email), ("password", PASSWORD)]).await
}

/// Follows a link and chooses a password.
async fn create(visitor: &mut Visitor, link: &str, password: &str) -> Response {
    visitor.get("/sign-up").await;
    visitor.get(link).await;
    visitor.get("/sign-up/confirm").await;
    visitor.post("/sign-up/confirm", &[("password", password)]).await
}

// W-20.
#[tokio::test]
async fn account_exists_once_its_address_is_confirmed() {
    let server = MailServer::start().await;
    let site = site(&server, SignUp::Open).await;
    let mut visitor = site.visitor();
    assert_eq!(visitor.get("/sign-up").await.field("password"), None, "asked for with the link");
    assert_eq!(ask(&mut visitor, "nonsense").await.status, 422);
    let asked = ask(&mut visitor, EMAIL).await;
    assert_eq!((asked.status, asked.location()), (303, "/sign-up?sent"));
    assert!(visitor.get("/sign-up?sent").await.text("sent").is_some());
    let mail = server.mail_to(EMAIL, 1).await;
    assert_eq!(mail.subject(), "Create your account");
    assert!(site.store.users().await.unwrap().is_empty() && site.store.instances().await.unwrap().is_empty());
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.status, 401);

    // Programs that follow the link create nothing.
    let mut other_browser = site.visitor();
    assert_eq!(other_browser.get(mail.link()).await.location(), "/sign-up/confirm");
    assert_eq!(other_browser.get("/sign-up/confirm").await.text("sign-up-email"), Some(EMAIL));
    assert!(site.store.users().await.unwrap().is_empty());
    let short = create(&mut other_browser, mail.link(), "short").await;
    assert!(short.status == 422 && short.text("password-error").is_some());
    assert_eq!(
        other_browser.post_without_token("/sign-up/confirm", &[("password", PASSWORD)]).await.status,
        403
    );
    let created = create(&mut other_browser, mail.link(), PASSWORD).await;
    assert!(created.status == 200 && created.text("token").is_some(), "{}", created.body);
    assert_eq!(other_browser.get("/account").await.text("account-email"), Some(EMAIL));
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.status, 303);
    // Once only.
    assert_eq!(create(&mut site.visitor(), mail.link(), PASSWORD).await.status, 410);
    assert_eq!(site.store.users().await.unwrap().len(), 1);
}

// W-20, R-5.
#[tokio::test]
async fn address_with_an_account_is_told_by_mail_only() {
    let server = MailServer::start().await;
    let site = site(&server, SignUp::Open).await;
    let mut visitor = site.visitor();
    ask(&mut visitor, EMAIL).await;
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    create(&mut visitor, &link, PASSWORD).await;
    let mut answers = Vec::new();
    for email in [EMAIL, "new@example.com"] {
        let answer = ask(&mut site.visitor(), email).await;
        answers.push((answer.status, answer.location().to_owned(), answer.body));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(server.mail_to(EMAIL, 2).await.subject(), "You have an account already");
    assert_eq!(server.mail_to("new@example.com", 1).await.subject(), "Create your account");
}

// W-20.
#[tokio::test]
async fn only_addresses_of_certain_domains_sign_up() {
    let server = MailServer::start().await;
    let site = site(&server, SignUp::Domains).await;
    let mut visitor = site.visitor();
    assert!(visitor.get("/sign-up").await.text("domains").is_some());
    let refused = ask(&mut visitor, "a@evil.example").await;
    assert_eq!((refused.status, refused.field("email").as_deref()), (422, Some("a@evil.example")));
    assert!(refused.text("email-error").unwrap().contains("example.com"));
    assert_eq!(ask(&mut visitor, EMAIL).await.status, 303);
    let link = server.mail_to(EMAIL, 1).await.link().to_owned();
    assert_eq!(create(&mut visitor, &link, PASSWORD).await.status, 200);
    assert_eq!(server.received().len(), 1);
}

// W-17.
#[tokio::test]
async fn links_that_make_accounts_are_limited() {
    let server = MailServer::start().await;
    let site = site(&server, SignUp::Open).await;
    let mut visitor = site.visitor();
    for n in 0..10 {
        assert_eq!(ask(&mut visitor, EMAIL).await.status, 303, "{n}");
    }
    let refused = ask(&mut visitor, EMAIL).await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some());
    let not_sent = "memgate_webui_mails_total{outcome=\"not_sent\"}";
    eventually("the rest isn't sent", async || site.find_metric(not_sent) == Some(5)).await;
    server.mail_to(EMAIL, 5).await;
}

// W-20.
#[tokio::test]
async fn invitation_creates_an_account_where_sign_up_is_closed() {
    let server = MailServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("token.key");
    let key = store::TokenKey::load_or_create(&key).unwrap();
    let site = Site::start_in(folder, |config| {
        server.configure(config);
        config.sign_up = SignUp::Closed;
    })
    .await;
    let age = Duration::from_secs(60);
    let id = site.store.invite("ada@other.example", age, None).await.unwrap();
    let link = format!("/links/{}", key.link_code(&id));
    let mut visitor = site.visitor();
    assert!(visitor.get("/sign-up").await.text("sign-up-closed").is_some());
    visitor.get("/sign-in").await;
    assert_eq!(visitor.post("/sign-up", &[("email", EMAIL), ("password", PASSWORD)]).await.status, 403);
    visitor.get(&link).await;
    visitor.get("/sign-up/confirm").await;
    let created = visitor.post("/sign-up/confirm", &[("password", PASSWORD)]).await;
    assert_eq!(created.status, 200, "{}", created.body);
    assert_eq!(site.visitor().sign_in("ada@other.example", PASSWORD).await.status, 303);
    // Sent by mail, if the operator wants: the web UI finds it in the store.
    let limits = store::MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
    site.store.invite("bob@other.example", age, Some(&limits)).await.unwrap();
    assert_eq!(server.mail_to("bob@other.example", 1).await.subject(), "You are invited");
}

//! Another e-mail address: confirmed at the new one, told to the old one.

use crate::harness::{PASSWORD, Response, Site, Visitor};
use crate::mail::ask_for_link;
use crate::mail_server::MailServer;

const OLD: &str = "a@example.com";
const NEW: &str = "c@example.com";

async fn site(server: &MailServer) -> Site {
    Site::start_with(|config| server.configure(config)).await
}

async fn ask(visitor: &mut Visitor, email: &str, password: &str) -> Response {
    visitor.get("/account/email").await;
    visitor.post("/account/email", &[("new_email", email), ("password", password)]).await
}

// W-18.
#[tokio::test]
async fn address_changes_once_it_is_confirmed() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (mut user, _) = site.sign_up_user(OLD).await;
    ask_for_link(&site, OLD).await;
    let reset = server.mail_to(OLD, 1).await.link().to_owned();
    assert!(user.get("/account").await.body.contains("href=\"/account/email\""));
    for (email, password, status, error) in [
        ("nonsense", PASSWORD, 422, "new-email-error"),
        (OLD, PASSWORD, 422, "new-email-error"),
        (NEW, "wrong horse battery", 401, "password-error"),
    ] {
        let response = ask(&mut user, email, password).await;
        assert_eq!(response.status, status, "{email}");
        assert!(response.text(error).is_some() && response.field("new_email").as_deref() == Some(email));
    }
    let asked = ask(&mut user, NEW, PASSWORD).await;
    assert_eq!((asked.status, asked.location()), (303, "/account/email?sent"));
    assert!(user.get("/account/email?sent").await.text("sent").is_some());
    assert_eq!(server.mail_to(OLD, 2).await.subject(), "Another e-mail address was asked for");
    let link = server.mail_to(NEW, 1).await.link().to_owned();
    // Nothing has changed, also after programs have followed the link.
    site.visitor().get(&link).await;
    assert_eq!(site.visitor().sign_in(NEW, PASSWORD).await.status, 401);
    assert_eq!(site.visitor().sign_in(OLD, PASSWORD).await.status, 303);

    // Confirmed in another browser.
    let mut visitor = site.visitor();
    assert_eq!(visitor.get(&link).await.location(), "/confirm-email");
    assert_eq!(visitor.get("/confirm-email").await.text("confirm-email"), Some(NEW));
    let confirmed = visitor.post("/confirm-email", &[]).await;
    assert_eq!((confirmed.status, confirmed.location()), (303, "/confirm-email?done"));
    assert!(visitor.get("/confirm-email?done").await.text("email-changed").is_some());
    assert_eq!(site.visitor().sign_in(OLD, PASSWORD).await.status, 401);
    assert_eq!(site.visitor().sign_in(NEW, PASSWORD).await.status, 303);
    assert_eq!(user.get("/account").await.text("account-email"), Some(NEW), "the session goes on");
    assert_eq!(server.mail_to(OLD, 3).await.subject(), "Your e-mail address was changed");
    // Links that were sent before are useless.
    for link in [&link, &reset] {
        assert_eq!(site.visitor().get(link).await.status, 410);
    }
}

// W-18.
#[tokio::test]
async fn address_of_somebody_else_is_not_revealed() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (mut user, _) = site.sign_up_user(OLD).await;
    site.sign_up_user("b@example.com").await;
    let free = ask(&mut user, NEW, PASSWORD).await;
    let page_free = user.get("/account/email?sent").await.body;
    let taken = ask(&mut user, "b@example.com", PASSWORD).await;
    assert_eq!((free.status, free.location()), (taken.status, taken.location()));
    let without_token = |body: String, token: &str| body.replace(token, "");
    let token = user.csrf_token.clone();
    let page_taken = user.get("/account/email?sent").await.body;
    assert_eq!(without_token(page_free, &token), without_token(page_taken, &token));
    let told = server.mail_to("b@example.com", 1).await;
    assert_eq!(told.subject(), "You have an account already");
    assert!(!told.text.contains("/links/"));
    // Only the newest link of an account counts.
    let link = server.mail_to(NEW, 1).await.link().to_owned();
    assert_eq!(site.visitor().get(&link).await.status, 410);
    assert_eq!(site.visitor().sign_in("b@example.com", PASSWORD).await.status, 303);
}

// W-18.
#[tokio::test]
async fn address_that_was_taken_meanwhile_stays_with_its_owner() {
    let server = MailServer::start().await;
    let site = site(&server).await;
    let (mut user, _) = site.sign_up_user(OLD).await;
    ask(&mut user, NEW, PASSWORD).await;
    let link = server.mail_to(NEW, 1).await.link().to_owned();
    site.sign_up_user(NEW).await;
    let mut visitor = site.visitor();
    visitor.get(&link).await;
    visitor.get("/confirm-email").await;
    assert_eq!(visitor.post("/confirm-email", &[]).await.status, 410);
    assert_eq!(site.visitor().sign_in(OLD, PASSWORD).await.status, 303);
    assert_eq!(site.visitor().sign_in(NEW, PASSWORD).await.status, 303);
    assert_eq!(site.store.users().await.unwrap().len(), 2);
}

// W-18, W-17.
#[tokio::test]
async fn password_change_undoes_the_request_and_mails_are_limited() {
    let server = MailServer::start().await;
    let site = Site::start_with(|config| {
        server.configure(config);
        config.limits.sign_ins_per_minute = 100;
        config.limits.mails_per_hour = 2;
    })
    .await;
    let (mut user, _) = site.sign_up_user(OLD).await;
    ask(&mut user, NEW, PASSWORD).await;
    let link = server.mail_to(NEW, 1).await.link().to_owned();
    user.get("/account").await;
    let fields = [("current_password", PASSWORD), ("new_password", "a better battery")];
    assert_eq!(user.post("/account/password", &fields).await.status, 303);
    assert_eq!(site.visitor().get(&link).await.status, 410);
    assert_eq!(ask(&mut user, "d@example.com", "a better battery").await.status, 303);
    let refused = ask(&mut user, "e@example.com", "a better battery").await;
    assert!(refused.status == 429 && refused.text("new-email-error").is_some(), "{}", refused.status);
    assert_eq!(site.limited("mails"), 1);
}

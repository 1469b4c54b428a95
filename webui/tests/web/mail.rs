//! Sending mail: through TLS, with a login, and while the mail server is away or refuses.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{DEADLINE, Site, eventually};
use crate::mail_server::{MailServer, PASSWORD, Security};

const EMAIL: &str = "a@example.com";

/// Asks for a link to set a new password.
pub(crate) async fn ask_for_link(site: &Site, email: &str) {
    let mut visitor = site.visitor();
    visitor.get("/forgot-password").await;
    let asked = visitor.post("/forgot-password", &[("email", email)]).await;
    assert_eq!((asked.status, asked.location()), (303, "/forgot-password?sent"), "{}", asked.body);
}

// W-19.
#[tokio::test]
async fn mail_is_sent_through_tls_after_a_login() {
    for security in [Security::StartTls, Security::Tls] {
        let server = MailServer::start_with(security).await;
        let folder = tempfile::tempdir().unwrap();
        let (password, authority) = (folder.path().join("password"), folder.path().join("authority.pem"));
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&authority, &server.authority).unwrap();
        let site = Site::start_with(|config| {
            server.configure(config);
            config.mail.password_file = Some(password);
            config.mail.ca_certificate = Some(authority);
        })
        .await;
        site.sign_up_user(EMAIL).await;
        ask_for_link(&site, EMAIL).await;
        let mail = server.mail_to(EMAIL, 1).await;
        assert_eq!(mail.subject(), "Set a new password", "{security:?}");
        assert!(mail.text.contains("From: memgate <noreply@memgate.test>"), "{}", mail.text);
    }
}

// W-19.
#[tokio::test]
async fn nothing_is_sent_to_a_server_that_proves_nothing() {
    // One that another authority vouches for, and one without TLS.
    let foreign = MailServer::start_with(Security::Tls).await;
    let plain = MailServer::start().await;
    for server in [&foreign, &plain] {
        let port = server.address.port();
        let site = Site::start_with(|config| {
            server.configure(config);
            config.mail.server = Some(format!("smtps://mailer@localhost:{port}"));
            config.mail.password = Some(PASSWORD.into());
        })
        .await;
        site.sign_up_user(EMAIL).await;
        ask_for_link(&site, EMAIL).await;
        let tries = "memgate_webui_mails_total{outcome=\"retried\"}";
        eventually("an attempt", async || site.find_metric(tries) >= Some(1)).await;
        assert!(server.received().is_empty());
        eventually("it waits", async || site.metric("memgate_webui_waiting_mails") == 1).await;
    }
}

// W-19.
#[tokio::test]
async fn mail_waits_while_the_server_is_away() {
    let server = MailServer::start().await;
    let site = Site::start_with(|config| server.configure(config)).await;
    server.set_away(true);
    // At one mail alone it may fail because of the recipient.
    for email in [EMAIL, "b@example.com"] {
        site.sign_up_user(email).await;
        ask_for_link(&site, email).await;
    }
    let mut visitor = site.visitor();
    eventually("the page says so", async || {
        let page = visitor.clone().get("/forgot-password?sent").await;
        page.body.contains("the mail is sent as soon as it can")
    })
    .await;
    server.set_away(false);
    // It is tried again after 5 seconds, or after 15 or 35 if this test was slow.
    let link = server.mail_within(3 * DEADLINE, EMAIL, 1).await.link().to_owned();
    assert_eq!(visitor.get(&link).await.location(), "/reset-password");
    eventually("none waits", async || site.metric("memgate_webui_waiting_mails") == 0).await;
    assert!(!visitor.get("/forgot-password?sent").await.body.contains("as soon as it can"));
    assert!(site.stop().await);
}

#[tokio::test]
async fn refused_mail_is_tried_again_or_given_up() {
    for (reply, outcome, waiting) in [
        ("550 no such user", "failed", 0),
        ("501 bad address", "failed", 0),
        ("504 not implemented", "failed", 0),
        ("521 takes no mail", "failed", 0),
        ("451 later", "retried", 1),
    ] {
        let server = MailServer::start().await;
        server.answer_recipients(reply);
        let site = Site::start_with(|config| server.configure(config)).await;
        site.sign_up_user(EMAIL).await;
        ask_for_link(&site, EMAIL).await;
        let metric = format!("memgate_webui_mails_total{{outcome=\"{outcome}\"}}");
        eventually("an attempt", async || site.find_metric(&metric) == Some(1)).await;
        eventually("counted", async || site.metric("memgate_webui_waiting_mails") == waiting).await;
        // The server took another mail: it isn't away.
        let page = site.visitor().get("/forgot-password?sent").await;
        assert!(!page.body.contains("as soon as it can"), "{reply}");
        assert!(server.received().is_empty());
    }
}

// W-19.
#[tokio::test]
async fn one_bad_address_does_not_stop_other_mail() {
    let server = MailServer::start().await;
    let (bad, worse) = ("bad@example.com", "worse@example.com");
    for address in [bad, worse] {
        server.answer_recipient(address, "421 their server is away");
    }
    let site = Site::start_with(|config| server.configure(config)).await;
    for email in [EMAIL, bad, worse] {
        site.sign_up_user(email).await;
    }
    let tries = "memgate_webui_mails_total{outcome=\"retried\"}";
    let is_away =
        async || site.visitor().get("/forgot-password?sent").await.body.contains("as soon as it can");
    ask_for_link(&site, bad).await;
    eventually("an attempt", async || site.find_metric(tries) == Some(1)).await;
    eventually("it waits", async || site.metric("memgate_webui_waiting_mails") == 1).await;
    assert!(!is_away().await);
    ask_for_link(&site, EMAIL).await;
    server.mail_to(EMAIL, 1).await;
    // The server fails at two mails in a row.
    ask_for_link(&site, worse).await;
    eventually("it is away", is_away).await;
    ask_for_link(&site, EMAIL).await;
    server.mail_to(EMAIL, 2).await;
    assert!(site.stop().await);
}

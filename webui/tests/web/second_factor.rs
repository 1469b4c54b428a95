//! Second factors: set up with a device, asked for at sign-in and for changes, and what somebody with the password alone can try.

use std::time::{SystemTime, UNIX_EPOCH};

use totp_rs::{Builder, Secret, Totp};

use crate::harness::{PASSWORD, Response, Site, Visitor};
use crate::mail_server::MailServer;

const EMAIL: &str = "a@example.com";
const NEW: &str = "a better battery";

/// Seconds that a code is shown.
const STEP_SECONDS: u64 = 30;

/// The user's device, which shows codes.
pub(crate) struct Device {
    totp: Totp,
    /// That of the last code, or 0.
    last_step: u64,
}

impl Device {
    pub(crate) fn new(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret.replace(' ', "")).unwrap();
        Self { totp: Builder::new().with_secret(secret).build().unwrap(), last_step: 0 }
    }

    /// A code that wasn't returned before: that of now, or the one after the last. It is taken for 30 seconds or more. A
    /// third one within 30 seconds would come too early.
    pub(crate) fn next_code(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / STEP_SECONDS;
        self.last_step = now.max(self.last_step + 1);
        self.last_code()
    }

    /// The code that was returned last.
    fn last_code(&self) -> String {
        self.totp.generate(self.last_step * STEP_SECONDS).to_string()
    }
}

/// Sets a second factor up; returns the device and the recovery codes. The device's last code is used up.
async fn set_up(user: &mut Visitor) -> (Device, Vec<String>) {
    user.get("/account/second-factor").await;
    let begun = user.post("/account/second-factor/begin", &[("password", PASSWORD)]).await;
    assert_eq!(begun.status, 303, "{}", begun.body);
    let page = user.get("/account/second-factor").await;
    let mut device = Device::new(page.text("secret").unwrap());
    let on = user.post("/account/second-factor/confirm", &[("code", &device.next_code())]).await;
    assert_eq!(on.status, 200, "{}", on.body);
    let codes: Vec<String> =
        on.body.split("<li><code>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect();
    assert_eq!(codes.len(), 10);
    (device, codes)
}

async fn enter(visitor: &mut Visitor, code: &str) -> Response {
    // For a form token, also if no sign-in waits.
    visitor.get("/sign-in").await;
    visitor.get("/sign-in/code").await;
    visitor.post("/sign-in/code", &[("code", code), ("next", "/account")]).await
}

// W-21.
#[tokio::test]
async fn sign_in_needs_a_code_once_it_is_on() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    assert!(user.get("/account/second-factor").await.text("factor-off").is_some());
    let wrong = user.post("/account/second-factor/begin", &[("password", "wrong horse battery")]).await;
    assert!(wrong.status == 401 && wrong.text("password-error").is_some());
    user.post("/account/second-factor/begin", &[("password", PASSWORD)]).await;
    // Not on before a code has proved that the device works.
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.location(), "/caches");
    let refused = user.post("/account/second-factor/confirm", &[("code", "000000")]).await;
    assert!(refused.status == 401 && refused.text("code-error").is_some());
    let image = user.get("/account/second-factor/qr.svg").await;
    assert_eq!(image.header("content-type"), Some("image/svg+xml"));
    assert_eq!(image.header("cache-control"), Some("no-store"));
    assert!(image.body.contains("<svg"));
    let (mut device, _) = set_up(&mut user).await;
    assert!(user.get("/account/second-factor").await.text("factor-on").is_some());
    assert_eq!(user.get("/account/second-factor/qr.svg").await.status, 404, "not shown again");

    let mut visitor = site.visitor();
    visitor.get("/sign-in").await;
    let fields = [("email", EMAIL), ("password", PASSWORD), ("next", "/caches/x/usage")];
    let first = visitor.post("/sign-in", &fields).await;
    assert_eq!((first.status, first.location()), (303, "/sign-in/code?next=/caches/x/usage"));
    assert!(!visitor.cookies.contains_key("memgate") && visitor.cookies.contains_key("memgate-code"));
    assert_eq!(visitor.get("/account").await.status, 303, "not signed in");
    let used = enter(&mut visitor, &device.last_code()).await;
    assert!(used.status == 401 && used.text("code-error").is_some(), "the code that switched it on");
    let second = enter(&mut visitor, &device.next_code()).await;
    assert_eq!((second.status, second.location()), (303, "/account"), "{}", second.body);
    assert_eq!(visitor.get("/account").await.text("account-email"), Some(EMAIL));
    // The same code, and the same sign-in, again.
    let mut other = site.visitor();
    other.sign_in(EMAIL, PASSWORD).await;
    assert_eq!(enter(&mut other, &device.last_code()).await.status, 401);
    assert_eq!(enter(&mut site.visitor(), &device.last_code()).await.location(), "/sign-in?expired");
    let entries = site.store.audit_after(0, 100).await.unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry.action == "user.second_factor" && entry.detail.starts_with("switched on"))
    );
    assert!(entries.iter().any(|entry| entry.detail.ends_with(", with a code")));
}

// W-21.
#[tokio::test]
async fn switching_it_on_signs_out_everywhere_else() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    let mut other = site.visitor();
    assert_eq!(other.sign_in(EMAIL, PASSWORD).await.location(), "/caches");
    let (mut device, _) = set_up(&mut user).await;
    assert_eq!(other.get("/account").await.location(), "/sign-in?next=/account");
    assert_eq!(user.get("/account").await.status, 200, "the one that has switched it on");
    // Who waits for a code elsewhere is signed out, too.
    let mut waiting = site.visitor();
    assert_eq!(waiting.sign_in(EMAIL, PASSWORD).await.status, 303);
    user.get("/account").await;
    assert_eq!(user.post("/account/sessions/end-others", &[]).await.location(), "/account?ended");
    assert_eq!(enter(&mut waiting, &device.next_code()).await.location(), "/sign-in?expired");
}

// W-21.
#[tokio::test]
async fn recovery_codes_sign_in_once_each() {
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    let (mut device, codes) = set_up(&mut user).await;
    let sign_in = async |code: &str| {
        let mut visitor = site.visitor();
        visitor.sign_in(EMAIL, PASSWORD).await;
        enter(&mut visitor, code).await.status
    };
    assert_eq!(sign_in(&codes[0].to_uppercase()).await, 303);
    assert_eq!(sign_in(&codes[0]).await, 401);
    assert!(user.get("/account/second-factor").await.text("codes-left").unwrap().starts_with("9 "));
    let fields = [("password", PASSWORD), ("code", codes[1].as_str())];
    let renewed = user.post("/account/second-factor/codes", &fields).await;
    assert!(renewed.status == 200 && !renewed.body.contains(&codes[2]));
    assert_eq!(sign_in(&codes[2]).await, 401, "the former ones end");
    let wrong =
        user.post("/account/second-factor/remove", &[("password", PASSWORD), ("code", "000000")]).await;
    assert!(wrong.status == 401 && wrong.text("remove-code-error").is_some());
    let code = device.next_code();
    let wrong = user.post("/account/second-factor/remove", &[("password", "x"), ("code", &code)]).await;
    assert!(wrong.status == 401 && wrong.text("remove-password-error").is_some());
    assert_eq!(
        user.post("/account/second-factor/remove", &[("password", PASSWORD), ("code", &code)]).await.status,
        303
    );
    assert_eq!(site.visitor().sign_in(EMAIL, PASSWORD).await.location(), "/caches");
}

// W-21.
#[tokio::test]
async fn somebody_with_the_password_alone_gets_nowhere() {
    let server = MailServer::start().await;
    let site = Site::start_with(|config| {
        server.configure(config);
        config.limits.sign_ins_per_minute = 100;
    })
    .await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    set_up(&mut user).await;
    assert_eq!(server.mail_to(EMAIL, 1).await.subject(), "Your second factor is on");
    // Five codes of one sign-in, twenty in an hour.
    for sign_in in 0..4 {
        let mut visitor = site.visitor();
        visitor.sign_in(EMAIL, PASSWORD).await;
        for n in 0..4 {
            assert_eq!(enter(&mut visitor, "000000").await.status, 401, "{sign_in} {n}");
        }
        let last = enter(&mut visitor, "000000").await;
        assert_eq!((last.status, last.location()), (303, "/sign-in?expired"));
        assert!(visitor.get("/sign-in?expired").await.text("code-expired").is_some());
    }
    let mut visitor = site.visitor();
    visitor.sign_in(EMAIL, PASSWORD).await;
    assert_eq!(enter(&mut visitor, "000000").await.status, 429);
    assert_eq!(site.limited("codes"), 1);
    assert_eq!(server.mail_to(EMAIL, 2).await.subject(), "Somebody knows your password");
    // Their own second factor doesn't help, nor does a sign-in of their own.
    let (mut eve, _) = site.sign_up_user("eve@example.com").await;
    let (mut device, _) = set_up(&mut eve).await;
    let mut visitor = site.visitor();
    visitor.sign_in("eve@example.com", PASSWORD).await;
    let own = visitor.cookies["memgate-code"].clone();
    visitor.sign_in(EMAIL, PASSWORD).await;
    assert_ne!(visitor.cookies["memgate-code"], own);
    assert_ne!(enter(&mut visitor, &device.next_code()).await.location(), "/account");
    assert_eq!(visitor.get("/account").await.status, 303);
}

// W-21.
#[tokio::test]
async fn wrong_codes_are_told_and_leave_recovery_codes() {
    let server = MailServer::start().await;
    let site = Site::start_with(|config| {
        server.configure(config);
        config.limits.sign_ins_per_minute = 100;
    })
    .await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    let (_, codes) = set_up(&mut user).await;
    server.mail_to(EMAIL, 1).await;
    // No sign-in tries all of its codes.
    for sign_in in 0..5 {
        let mut visitor = site.visitor();
        visitor.sign_in(EMAIL, PASSWORD).await;
        for n in 0..4 {
            assert_eq!(enter(&mut visitor, "000000").await.status, 401, "{sign_in} {n}");
        }
        // After the first of the second.
        if sign_in == 1 {
            assert_eq!(server.mail_to(EMAIL, 2).await.subject(), "Somebody knows your password");
        }
    }
    assert_eq!(server.mail_to(EMAIL, 3).await.subject(), "Somebody knows your password", "none is left");
    let mut visitor = site.visitor();
    visitor.sign_in(EMAIL, PASSWORD).await;
    assert_eq!(enter(&mut visitor, "000000").await.status, 429);
    assert_eq!(enter(&mut visitor, "aaaaa-aaaaa").await.status, 401);
    assert_eq!(enter(&mut visitor, &codes[0]).await.location(), "/account");
    assert_eq!(server.received().len(), 3, "told once for each reason");
}

// W-21.
#[tokio::test]
async fn changes_need_a_code_too() {
    let server = MailServer::start().await;
    let site = Site::start_with(|config| {
        server.configure(config);
        config.limits.sign_ins_per_minute = 100;
    })
    .await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    let (mut device, codes) = set_up(&mut user).await;
    let page = user.get("/account").await;
    assert!(page.body.contains("id=\"password-code\"") && page.body.contains("id=\"delete-code\""));
    let change = [("current_password", PASSWORD), ("new_password", NEW)];
    let refused = user.post("/account/password", &change).await;
    assert!(refused.status == 401 && refused.text("password-code-error").is_some());
    let refused = user.post("/account/delete", &[("password", PASSWORD), ("code", "123456")]).await;
    assert!(refused.status == 401 && refused.text("delete-code-error").is_some());
    let email = [("new_email", "c@example.com"), ("password", PASSWORD)];
    let refused = user.post("/account/email", &email).await;
    assert!(refused.status == 401 && refused.text("email-code-error").is_some());
    assert_eq!(user.post("/account/email", &[email[0], email[1], ("code", &codes[0])]).await.status, 303);
    // A link to set a new password doesn't get around it.
    crate::mail::ask_for_link(&site, EMAIL).await;
    server.mail_to(EMAIL, 3).await;
    let link = server.received().into_iter().find(|mail| mail.subject() == "Set a new password").unwrap();
    let mut thief = site.visitor();
    thief.get(link.link()).await;
    thief.get("/reset-password").await;
    assert_eq!(thief.post("/reset-password", &[("new_password", NEW)]).await.location(), "/sign-in?reset");
    assert_eq!(thief.sign_in(EMAIL, NEW).await.location(), "/sign-in/code?next=/caches");
    assert_eq!(enter(&mut thief, "000000").await.status, 401);
    // The owner signs in with the device, and the change of the password has ended sign-ins that waited.
    let mut owner = site.visitor();
    owner.sign_in(EMAIL, NEW).await;
    assert_eq!(enter(&mut owner, &device.next_code()).await.location(), "/account");
    let fields = [("current_password", NEW), ("new_password", PASSWORD), ("code", codes[1].as_str())];
    owner.get("/account").await;
    assert_eq!(owner.post("/account/password", &fields).await.status, 303);
    assert_eq!(enter(&mut thief, &codes[2]).await.location(), "/sign-in?expired");
    owner.get("/account").await;
    let gone = owner.post("/account/delete", &[("password", PASSWORD), ("code", &codes[3])]).await;
    assert_eq!(gone.location(), "/sign-in?deleted");
}

// W-6, W-11.
#[tokio::test]
async fn forms_need_their_token_and_pages_a_session() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user(EMAIL).await;
    for action in ["begin", "confirm", "cancel", "codes", "remove"] {
        let path = format!("/account/second-factor/{action}");
        let fields = [("password", PASSWORD), ("code", "000000")];
        assert_eq!(user.post_without_token(&path, &fields).await.status, 403, "{path}");
        assert_eq!(site.visitor().post(&path, &fields).await.status, 303, "{path}");
    }
    assert_eq!(site.visitor().get("/account/second-factor/qr.svg").await.status, 303);
    let mut forger = site.visitor();
    for made_up in ["0".repeat(64), "x".to_owned()] {
        forger.cookies.insert("memgate-code".into(), made_up);
        assert_eq!(enter(&mut forger, "000000").await.location(), "/sign-in?expired");
    }
    assert_eq!(site.visitor().post_without_token("/sign-in/code", &[("code", "000000")]).await.status, 403);
    user.post("/account/second-factor/begin", &[("password", PASSWORD)]).await;
    user.get("/account/second-factor").await;
    assert_eq!(user.post("/account/second-factor/cancel", &[]).await.status, 303);
    assert!(user.get("/account/second-factor").await.text("factor-off").is_some());
}

//! Administrators enter their password again before they change something.

use store::UserState;

use super::{ADA, ADMIN, cache, id, last_entry, set_admin, site, site_with, submit};
use crate::harness::{PASSWORD, Response, Site, Visitor, eventually};

/// How long a password counts where a test waits for the end of that: longer than a few requests take on a busy machine.
const VALID_SECONDS: u64 = 10;

async fn state(site: &Site) -> UserState {
    site.store.user_by_email(ADA).await.unwrap().unwrap().state
}

fn asks(page: &Response) -> bool {
    page.body.contains("name=\"password\"")
}

/// Waits until the form of a change asks for the password.
async fn password_counts_no_more(admin: &Visitor, form: &str) {
    eventually("the form asks for the password", || {
        let mut admin = admin.clone();
        async move { asks(&admin.get(form).await) }
    })
    .await;
}

// M-2.
#[tokio::test]
async fn a_password_counts_for_a_while() {
    let (site, mut admin, _) = site_with(|config| {
        config.admin_password_seconds = VALID_SECONDS;
        config.limits.pages_per_minute = 100_000;
    })
    .await;
    let user = id(&site, ADA).await;
    let (suspend, resume) = (format!("/admin/users/{user}/suspend"), format!("/admin/users/{user}/resume"));
    password_counts_no_more(&admin, &suspend).await;
    for (password, status, text) in
        [("", 422, "Enter your own password"), ("wrong password", 401, "Wrong password.")]
    {
        let refused = admin.post(&suspend, &[("password", password)]).await;
        assert_eq!(refused.status, status);
        assert!(refused.text("password-error").unwrap().contains(text), "{}", refused.body);
        assert!(refused.body.contains("aria-describedby=\"password-hint password-error\""));
        assert_eq!(state(&site).await, UserState::Active);
    }
    let led = admin.post(&suspend, &[("password", PASSWORD)]).await;
    assert_eq!(led.status, 303, "{}", led.body);
    assert_eq!(state(&site).await, UserState::Suspended);
    let entries = site.store.audit_of_user(&id(&site, ADMIN).await, 2).await.unwrap();
    let (actor, user_actor) =
        (format!("admin {}", id(&site, ADMIN).await), format!("user {}", id(&site, ADMIN).await));
    assert_eq!((&*entries[0].entry.action, &entries[0].entry.actor), ("user.suspend", &actor));
    assert_eq!((&*entries[1].entry.action, &entries[1].entry.actor), ("user.confirm", &user_actor));
    let page = admin.get(&resume).await;
    assert!(!asks(&page), "it was entered just now");
    assert_eq!(admin.post(&resume, &[]).await.status, 303);
    password_counts_no_more(&admin, &suspend).await;
    assert_eq!(admin.post(&suspend, &[]).await.status, 422, "it counts no more");
    assert_eq!(state(&site).await, UserState::Active);
}

// M-2.
#[tokio::test]
async fn what_gives_an_account_away_or_ends_it_always_asks() {
    let (site, mut admin, _) = site().await;
    let user = id(&site, ADA).await;
    for (action, fields) in [("delete", vec![("typed", ADA)]), ("reset-password", vec![])] {
        let path = format!("/admin/users/{user}/{action}");
        let refused = submit(&mut admin, &path, &fields).await;
        assert_eq!(refused.status, 422, "{action}");
        assert!(refused.text("password-error").is_some(), "{action}");
    }
    assert!(site.store.user(&user).await.unwrap().is_some());
    let (_, action, _) = last_entry(&site).await;
    assert_eq!(action, "user.update", "that of the test");
}

// M-2, W-8: the limits of sign-ins are those of this form, too.
#[tokio::test]
async fn attempts_are_limited_as_sign_ins_are() {
    let (site, mut admin, _) = site().await;
    let path = format!("/admin/users/{}/delete", id(&site, ADA).await);
    admin.get(&path).await;
    for attempt in 0..5 {
        let refused = admin.post(&path, &[("typed", ADA), ("password", "wrong password")]).await;
        assert_eq!(refused.status, 401, "{attempt}");
    }
    let limited = admin.post(&path, &[("typed", ADA), ("password", PASSWORD)]).await;
    assert_eq!(limited.status, 429);
    assert!(limited.header("retry-after").is_some());
    assert!(limited.text("password-error").unwrap().starts_with("Too many attempts."));
    assert_eq!(site.limited("sign_in_account"), 1);
    let mut browser = site.visitor();
    assert_eq!(browser.sign_in(ADMIN, PASSWORD).await.status, 429, "they count together");
    assert!(site.store.user_by_email(ADA).await.unwrap().is_some());
}

// M-2: no more than an administrator has to do.
#[tokio::test]
async fn changes_are_limited() {
    let (site, mut admin, _) = site().await;
    let path = format!("/admin/users/{}/end-sessions", id(&site, ADA).await);
    admin.get(&path).await;
    for change in 0..120 {
        assert_eq!(admin.post(&path, &[]).await.status, 303, "{change}");
    }
    let limited = admin.post(&path, &[]).await;
    assert_eq!(limited.status, 429);
    assert!(limited.text("form-error").unwrap().contains("too much in a short time"), "{}", limited.body);
    assert_eq!(site.limited("admin_changes"), 1);
    let cache = cache(&site, ADA).await.id;
    assert_eq!(submit(&mut admin, &format!("/admin/caches/{cache}/suspend"), &[]).await.status, 429);
    assert_eq!(admin.get("/admin/users").await.status, 200, "pages are not");
    // Another administrator goes on.
    let (mut other, _) = site.sign_up_user("other@example.com").await;
    set_admin(&site, "other@example.com", true).await;
    assert_eq!(submit(&mut other, &path, &[]).await.status, 303);
}

//! Account page: changing the password, deleting the account.

use crate::harness::{PASSWORD, Site, Visitor};

const NEW: &str = "a better battery";

async fn change_password(visitor: &mut Visitor, current: &str, new: &str) -> crate::harness::Response {
    visitor.get("/account").await;
    visitor.post("/account/password", &[("current_password", current), ("new_password", new)]).await
}

// W-4.
#[tokio::test]
async fn changing_the_password_ends_every_other_session() {
    let site = Site::start().await;
    let (mut here, page) = site.sign_up_user("a@example.com").await;
    let token = page.tokens().remove(0);
    let (mut stolen, mut elsewhere) = (here.clone(), site.visitor());
    assert_eq!(elsewhere.sign_in("a@example.com", PASSWORD).await.status, 303);
    let (mut other, _) = site.sign_up_user("b@example.com").await;

    assert!(here.get("/account").await.body.contains("a@example.com"));
    let changed = change_password(&mut here, PASSWORD, NEW).await;
    assert_eq!((changed.status, changed.location()), (303, "/account?changed=0"));
    let response = here.get("/account?changed=0").await;
    assert!(response.status == 200 && response.text("password-changed").is_some());
    for mut gone in [stolen.clone(), elsewhere] {
        assert_eq!(gone.get("/caches").await.location(), "/sign-in?next=/caches", "signed out");
    }
    assert_eq!(
        stolen.post("/caches/{cache}/tokens", &[("name", "mine")]).await.location(),
        "/sign-in?next=/caches"
    );
    assert_eq!(other.get("/caches/{cache}/tokens").await.status, 200, "somebody else's goes on");
    assert_eq!(here.get("/caches/{cache}/tokens").await.tokens(), [token], "tokens stay");
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 401);
    assert_eq!(site.visitor().sign_in("a@example.com", NEW).await.status, 303);
}

#[tokio::test]
async fn revoke_tokens_option_revokes_every_token() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    user.get("/caches/{cache}/tokens").await;
    user.post("/caches/{cache}/tokens", &[("name", "second")]).await;
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    user.get("/account").await;
    let fields = [("current_password", PASSWORD), ("new_password", NEW), ("revoke_tokens", "on")];
    let response = user.post("/account/password", &fields).await;
    assert_eq!(response.location(), "/account?changed=2");
    assert!(user.get("/account?changed=2").await.body.contains("2 tokens were revoked"));
    assert_eq!(user.get("/caches/{cache}/tokens").await.tokens(), [""; 0]);
    assert_eq!(other.get("/caches/{cache}/tokens").await.tokens().len(), 1);
    let id = site.store.user_by_email("a@example.com").await.unwrap().unwrap().id;
    let entries = site.store.audit_after(0, 100).await.unwrap();
    let noted: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.actor == format!("user {id}"))
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(noted, ["token.create", "token.revoke", "token.revoke", "user.password"]);
    assert!(!format!("{entries:?}").contains(NEW));
}

#[tokio::test]
async fn rejected_changes_leave_the_password_as_it_was() {
    let site = Site::start().await;
    let (mut user, page) = site.sign_up_user("a@example.com").await;
    for (current, new, status, error_id) in [
        (PASSWORD, "short", 422, "new-password-error"),
        (PASSWORD, "", 422, "new-password-error"),
        ("wrong horse battery", NEW, 401, "current-password-error"),
        ("", NEW, 401, "current-password-error"),
    ] {
        let response = change_password(&mut user, current, new).await;
        assert_eq!(response.status, status, "{current} {new}");
        assert!(response.text(error_id).is_some_and(|text| !text.is_empty()), "{}", response.body);
        assert!(!response.body.contains(NEW), "passwords don't come back");
    }
    let response = user.post("/account/delete", &[("password", "wrong horse battery")]).await;
    assert_eq!(response.status, 401);
    assert!(response.text("delete-error").is_some());
    // Three of five attempts are used. Two more reach the limit, which the sign-in page shares.
    for _ in 0..2 {
        assert_eq!(change_password(&mut user, "wrong horse battery", NEW).await.status, 401);
    }
    let refused = change_password(&mut user, PASSWORD, NEW).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(user.post("/account/delete", &[("password", PASSWORD)]).await.status, 429);
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 429);
    assert_eq!(user.get("/caches/{cache}/tokens").await.tokens(), page.tokens());
}

#[tokio::test]
async fn deleting_the_account_deletes_everything() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let mut elsewhere = user.clone();
    user.get("/account").await;
    let response = user.post("/account/delete", &[("password", PASSWORD)]).await;
    assert_eq!((response.status, response.location()), (303, "/sign-in?deleted"));
    assert!(!user.cookies.contains_key("memgate"));
    assert!(user.get("/sign-in?deleted").await.text("account-deleted").is_some());
    assert_eq!(elsewhere.get("/caches").await.location(), "/sign-in?next=/caches");
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 401);
    assert!(site.store.users().await.unwrap().is_empty());
    assert_eq!(site.sign_up_user("a@example.com").await.1.status, 200, "the address is free");
}

// W-4.
#[tokio::test]
async fn other_sessions_are_listed_and_ended() {
    let site = Site::start().await;
    let (mut here, _) = site.sign_up_user("a@example.com").await;
    let mut elsewhere = site.visitor_from([127, 0, 0, 2]);
    assert_eq!(elsewhere.sign_in("a@example.com", PASSWORD).await.status, 303);
    let (mut other, _) = site.sign_up_user("b@example.com").await;
    let page = here.get("/account").await;
    assert!(page.body.contains("From 127.0.0.2, signed in ") && page.body.contains("(this browser)"));
    assert_eq!(page.body.matches("signed in ").count(), 2, "{}", page.body);
    let ended = here.post("/account/sessions/end-others", &[]).await;
    assert_eq!((ended.status, ended.location()), (303, "/account?ended"));
    let page = here.get("/account?ended").await;
    assert!(page.text("sessions-ended").is_some() && page.text("end-sessions-form").is_none());
    assert_eq!(elsewhere.get("/account").await.status, 303);
    assert_eq!(other.get("/account").await.status, 200, "another user's");
    assert_eq!(here.post_without_token("/account/sessions/end-others", &[]).await.status, 403);
    // Without others, nothing is changed or noted, however often it is asked for.
    here.get("/account").await;
    let revision = site.store.revision().await.unwrap();
    for _ in 0..3 {
        assert_eq!(here.post("/account/sessions/end-others", &[]).await.status, 303);
    }
    assert_eq!(site.store.revision().await.unwrap(), revision);
    let entries = site.store.audit_after(0, 100).await.unwrap();
    let noted: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.action == "user.sessions")
        .map(|entry| entry.detail.as_str())
        .collect();
    assert_eq!(noted, ["other sessions ended: 1, sign-ins that waited for a code: 0"]);
}

// W-21: what one session sets up is neither shown to others of the user nor confirmed by them.
#[tokio::test]
async fn a_second_factor_is_set_up_in_one_session() {
    const PAGE: &str = "/account/second-factor";
    let site = Site::start_with(|config| config.limits.sign_ins_per_minute = 100).await;
    let (mut thief, _) = site.sign_up_user("a@example.com").await;
    let mut owner = site.visitor();
    owner.sign_in("a@example.com", PASSWORD).await;
    thief.get(PAGE).await;
    thief.post(&format!("{PAGE}/begin"), &[("password", PASSWORD)]).await;
    let secret = thief.get(PAGE).await.text("secret").unwrap().to_owned();
    let code = crate::second_factor::Device::new(&secret).next_code();
    let page = owner.get(PAGE).await;
    assert!(page.text("factor-off").is_some() && !page.body.contains(&secret), "{}", page.body);
    assert_eq!(owner.get(&format!("{PAGE}/qr.svg")).await.status, 404);
    let confirmed = owner.post(&format!("{PAGE}/confirm"), &[("code", &code)]).await;
    assert_eq!((confirmed.status, confirmed.location()), (303, PAGE), "nothing is confirmed");
    // It doesn't outlive the password.
    change_password(&mut owner, PASSWORD, NEW).await;
    owner.get(PAGE).await;
    owner.post(&format!("{PAGE}/begin"), &[("password", NEW)]).await;
    let page = owner.get(PAGE).await;
    let new_secret = page.text("secret").unwrap();
    assert_ne!(new_secret, secret);
}

#[tokio::test]
async fn a_suspended_account_is_not_deleted_to_begin_again() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let id = site.store.user_by_email("a@example.com").await.unwrap().unwrap().id;
    site.store.set_user_state(&id, store::UserState::Suspended).await.unwrap();
    user.get("/account").await;
    let refused = user.post("/account/delete", &[("password", PASSWORD)]).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text("delete-error").unwrap().contains("suspended"), "{}", refused.body);
    assert!(site.store.user(&id).await.unwrap().is_some());
}

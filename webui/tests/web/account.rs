//! One's own account: another password, and the end.

use crate::harness::{PASSWORD, Site, Visitor};

const NEW: &str = "a better battery";

async fn change(visitor: &mut Visitor, old: &str, new: &str) -> crate::harness::Answer {
    visitor.get("/account").await;
    visitor.post("/account/password", &[("old", old), ("new", new)]).await
}

// W-4.
#[tokio::test]
async fn a_new_password_ends_every_other_session() {
    let site = Site::start().await;
    let (mut here, page) = site.newcomer("a@example.com").await;
    let token = page.tokens().remove(0);
    let (mut stolen, mut elsewhere) = (here.clone(), site.visitor());
    assert_eq!(elsewhere.sign_in("a@example.com", PASSWORD).await.status, 303);
    let (mut other, _) = site.newcomer("b@example.com").await;

    assert!(here.get("/account").await.body.contains("a@example.com"));
    let changed = change(&mut here, PASSWORD, NEW).await;
    assert_eq!((changed.status, changed.location()), (303, "/account?changed=0"));
    let answer = here.get("/account?changed=0").await;
    assert!(answer.status == 200 && answer.text("password-changed").is_some());
    for mut gone in [stolen.clone(), elsewhere] {
        assert_eq!(gone.get("/cache").await.location(), "/sign-in?next=/cache", "signed out");
    }
    assert_eq!(stolen.post("/tokens", &[("name", "mine")]).await.location(), "/sign-in?next=/cache");
    assert_eq!(other.get("/cache").await.status, 200, "somebody else's goes on");
    assert_eq!(here.get("/cache").await.tokens(), [token], "tokens stay");
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 401);
    assert_eq!(site.visitor().sign_in("a@example.com", NEW).await.status, 303);
}

#[tokio::test]
async fn end_all_revokes_every_token() {
    let site = Site::start().await;
    let (mut user, _) = site.newcomer("a@example.com").await;
    user.get("/cache").await;
    user.post("/tokens", &[("name", "second")]).await;
    let (mut other, _) = site.newcomer("b@example.com").await;
    user.get("/account").await;
    let fields = [("old", PASSWORD), ("new", NEW), ("end_all", "on")];
    let answer = user.post("/account/password", &fields).await;
    assert_eq!(answer.location(), "/account?changed=2");
    assert!(user.get("/account?changed=2").await.body.contains("2 tokens were revoked"));
    assert_eq!(user.get("/cache").await.tokens(), [""; 0]);
    assert_eq!(other.get("/cache").await.tokens().len(), 1);
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
async fn what_is_typed_wrong_changes_nothing() {
    let site = Site::start().await;
    let (mut user, page) = site.newcomer("a@example.com").await;
    for (old, new, status, at) in [
        (PASSWORD, "short", 422, "new-error"),
        (PASSWORD, "", 422, "new-error"),
        ("wrong horse battery", NEW, 401, "old-error"),
        ("", NEW, 401, "old-error"),
    ] {
        let answer = change(&mut user, old, new).await;
        assert_eq!(answer.status, status, "{old} {new}");
        assert!(answer.text(at).is_some_and(|words| !words.is_empty()), "{}", answer.body);
        assert!(!answer.body.contains(NEW), "passwords don't come back");
    }
    let answer = user.post("/account/delete", &[("password", "wrong horse battery")]).await;
    assert_eq!(answer.status, 401);
    assert!(answer.text("delete-error").is_some());
    // Three wrong ones have been tried. The limit is the sign-in's: two more, and it is closed to both.
    for _ in 0..2 {
        assert_eq!(change(&mut user, "wrong horse battery", NEW).await.status, 401);
    }
    let refused = change(&mut user, PASSWORD, NEW).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(user.post("/account/delete", &[("password", PASSWORD)]).await.status, 429);
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 429);
    assert_eq!(user.get("/cache").await.tokens(), page.tokens());
}

#[tokio::test]
async fn a_deleted_account_is_gone() {
    let site = Site::start().await;
    let (mut user, _) = site.newcomer("a@example.com").await;
    let mut elsewhere = user.clone();
    user.get("/account").await;
    let answer = user.post("/account/delete", &[("password", PASSWORD)]).await;
    assert_eq!((answer.status, answer.location()), (303, "/sign-in?deleted"));
    assert!(!user.cookies.contains_key("memgate"));
    assert!(user.get("/sign-in?deleted").await.text("account-deleted").is_some());
    assert_eq!(elsewhere.get("/cache").await.location(), "/sign-in?next=/cache");
    assert_eq!(site.visitor().sign_in("a@example.com", PASSWORD).await.status, 401);
    assert!(site.store.users().await.unwrap().is_empty());
    assert_eq!(site.newcomer("a@example.com").await.1.status, 200, "the address is free");
}

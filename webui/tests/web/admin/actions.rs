//! What administrators do to accounts and caches, and what the audit log says of it.

use store::{InstanceState, OperationKind, Plan, UserState};

use super::{ADA, ADMIN, cache, id, last_entry, set_admin, site, submit};
use crate::harness::{PASSWORD, Site};

async fn actor(site: &Site) -> String {
    format!("admin {}", id(site, ADMIN).await)
}

async fn path(site: &Site, email: &str, action: &str) -> String {
    format!("/admin/users/{}/{action}", id(site, email).await)
}

#[tokio::test]
async fn a_user_is_suspended_and_resumed() {
    let (site, mut admin, mut ada) = site().await;
    let user = id(&site, ADA).await;
    for (action, state, done) in [
        (
            "suspend",
            UserState::Suspended,
            "The user is suspended, and all connections close within a second.",
        ),
        ("resume", UserState::Active, "The user is resumed, and the caches start."),
    ] {
        let led = submit(&mut admin, &path(&site, ADA, action).await, &[]).await;
        assert_eq!((led.status, led.location()), (303, &*format!("/admin/users/{user}?done={action}")));
        assert_eq!(site.store.user(&user).await.unwrap().unwrap().state, state);
        let page = admin.get(led.location()).await;
        assert_eq!(page.text("done"), Some(done));
        assert_eq!(page.text("user-state"), Some(if action == "suspend" { "suspended" } else { "active" }));
        let entry = (actor(&site).await, format!("user.{action}"), format!("user {user}"));
        assert_eq!(last_entry(&site).await, entry);
        let again = admin.get(&path(&site, ADA, action).await).await;
        assert_eq!(again.status, 409, "it is so already");
        let banner = ada.get("/caches?all").await.body.contains("Your account is suspended.");
        assert_eq!(banner, action == "suspend");
    }
}

#[tokio::test]
async fn a_user_gets_another_plan_unless_it_empties_caches() {
    let (site, mut admin, _) = site().await;
    let default = site.store.plan("default").await.unwrap().unwrap();
    site.store.update_plan("default", |plan| plan.warm = true).await.unwrap();
    site.store.create_plan(&Plan { name: "small".into(), memory_mb: 32, ..default }).await.unwrap();
    site.set_state(ADA, InstanceState::Running).await;
    let path = path(&site, ADA, "plan").await;
    let page = admin.get(&path).await;
    assert!(page.body.contains("<option value=\"default\" selected>default</option>"), "{}", page.body);
    let refused = admin.post(&path, &[("plan", "small")]).await;
    assert_eq!(refused.status, 409);
    assert!(
        refused.text("tick-error").unwrap().starts_with("This plan empties warm caches"),
        "{}",
        refused.body
    );
    assert!(refused.body.contains("<option value=\"small\" selected>"), "what was chosen is kept");
    assert_eq!(site.store.user_by_email(ADA).await.unwrap().unwrap().plan, "default");
    for unknown in ["nothing", "", "a\0b", "' OR ''='"] {
        let refused = admin.post(&path, &[("plan", unknown)]).await;
        assert_eq!(refused.status, 422, "{unknown:?}");
        assert!(refused.text("plan-error").is_some(), "{unknown:?}");
    }
    assert_eq!(admin.post(&path, &[("plan", "small"), ("tick", "on")]).await.status, 303);
    assert_eq!(site.store.user_by_email(ADA).await.unwrap().unwrap().plan, "small");
    let entry = (actor(&site).await, "user.update".into(), format!("user {}", id(&site, ADA).await));
    assert_eq!(last_entry(&site).await, entry);
    let asked = site.store.operations_of(&cache(&site, ADA).await.id, 1).await.unwrap().remove(0);
    assert_eq!((asked.kind, asked.requested_by), (OperationKind::Resize, actor(&site).await));
}

#[tokio::test]
async fn sessions_end() {
    let (site, mut admin, mut ada) = site().await;
    let user = id(&site, ADA).await;
    assert_eq!(admin.get(&format!("/admin/users/{user}")).await.text("user-sessions"), Some("1"));
    let led = submit(&mut admin, &path(&site, ADA, "end-sessions").await, &[]).await;
    assert_eq!(admin.get(led.location()).await.text("user-sessions"), Some("0"));
    assert_eq!(ada.get("/account").await.location(), "/sign-in?next=/account");
    let entry = (actor(&site).await, "user.sessions".into(), format!("user {user}"));
    assert_eq!(last_entry(&site).await, entry);
}

// M-7.
#[tokio::test]
async fn a_password_is_shown_once() {
    let (site, mut admin, mut ada) = site().await;
    let path = path(&site, ADA, "reset-password").await;
    let fields = [("password", PASSWORD), ("tick", "on")];
    let shown = submit(&mut admin, &path, &fields).await;
    assert_eq!((shown.status, shown.header("cache-control")), (200, Some("no-store")));
    let password = shown.text("new-password").unwrap().to_owned();
    assert!(password.len() == 20 && password.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{password}");
    assert!(shown.text("tokens-revoked").unwrap().starts_with("Tokens revoked: 1."), "{}", shown.body);
    assert_eq!(ada.get("/account").await.status, 303, "signed out");
    assert_eq!(ada.sign_in(ADA, PASSWORD).await.status, 401);
    assert_eq!(ada.sign_in(ADA, &password).await.status, 303);
    for page in [path.clone(), format!("/admin/users/{}", id(&site, ADA).await), "/admin/audit".to_owned()] {
        assert!(!admin.get(&page).await.body.contains(&password), "{page}");
    }
    let log = site.store.audit_after(0, 100).await.unwrap();
    assert!(log.iter().all(|entry| !entry.detail.contains(&password)));
    let reset = log.iter().rfind(|entry| entry.action == "user.password").unwrap();
    assert_eq!(reset.actor, actor(&site).await);
}

#[tokio::test]
async fn an_account_is_deleted_once_its_address_was_typed() {
    let (site, mut admin, mut ada) = site().await;
    let (user, path) = (id(&site, ADA).await, path(&site, ADA, "delete").await);
    for typed in ["", "bob@example.com", "ada@example.com.evil"] {
        let refused = submit(&mut admin, &path, &[("typed", typed), ("password", PASSWORD)]).await;
        assert_eq!(refused.status, 422, "{typed}");
        assert!(refused.text("typed-error").is_some(), "{typed}");
        assert_eq!(refused.field("typed").as_deref(), Some(typed), "what was typed is kept");
    }
    let led = submit(&mut admin, &path, &[("typed", ADA), ("password", PASSWORD)]).await;
    assert_eq!((led.status, led.location()), (303, "/admin/users?deleted"), "{}", led.body);
    assert!(admin.get(led.location()).await.text("user-deleted").is_some());
    assert_eq!(site.store.user(&user).await.unwrap(), None);
    assert_eq!(last_entry(&site).await, (actor(&site).await, "user.delete".into(), format!("user {user}")));
    assert_eq!(admin.get(&path).await.status, 404);
    assert_eq!(admin.post(&path, &[("typed", ADA), ("password", PASSWORD)]).await.status, 404);
    assert_eq!(ada.get("/account").await.status, 303);
}

// M-3.
#[tokio::test]
async fn administrators_are_left_to_operators() {
    let (site, mut admin, _) = site().await;
    site.sign_up_user("other@example.com").await;
    set_admin(&site, "other@example.com", true).await;
    let before = site.store.audit_length().await.unwrap();
    for email in [ADMIN, "other@example.com"] {
        for action in ["suspend", "delete", "reset-password", "end-sessions"] {
            let path = path(&site, email, action).await;
            let page = admin.get(&path).await;
            assert_eq!(page.status, 409, "{path}");
            let refused = admin.post(&path, &[("typed", email), ("password", PASSWORD)]).await;
            assert_eq!(refused.status, 409, "{path}");
            assert!(refused.text("form-error").is_some(), "{path}");
        }
        let page = admin.get(&format!("/admin/users/{}", id(&site, email).await)).await;
        assert_eq!(page.body.contains("do-plan"), email == ADMIN, "{email}");
        assert!(!page.body.contains("do-delete"), "{email}");
    }
    let other = path(&site, "other@example.com", "plan").await;
    assert_eq!(admin.post(&other, &[("plan", "default"), ("password", PASSWORD)]).await.status, 409);
    let cache = cache(&site, "other@example.com").await.id;
    for action in ["restart", "flush", "suspend"] {
        let refused = submit(&mut admin, &format!("/admin/caches/{cache}/{action}"), &[]).await;
        assert_eq!(refused.status, 409, "{action}");
    }
    assert_eq!(site.store.audit_length().await.unwrap(), before);
    // An operator's suspension of one isn't lifted either.
    let user = id(&site, "other@example.com").await;
    site.store.set_user_state(&user, UserState::Suspended).await.unwrap();
    let resume = path(&site, "other@example.com", "resume").await;
    assert_eq!(admin.post(&resume, &[("password", PASSWORD)]).await.status, 409);
    assert_eq!(site.store.user(&user).await.unwrap().unwrap().state, UserState::Suspended);
}

// M-4.
#[tokio::test]
async fn a_cache_is_suspended_as_by_an_operator() {
    let (site, mut admin, mut ada) = site().await;
    site.set_state(ADA, InstanceState::Running).await;
    let cache = cache(&site, ADA).await.id;
    ada.get("/caches").await;
    ada.get(&format!("/caches/{cache}")).await;
    for (action, kind) in [
        ("restart", OperationKind::Restart),
        ("flush", OperationKind::Flush),
        ("suspend", OperationKind::Suspend),
    ] {
        let path = format!("/admin/caches/{cache}/{action}");
        let led = submit(&mut admin, &path, &[]).await;
        assert_eq!(
            (led.status, led.location()),
            (303, &*format!("/admin/caches/{cache}?requested={action}"))
        );
        assert!(admin.get(led.location()).await.text("requested").is_some(), "{action}");
        let asked = site.store.operations_of(&cache, 1).await.unwrap().remove(0);
        assert_eq!((asked.kind, &asked.requested_by), (kind, &actor(&site).await));
        let entry = (actor(&site).await, format!("cache.{action}"), format!("cache {cache}"));
        assert_eq!(last_entry(&site).await, entry);
    }
    ada.get(&format!("/caches/{cache}/settings")).await;
    let refused = ada.post(&format!("/caches/{cache}/resume"), &[]).await;
    assert_eq!(refused.status, 403, "its owner can't resume it");
    assert!(ada.get(&format!("/caches/{cache}/activity")).await.body.contains("Requested by the operator"));
    let restart = submit(&mut admin, &format!("/admin/caches/{cache}/restart"), &[]).await;
    assert_eq!(restart.status, 409);
    assert!(restart.text("form-error").unwrap().contains("the cache is suspended"), "{}", restart.body);
    assert_eq!(submit(&mut admin, &format!("/admin/caches/{cache}/resume"), &[]).await.status, 303);
    assert!(!site.store.cache(&cache).await.unwrap().unwrap().suspended);
}

// M-4: also one of the administrator's own caches, and one that its owner has suspended.
#[tokio::test]
async fn an_administrators_suspension_holds_for_every_owner() {
    let (site, mut admin, mut ada) = site().await;
    for (email, owner) in [(ADMIN, &mut admin.clone()), (ADA, &mut ada)] {
        site.set_state(email, InstanceState::Running).await;
        let cache = cache(&site, email).await.id;
        owner.get(&format!("/caches/{cache}/settings")).await;
        assert_eq!(owner.post(&format!("/caches/{cache}/suspend"), &[("confirmed", "1")]).await.status, 303);
        site.finish_operations(&cache).await;
        assert_eq!(submit(&mut admin, &format!("/admin/caches/{cache}/suspend"), &[]).await.status, 303);
        owner.get(&format!("/caches/{cache}/settings")).await;
        assert_eq!(owner.post(&format!("/caches/{cache}/resume"), &[]).await.status, 403, "{email}");
    }
}

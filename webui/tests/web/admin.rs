//! The administrators' area: who gets in, and what each page shows.

mod access;
mod actions;
mod audit;
mod hostile;
mod lists;
mod overview;
mod password;
mod plans;

use store::{Cache, UserChange};

use crate::harness::{Response, Site, Visitor};

pub(crate) const ADMIN: &str = "admin@example.com";
pub(crate) const ADA: &str = "ada@example.com";

/// Makes a user an administrator, or takes that away.
pub(crate) async fn set_admin(site: &Site, email: &str, is_admin: bool) {
    let change = UserChange { is_admin: Some(is_admin), ..UserChange::default() };
    site.store.update_user(&id(site, email).await, &change).await.unwrap();
}

pub(crate) async fn id(site: &Site, email: &str) -> String {
    site.store.user_by_email(email).await.unwrap().unwrap().id
}

pub(crate) async fn cache(site: &Site, email: &str) -> Cache {
    site.store.first_cache_of(&id(site, email).await).await.unwrap().unwrap()
}

/// A site with an administrator and with Ada, who has a cache.
pub(crate) async fn site() -> (Site, Visitor, Visitor) {
    site_with(|_| {}).await
}

pub(crate) async fn site_with(change: impl FnOnce(&mut webui::Config)) -> (Site, Visitor, Visitor) {
    let site = Site::start_with(change).await;
    let (mut admin, _) = site.sign_up_user(ADMIN).await;
    let (ada, _) = site.sign_up_user(ADA).await;
    set_admin(&site, ADMIN, true).await;
    assert_eq!(admin.get("/admin").await.status, 200);
    (site, admin, ada)
}

/// Sends the form of a page that asks.
pub(crate) async fn submit(admin: &mut Visitor, path: &str, fields: &[(&str, &str)]) -> Response {
    let page = admin.get(path).await;
    assert_eq!(page.status, 200, "{path}: {}", page.body);
    admin.post(path, fields).await
}

/// The newest entry of the audit log, as its actor, action and subject.
pub(crate) async fn last_entry(site: &Site) -> (String, String, String) {
    let entry = site.store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    (entry.actor, entry.action, entry.subject)
}

//! Everybody but administrators gets the same 404 at each address under `/admin`, whatever the verb.

use store::{UserChange, UserState};

use super::{ADA, ADMIN, cache, id, set_admin, site, site_with};
use crate::harness::{PASSWORD, Response, Site, Visitor};

/// Addresses that show something, and those of forms. `USER` and `CACHE` are Ada's.
const PAGES: [&str; 24] = [
    "",
    "/users",
    "/users?email=a&plan=default&state=active&admin=no&after=a",
    "/users/USER",
    "/users/USER/plan",
    "/users/USER/suspend",
    "/users/USER/resume",
    "/users/USER/end-sessions",
    "/users/USER/reset-password",
    "/users/USER/delete",
    "/caches",
    "/caches?state=failed&before=9&id=a",
    "/caches/CACHE",
    "/caches/CACHE/restart",
    "/caches/CACHE/flush",
    "/caches/CACHE/suspend",
    "/caches/CACHE/resume",
    "/proxies",
    "/plans",
    "/plans/new",
    "/plans/default/edit",
    "/plans/default/delete",
    "/denials?within=day&cause=rate",
    "/settings",
];
/// Forms without a page of their own, and addresses that don't exist.
const OTHERS: [&str; 8] = [
    "/audit",
    "/audit/verify",
    "/nothing",
    "/users/USER/nothing",
    "/users/nobody",
    "/caches/nothing",
    "/plans/nothing/edit",
    "/users/%00/delete",
];
const VERBS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The addresses, with Ada's ids.
async fn paths(site: &Site) -> Vec<String> {
    let (user, cache) = (id(site, ADA).await, cache(site, ADA).await.id);
    let path = |path: &&str| format!("/admin{}", path.replace("USER", &user).replace("CACHE", &cache));
    PAGES.iter().chain(&OTHERS).map(path).collect()
}

/// Sends a request with every field that any form has, and the right form token.
async fn request(visitor: &mut Visitor, verb: &str, path: &str) -> Response {
    let token = visitor.csrf_token.clone();
    let body = format!("csrf_token={token}&password=x&typed={ADA}&plan=default&tick=on&name=x");
    let head = visitor.request_head(verb, path);
    let form = format!(
        "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    visitor.send((head + &form).as_bytes()).await
}

/// The page without the form token, which differs between sessions.
fn without_token(response: &Response, visitor: &Visitor) -> String {
    response.body.replace(&visitor.csrf_token, "")
}

// M-1.
#[tokio::test]
async fn nobody_else_learns_that_the_area_exists() {
    let (site, admin, ada) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    let (eve, _) = site.sign_up_user("eve@example.com").await;
    let (suspended, _) = site.sign_up_user("suspended@example.com").await;
    let (former, _) = site.sign_up_user("former@example.com").await;
    for email in ["suspended@example.com", "former@example.com"] {
        set_admin(&site, email, true).await;
    }
    let paths = paths(&site).await;
    for mut signed_in in [suspended.clone(), former.clone()] {
        assert_eq!(signed_in.get("/admin").await.status, 200);
    }
    // Both take effect with the next request of a session that has been let in before.
    let suspended_id = id(&site, "suspended@example.com").await;
    site.store.set_user_state(&suspended_id, UserState::Suspended).await.unwrap();
    set_admin(&site, "former@example.com", false).await;
    let before = site.store.audit_length().await.unwrap();
    for (who, mut visitor) in [
        ("nobody", site.visitor()),
        ("the user", ada),
        ("another user", eve),
        ("a suspended administrator", suspended),
        ("a former administrator", former),
    ] {
        let elsewhere = visitor.get("/nothing-here").await;
        assert_eq!(elsewhere.status, 404);
        let expected = without_token(&elsewhere, &visitor);
        assert!(!elsewhere.body.contains("/admin"), "{who} sees no link");
        for path in &paths {
            for verb in VERBS {
                let response = request(&mut visitor, verb, path).await;
                assert_eq!(response.status, 404, "{who}: {verb} {path}");
                assert_eq!(without_token(&response, &visitor), expected, "{who}: {verb} {path}");
                assert_eq!(response.header("allow"), None, "{who}: {verb} {path}");
            }
        }
    }
    assert_eq!(site.store.audit_length().await.unwrap(), before, "nothing was changed");
    drop(admin);
}

// M-1, W-1.
#[tokio::test]
async fn administrators_see_each_page() {
    let (site, mut admin, _) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    let paths = paths(&site).await;
    for path in paths.iter().take(PAGES.len()).chain([&"/admin/audit".to_owned()]) {
        let page = admin.get(path).await;
        // What can't be done to Ada now is said on the page.
        let refuses =
            path.ends_with("/resume") && path.contains("/users/") || path.ends_with("/default/delete");
        assert_eq!(page.status, if refuses { 409 } else { 200 }, "{path}: {}", page.body);
        assert_eq!(page.header("cache-control"), Some("no-store"), "{path}");
        assert!(page.body.contains("<h1 id=\"admin-title\">Administration</h1>"), "{path}");
        assert!(page.body.contains("aria-current=\"page\""), "{path}");
        let [ids, labels] = ["<input id=\"", "<label for=\""].map(|mark| page.body.matches(mark).count());
        assert!(labels >= ids, "{path}: each field has a label");
    }
    for path in &paths[PAGES.len() + 2..] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    assert_eq!(admin.get("/admin/audit/verify").await.status, 405);
    assert!(admin.get("/account").await.body.contains("href=\"/admin\""));
}

// M-1: signing in leads there.
#[tokio::test]
async fn an_administrator_signs_in_to_the_area() {
    let (site, ..) = site().await;
    let mut browser = site.visitor();
    assert_eq!(browser.get("/admin").await.status, 404);
    browser.get("/sign-in?next=/admin").await;
    let fields = [("email", ADMIN), ("password", PASSWORD), ("next", "/admin")];
    let led = browser.post("/sign-in", &fields).await;
    assert_eq!((led.status, led.location()), (303, "/admin"));
    assert_eq!(browser.get("/admin").await.status, 200);
}

// M-2, W-6.
#[tokio::test]
async fn forms_of_other_sites_change_nothing() {
    let (site, mut admin, _) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    let paths = paths(&site).await;
    let before = site.store.audit_length().await.unwrap();
    let forms: Vec<&String> =
        paths.iter().filter(|path| path.matches('/').count() > 3 || path.ends_with("new")).collect();
    let mut foreign = admin.clone();
    foreign.headers = vec![("Sec-Fetch-Site".into(), "cross-site".into())];
    for path in &forms {
        for mut stale in [site.visitor(), admin.clone()] {
            stale.csrf_token = "0".repeat(64);
            stale.cookies = admin.cookies.clone();
            let response = stale.post(path, &[("typed", ADA), ("plan", "default")]).await;
            assert!([403, 404].contains(&response.status), "{path}: {}", response.status);
        }
        assert_eq!(foreign.post(path, &[("typed", ADA)]).await.status, 403, "{path}");
        let missing = admin.post_without_token(path, &[("typed", ADA)]).await;
        assert!([403, 404].contains(&missing.status), "{path}: {}", missing.status);
    }
    assert_eq!(site.store.audit_length().await.unwrap(), before);
}

// M-3: administrators are made and unmade by operators' commands only.
#[tokio::test]
async fn no_form_makes_an_administrator() {
    let (site, mut admin, _) = site().await;
    let path = format!("/admin/users/{}/plan", id(&site, ADA).await);
    admin.get(&path).await;
    let fields = [("plan", "default"), ("is_admin", "1"), ("admin", "yes")];
    assert_eq!(admin.post(&path, &fields).await.status, 303);
    let user = site.store.user_by_email(ADA).await.unwrap().unwrap();
    assert!(!user.is_admin);
    // And an administrator stays, also on the page of the account.
    admin.get("/account").await;
    let refused = admin.post("/account/delete", &[("password", PASSWORD)]).await;
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("You are an administrator."), "{}", refused.body);
    let change = UserChange { is_admin: Some(false), ..UserChange::default() };
    site.store.update_user(&id(&site, ADMIN).await, &change).await.unwrap();
    admin.get("/account").await;
    assert_eq!(admin.post("/account/delete", &[("password", PASSWORD)]).await.status, 303);
}

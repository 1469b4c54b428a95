//! The administrators' area in a browser: on a phone, without scripts, and in pictures.

use fantoccini::Locator;
use store::{DenialCause, DenialRecord, HostCapacity, InstanceState, Proxy, UserState, now};

use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use crate::admin::{ADA, ADMIN, cache, id, set_admin};
use crate::harness::{self, PASSWORD, Site};

/// A site with an administrator, and with Ada, who has what lists show.
pub(super) async fn site() -> Site {
    let site = Site::start_with(|config| config.limits.pages_per_minute = 100_000).await;
    for email in [ADMIN, ADA, "bob.with-a-rather-long-address@subdomain.of.example.com"] {
        site.sign_up_user(email).await;
    }
    set_admin(&site, ADMIN, true).await;
    site.set_state(ADMIN, InstanceState::Running).await;
    let token = site.store.tokens_of_user(&id(&site, ADA).await).await.unwrap().remove(0);
    let denial = DenialRecord {
        token_id: token.id,
        cause: DenialCause::WrongSecret,
        source: Some("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".into()),
        detail: "SCRAM-SHA-256".into(),
        protocol: "binary".into(),
        tls: true,
        count: 1234,
        first_at: now(),
        last_at: now(),
    };
    site.store.add_denials(&[denial]).await.unwrap();
    let capacity = HostCapacity {
        budget_bytes: 1 << 30,
        reserved_bytes: 0,
        growth_mb: 1000,
        waiting: 0,
        changed_at: now(),
    };
    site.store.set_host_capacity(&capacity).await.unwrap();
    let proxy = Proxy {
        id: "a".into(),
        name: "cache-proxy-1.example.com:11211".into(),
        version: "0.1.0".into(),
        started_at: now(),
        seen_at: now(),
        applied: site.store.revision().await.unwrap(),
    };
    site.store.renew_proxy(&proxy).await.unwrap();
    site.set_state(ADA, InstanceState::Failed).await;
    site
}

/// Names and addresses of the pages.
async fn pages(site: &Site) -> Vec<(&'static str, String)> {
    let (user, cache) = (id(site, ADA).await, cache(site, ADA).await.id);
    vec![
        ("overview", "/admin".to_owned()),
        ("users", "/admin/users".to_owned()),
        ("user", format!("/admin/users/{user}")),
        ("user-delete", format!("/admin/users/{user}/delete")),
        ("user-plan", format!("/admin/users/{user}/plan")),
        ("caches", "/admin/caches".to_owned()),
        ("cache", format!("/admin/caches/{cache}")),
        ("cache-suspend", format!("/admin/caches/{cache}/suspend")),
        ("proxies", "/admin/proxies".to_owned()),
        ("plans", "/admin/plans".to_owned()),
        ("plan-edit", "/admin/plans/default/edit".to_owned()),
        ("denials", "/admin/denials".to_owned()),
        ("audit", "/admin/audit".to_owned()),
        ("settings", "/admin/settings".to_owned()),
    ]
}

/// Opens every page, and calls `visit` with a name for each.
pub(super) async fn every_page(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    flow.sign_in(ADMIN, PASSWORD).await;
    for (name, path) in pages(site).await {
        flow.open(&path).await;
        flow.find("#admin-title").await;
        visit(&format!("admin-{name}")).await;
    }
}

#[tokio::test]
async fn administrators_work_without_scripts() {
    let site = site().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions { without_scripts: true, ..BrowserOptions::default() }).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));
    flow.sign_in(ADMIN, PASSWORD).await;
    flow.click("a[href='/admin']").await;
    flow.click("[data-problem=failed] a").await;
    flow.click("#caches a[href^='/admin/users']").await;
    flow.click("#do-suspend").await;
    flow.click("#confirm").await;
    assert!(flow.text("#done").await.starts_with("The user is suspended"));
    let user = site.store.user_by_email(ADA).await.unwrap().unwrap();
    assert_eq!(user.state, UserState::Suspended);
    flow.click("#do-reset-password").await;
    flow.click("#confirm").await;
    assert_eq!(flow.text("#password-error").await, "Enter your own password to confirm this.");
    flow.find("#password").await.send_keys(PASSWORD).await.unwrap();
    flow.click("#confirm").await;
    assert_eq!(flow.text("#new-password").await.len(), 20);
    flow.click(".cache-tabs [href$=audit]").await;
    flow.click("#verify-form button").await;
    harness::eventually("a check of the log", || async {
        flow.open("/admin/audit").await;
        browser.find(Locator::Css("#chain-head")).await.is_ok()
    })
    .await;
    browser.close().await.unwrap();
}

/// Shows every page to `picture`, with a name, and whether it is on a phone.
pub(super) async fn screenshots(driver: &Driver, picture: impl AsyncFn(&fantoccini::Client, &str, bool)) {
    for (name, dark, phone) in [("light", false, false), ("dark", true, false), ("phone", false, true)] {
        let site = site().await;
        let browser = driver.browser(BrowserOptions { dark, phone, without_scripts: false }).await;
        let flow = Flow::new(&browser, format!("http://{}", site.address));
        flow.sign_in(ADMIN, PASSWORD).await;
        for (page, path) in pages(&site).await {
            flow.open(&path).await;
            picture(&browser, &format!("admin-{page}-{name}"), phone).await;
        }
        browser.close().await.unwrap();
    }
}

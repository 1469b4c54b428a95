//! `GET /admin`: what is wrong comes first.

use store::{HostCapacity, InstanceState, Proxy, now};

use super::{ADA, site};
use crate::harness::{Response, Site};

fn problems(page: &Response) -> Vec<&str> {
    page.body.split("data-problem=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Writes what a provisioner and a proxy that work write.
async fn work(site: &Site) {
    let capacity = HostCapacity {
        budget_bytes: 64 << 30,
        reserved_bytes: 0,
        growth_mb: 1000,
        waiting: 0,
        changed_at: now(),
    };
    site.store.set_host_capacity(&capacity).await.unwrap();
    let proxy = Proxy {
        id: "a".into(),
        name: "vm:11211".into(),
        version: "1".into(),
        started_at: now(),
        seen_at: now(),
        applied: site.store.revision().await.unwrap(),
    };
    site.store.renew_proxy(&proxy).await.unwrap();
}

#[tokio::test]
async fn nothing_is_wrong_while_all_works() {
    let (site, mut admin, _) = site().await;
    work(&site).await;
    let page = admin.get("/admin").await;
    assert_eq!(problems(&page), [""; 0], "{}", page.body);
    assert!(page.text("no-problems").is_some());
    assert_eq!(
        (page.text("users"), page.text("caches"), page.text("proxies")),
        (Some("2"), Some("2"), Some("1"))
    );
    assert!(page.body.contains("0 suspended; administrators: 1") && page.body.contains("2 pending"));
    assert!(page.body.contains("64.0 GB promised") && page.body.contains("more caches of the plan default"));
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_reason() {
    let (site, mut admin, _) = site().await;
    assert_eq!(problems(&admin.get("/admin").await), ["provisioner", "proxy"]);
    work(&site).await;
    site.set_state(ADA, InstanceState::Failed).await;
    let page = admin.get("/admin").await;
    assert_eq!(problems(&page), ["failed"]);
    assert!(page.body.contains("1 cache has failed.") && page.body.contains("default of ada@example.com"));
    assert!(page.body.contains("href=\"/admin/caches?state=failed\""));
}

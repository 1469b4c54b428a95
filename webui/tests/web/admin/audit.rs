//! The audit log: filters, pages, and the check of its chain.

use super::{ADA, id, site, site_with};
use crate::harness::{DEADLINE, Response, eventually};

fn entries(page: &Response) -> Vec<i64> {
    let numbers = page.body.split("data-entry=\"").skip(1);
    numbers.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn entries_are_filtered_and_paged() {
    let (site, mut admin, _) = site().await;
    let user = format!("user {}", id(&site, ADA).await);
    for n in 0..60 {
        let store = site.store.acting_as(if n % 2 == 0 { &user } else { "operator" });
        store.note("test.entry", &format!("token {}", n % 3), "a detail").await.unwrap();
    }
    let last = site.store.audit_length().await.unwrap();
    let first = admin.get("/admin/audit").await;
    assert_eq!(entries(&first), (last - 49..=last).rev().collect::<Vec<_>>());
    site.store.note("test.later", "x", "").await.unwrap();
    let next = first.body.split("id=\"next-page\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    let second = admin.get(&next.replace("&amp;", "&")).await;
    assert_eq!(entries(&second).first(), Some(&(last - 50)), "a new entry moves none");
    for (query, count) in [
        (format!("actor={}", user.replace(' ', "%20")), 30),
        ("action=test.later".to_owned(), 1),
        ("subject=token%202&action=test.entry".to_owned(), 20),
        ("subject=token%202&actor=operator&within=hour".to_owned(), 10),
        ("action=nothing".to_owned(), 0),
        ("actor=%25".to_owned(), 0),
    ] {
        let found = entries(&admin.get(&format!("/admin/audit?{query}")).await);
        assert!(found.len() >= count && found.len() <= count + 2, "{query}: {found:?}");
    }
    assert!(first.body.contains(&format!("href=\"/admin/users/{}\"", id(&site, ADA).await)));
    assert!(first.body.contains("a detail") && first.body.contains("user ada@example.com"));
}

// M-5.
#[tokio::test]
async fn the_chain_is_checked_off_the_request() {
    let (site, mut admin, _) = site_with(|config| config.limits.pages_per_minute = 100_000).await;
    for n in 0..1200 {
        site.store.note("test", &n.to_string(), "").await.unwrap();
    }
    let page = admin.get("/admin/audit").await;
    assert_eq!(page.text("chain-text"), Some("Not checked since this web UI has started."));
    let led = admin.post("/admin/audit/verify", &[]).await;
    assert_eq!((led.status, led.location()), (303, "/admin/audit"));
    let running = admin.get("/admin/audit").await;
    assert!(running.text("chain-running").is_some() || running.text("chain-head").is_some());
    eventually("a check", || {
        let mut admin = admin.clone();
        async move { admin.get("/admin/audit").await.text("chain-head").is_some() }
    })
    .await;
    let page = admin.get("/admin/audit").await;
    let all = site.store.audit_length().await.unwrap();
    assert!(
        page.text("chain-text").unwrap().contains(" entries follow each other, checked"),
        "{}",
        page.body
    );
    let head = page.text("chain-head").unwrap();
    let last = site.store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!((head, all), (&*last.hash, last.seq));
    assert!(site.stop().await, "a check ends with the web UI within {DEADLINE:?}");
}

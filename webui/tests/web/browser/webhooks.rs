//! Webhooks in a browser: created, their secret copied, tested and deleted, on a phone and without scripts.

use store::DeliveryState;

use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use super::{EMAIL, PASSWORD};
use crate::harness::{self, Site, eventually};

/// Creates a webhook; the page shows its secret.
pub(super) async fn create(flow: &Flow<'_>, url: &str) -> String {
    flow.open("/account").await;
    flow.click("#notifications").await;
    flow.click("#webhooks").await;
    flow.find("#webhook-url").await.send_keys(url).await.unwrap();
    flow.find("#webhook-password").await.send_keys(PASSWORD).await.unwrap();
    flow.click("#webhook-form .button").await;
    flow.text("#webhook-secret").await
}

/// Waits until an attempt of the newest delivery of the user's first webhook has failed.
pub(super) async fn wait_for_failure(site: &Site) {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let webhook = site.store.webhooks_of(&user.id).await.unwrap().remove(0).id;
    let last = async || site.store.webhook_deliveries(&webhook, None, 1).await.unwrap().remove(0);
    eventually("an attempt has failed", async || {
        let last = last().await;
        last.state == DeliveryState::Waiting && !last.error.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_webhook_is_created_copied_tested_and_deleted() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    for (email, without_scripts, phone) in [(EMAIL, false, true), ("bob@example.com", true, false)] {
        let options = BrowserOptions { without_scripts, phone, ..BrowserOptions::default() };
        let browser = driver.browser(options).await;
        let flow = Flow::new(&browser, format!("http://{}", site.address));
        flow.sign_up(email, PASSWORD).await;
        let secret = create(&flow, "https://memgate.invalid/hooks").await;
        assert!(secret.starts_with("whsec_"), "{secret}");
        let copy = flow.find("[data-copy=webhook-secret]").await;
        assert_eq!(copy.is_displayed().await.unwrap(), !without_scripts);
        if !without_scripts {
            flow.click("[data-copy=webhook-secret]").await;
            harness::eventually("copied", || async { copy.text().await.unwrap() == "Copied" }).await;
        }
        flow.click("#new-webhook .actions a").await;
        flow.click("#test-form button").await;
        flow.find("[data-delivery]").await;
        flow.click("#disable-form button").await;
        flow.find("#enable-form").await;
        flow.click("#delete summary").await;
        flow.click("#delete-form button").await;
        flow.find("#deleted").await;
        browser.close().await.unwrap();
    }
}

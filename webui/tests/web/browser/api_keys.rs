//! API keys in a browser: created, copied and revoked, on a phone too; and the reference of the API.

use fantoccini::Client;

use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use super::{EMAIL, PASSWORD};
use crate::harness::{self, Site};

/// Whether the page is as wide as the window: nothing has to be scrolled sideways.
async fn fits(browser: &Client) -> bool {
    let script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    browser.execute(script, vec![]).await.unwrap() == true
}

/// Creates a key; the page shows it.
pub(super) async fn create(flow: &Flow<'_>, name: &str) -> String {
    flow.open("/account").await;
    flow.click("#api-keys").await;
    flow.find("#api-key-name").await.send_keys(name).await.unwrap();
    flow.click("#api-key-form [name=tokens]").await;
    flow.find("#api-key-password").await.send_keys(PASSWORD).await.unwrap();
    flow.click("#api-key-form .button").await;
    flow.text("#api-key").await
}

#[tokio::test]
async fn a_key_is_created_copied_and_revoked() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    for (email, without_scripts, phone) in [(EMAIL, false, true), ("bob@example.com", true, false)] {
        let options = BrowserOptions { without_scripts, phone, ..BrowserOptions::default() };
        let browser = driver.browser(options).await;
        let flow = Flow::new(&browser, format!("http://{}", site.address));
        flow.sign_up(email, PASSWORD).await;
        let key = create(&flow, "terraform").await;
        assert!(store::ApiKey::parse(&key).is_ok(), "{key}");
        assert!(without_scripts || fits(&browser).await, "the page of keys");
        let copy = flow.find("[data-copy=api-key]").await;
        assert_eq!(copy.is_displayed().await.unwrap(), !without_scripts);
        if !without_scripts {
            flow.click("[data-copy=api-key]").await;
            harness::eventually("copied", || async { copy.text().await.unwrap() == "Copied" }).await;
        }
        flow.click("[data-api-key] summary").await;
        flow.click("[data-api-key] button").await;
        flow.find("#revoked").await;
        flow.click(".inactive summary").await;
        flow.find("[data-ended-api-key]").await;
        flow.open("/api").await;
        flow.click("#createToken summary").await;
        assert!(without_scripts || fits(&browser).await, "the reference");
        browser.close().await.unwrap();
    }
}

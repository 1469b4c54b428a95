//! The web UI in a real browser. The test plays the provisioner: it writes instance states to the store.

mod accessibility;
mod account;
mod admin;
mod api_keys;
mod driver;
mod flow;
mod settings;
mod walk;
mod weight;

use std::path::{Path, PathBuf};

use fantoccini::{Client, Locator};
use store::InstanceState;

use crate::harness::{self, PASSWORD, Site};
use crate::overview;
use driver::{BrowserOptions, Driver};
use flow::Flow;

const EMAIL: &str = "ada@example.com";

#[tokio::test]
async fn sign_up_to_first_token() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions::default()).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));

    let first = flow.sign_up(EMAIL, PASSWORD).await;
    assert_eq!(first.token, format!("{}_{}", first.username, first.password));
    assert_eq!(flow.state().await, "pending");
    site.set_state(EMAIL, InstanceState::Running).await;
    flow.wait_for_state("running").await;
    // The stream brought it: the page asks for the state only if it gets none.
    let asked = "return performance.getEntriesByType('resource').some((it) => it.name.endsWith('/state'))";
    assert_eq!(browser.execute(asked, vec![]).await.unwrap(), false);
    assert_eq!(flow.text("#state").await, "Running");
    // The token is still shown after the page updated its state.
    assert_eq!(flow.revealed_token().await, first);
    flow.click("[data-copy=token]").await;
    let label = flow.find("[data-copy=token]").await;
    harness::eventually("copied", || async { label.text().await.unwrap() == "Copied" }).await;
    // A reload opens the cache page: it neither signs up again nor shows the token again.
    browser.refresh().await.unwrap();
    assert!(browser.current_url().await.unwrap().path().ends_with("/tokens"));
    assert!(!browser.source().await.unwrap().contains(&first.password));

    flow.open("/caches").await;
    assert_eq!(flow.text("#version").await, "1.6.18");
    assert_eq!(flow.text("#endpoint").await, "cache.example.com:11999");
    flow.sign_out().await;
    flow.open("/caches").await;
    assert_eq!(browser.current_url().await.unwrap().path(), "/sign-in");
    flow.sign_in(EMAIL, PASSWORD).await;
    let second = flow.create_token("web shop").await;
    flow.click("#token-saved").await;
    flow.find("#token-form").await;
    assert_eq!(flow.tokens().await, [first.username.clone(), second.username.clone()]);
    flow.revoke(&first.username).await;
    assert_eq!(flow.tokens().await, [second.username]);
    // Later changes are shown too.
    site.set_state(EMAIL, InstanceState::Restarting).await;
    flow.wait_for_state("restarting").await;
    browser.close().await.unwrap();
}

#[tokio::test]
async fn figures_follow_the_cache_without_a_reload() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions::default()).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));
    flow.sign_up(EMAIL, PASSWORD).await;
    flow.open("/caches").await;
    flow.find("[data-notice=pending]").await;
    // An element that was found may be replaced before its text is read.
    let shows = async |id: &str, text: &str| {
        let script = "return document.getElementById(arguments[0]).textContent === arguments[1]";
        browser.execute(script, vec![id.into(), text.into()]).await.unwrap() == true
    };
    assert!(shows("memory-used", "–").await);
    // The change of the state brings them at once.
    let mut recorder = overview::Recorder::new(&site, EMAIL).await;
    recorder.record(20).await;
    recorder.record(10).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    harness::eventually("the memory is shown", || shows("memory-used", "12.0 MB")).await;
    assert!(browser.find(Locator::Css("[data-notice=pending]")).await.is_err());
    // Later ones come by themselves.
    assert!(shows("hit-rate", "90.0 %").await && shows("evictions", "3").await);
    recorder.record(0).await;
    harness::eventually("the evictions are shown", || shows("evictions", "6")).await;
    browser.close().await.unwrap();
}

#[tokio::test]
async fn pages_work_without_scripts() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions { without_scripts: true, ..BrowserOptions::default() }).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));

    let first = flow.sign_up(EMAIL, PASSWORD).await;
    assert!(!flow.find("[data-copy=token]").await.is_displayed().await.unwrap(), "it couldn't copy");
    flow.click("label[for=language-go-mc]").await;
    assert!(flow.text("#plain-go-mc").await.contains(&first.password));
    flow.click("#token-saved").await;
    flow.open("/caches").await;
    assert_eq!(flow.state().await, "pending");
    site.set_state(EMAIL, InstanceState::Running).await;
    flow.wait_for_state("running").await;
    flow.click(".cache-tabs [href$=connect]").await;
    flow.click(".choices [href$=go-mc]").await;
    assert!(flow.text("#plain-go-mc").await.contains("mc.NewMC(\"cache.example.com:11999\""));
    flow.revoke(&first.username).await;
    flow.sign_out().await;
    flow.sign_in(EMAIL, PASSWORD).await;
    flow.create_token("second").await;
    browser.close().await.unwrap();
}

/// Screenshots of every page for manual review: see `./deploy/screenshots`.
#[tokio::test]
#[ignore = "takes screenshots for manual review"]
async fn screenshots() {
    let folder =
        PathBuf::from(std::env::var_os("MEMGATE_SCREENSHOTS").expect("MEMGATE_SCREENSHOTS is a folder"));
    let driver = Driver::start().await;
    for (name, dark, phone) in
        [("light", false, false), ("dark", true, false), ("phone", false, true), ("phone-dark", true, true)]
    {
        let options = BrowserOptions { dark, phone, without_scripts: false };
        let browser = driver.browser(options).await;
        screenshot_every_page(&browser, &folder, name, phone).await;
        browser.close().await.unwrap();
    }
}

/// The same of the administrators' area.
#[tokio::test]
#[ignore = "takes screenshots for manual review"]
async fn screenshots_for_administrators() {
    let folder =
        PathBuf::from(std::env::var_os("MEMGATE_SCREENSHOTS").expect("MEMGATE_SCREENSHOTS is a folder"));
    let driver = Driver::start().await;
    admin::screenshots(&driver, async |browser: &Client, page: &str, phone: bool| {
        if !phone {
            let height = browser.execute("return document.documentElement.scrollHeight", vec![]).await;
            let height = u32::try_from(height.unwrap().as_u64().unwrap()).unwrap().max(700) + 150;
            browser.set_window_size(1200, height).await.unwrap();
        }
        let bytes = browser.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{page}.png")), bytes).unwrap();
    })
    .await;
}

async fn screenshot_every_page(browser: &Client, folder: &Path, name: &str, phone: bool) {
    let site = Site::start().await;
    let flow = Flow::new(browser, format!("http://{}", site.address));
    let picture = async |page: &str| {
        // Makes the window as tall as the page.
        if !phone {
            let height =
                browser.execute("return document.documentElement.scrollHeight", vec![]).await.unwrap();
            let height = u32::try_from(height.as_u64().unwrap()).unwrap().max(700) + 150;
            browser.set_window_size(1200, height).await.unwrap();
        }
        let bytes = browser.screenshot().await.unwrap();
        std::fs::write(folder.join(format!("{page}-{name}.png")), bytes).unwrap();
        if phone {
            browser.execute("scrollTo(0, document.body.scrollHeight / 2.6)", vec![]).await.unwrap();
            let bytes = browser.screenshot().await.unwrap();
            std::fs::write(folder.join(format!("{page}-{name}-2.png")), bytes).unwrap();
            browser.set_window_size(1200, 1000).await.unwrap();
        }
    };
    walk::every_page(&flow, &site, &picture).await;
}

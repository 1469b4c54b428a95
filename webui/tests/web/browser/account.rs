//! Account pages in a real browser: a forgotten password and a second factor, on a wide screen without scripts and on a phone.

use fantoccini::{Client, Locator};

use super::EMAIL;
use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use crate::harness::Site;
use crate::mail_server::MailServer;
use crate::second_factor::Device;

const NEW: &str = "a better battery";

#[tokio::test]
async fn password_is_reset_and_protected() {
    for phone in [false, true] {
        let driver = Driver::start().await;
        let server = MailServer::start().await;
        let site = Site::start_with(|config| server.configure(config)).await;
        let options = BrowserOptions { phone, without_scripts: !phone, ..BrowserOptions::default() };
        let browser = driver.browser(options).await;
        let flow = Flow::new(&browser, format!("http://{}", site.address));
        site.sign_up_user(EMAIL).await;

        flow.open("/sign-in").await;
        flow.click("[href='/forgot-password']").await;
        flow.find("#email").await.send_keys(EMAIL).await.unwrap();
        flow.click("#forgot-password-form button").await;
        flow.find("#sent").await;
        fits(&browser, "forgot-password", phone).await;
        flow.open(server.mail_to(EMAIL, 1).await.link()).await;
        assert_eq!(flow.text("#reset-email").await, EMAIL);
        assert_eq!(browser.current_url().await.unwrap().path(), "/reset-password");
        flow.find("#new-password").await.send_keys(NEW).await.unwrap();
        fits(&browser, "reset-password", phone).await;
        flow.click("#reset-password-form button").await;
        flow.find("#password-reset").await;
        sign_in(&flow, NEW, "#state").await;

        flow.open("/account/second-factor").await;
        flow.find("#password").await.send_keys(NEW).await.unwrap();
        flow.click("#begin-form button").await;
        let mut device = Device::new(&flow.text("#secret").await);
        // The picture is there: the policy lets it be shown.
        flow.find(".qr-code").await;
        let width = "return document.querySelector('.qr-code').naturalWidth";
        assert!(browser.execute(width, vec![]).await.unwrap().as_i64().unwrap() > 0);
        fits(&browser, "second-factor", phone).await;
        flow.find("#code").await.send_keys(&device.next_code()).await.unwrap();
        flow.click("#confirm-form button").await;
        flow.find("#recovery-codes").await;
        fits(&browser, "recovery-codes", phone).await;
        flow.open("/account/second-factor").await;
        flow.find("#factor-on").await;
        fits(&browser, "second-factor-on", phone).await;
        flow.open("/account").await;
        fits(&browser, "account", phone).await;
        flow.open("/account/email").await;
        fits(&browser, "account-email", phone).await;
        flow.sign_out().await;
        sign_in(&flow, NEW, "#code-form").await;
        fits(&browser, "sign-in-code", phone).await;
        flow.find("#code").await.send_keys(&device.next_code()).await.unwrap();
        flow.click("#code-form button").await;
        flow.find("#sign-out").await;
        browser.close().await.unwrap();
    }
}

/// Signs in, and waits for what the next page has.
async fn sign_in(flow: &Flow<'_>, password: &str, next: &str) {
    flow.open("/sign-in").await;
    flow.find("#email").await.send_keys(EMAIL).await.unwrap();
    flow.find("#password").await.send_keys(password).await.unwrap();
    flow.click("#sign-in-form button").await;
    flow.find(next).await;
}

/// The page isn't wider than the screen, and each field has a label. Takes a screenshot, if a folder is named.
async fn fits(browser: &Client, page: &str, phone: bool) {
    let surplus = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    let surplus = browser.execute(surplus, vec![]).await.unwrap();
    assert!(surplus.as_i64().unwrap() <= 0, "{page} is too wide: {surplus}");
    for field in
        browser.find_all(Locator::Css("input:not([type=hidden]):not(.visually-hidden)")).await.unwrap()
    {
        let is_inside = field.attr("type").await.unwrap().as_deref() == Some("checkbox");
        let id = field.attr("id").await.unwrap().unwrap();
        let label = browser.find(Locator::Css(&format!("label[for='{id}']"))).await;
        assert!(is_inside || label.is_ok(), "{page}: {id} has no label");
    }
    if let Some(folder) = std::env::var_os("MEMGATE_SCREENSHOTS") {
        let name = format!("{page}{}.png", if phone { "-phone" } else { "" });
        let picture = browser.screenshot().await.unwrap();
        std::fs::write(std::path::Path::new(&folder).join(name), picture).unwrap();
    }
}

//! Operations on caches in a browser: with scripts, and with the keyboard alone without them.

use fantoccini::Client;
use fantoccini::key::Key;
use store::{
    EventAction, EventCause, InstanceState, NewInstanceEvent, Operation, OperationProgress, OperationState,
    now,
};

use super::driver::{BrowserOptions, Driver};
use super::flow::Flow;
use super::{EMAIL, PASSWORD, Site};

/// More than any page has elements that can be focused.
const TABS_MAX: usize = 100;

async fn newest(site: &Site) -> Operation {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap();
    site.store.operations_of(&cache.id, 1).await.unwrap().remove(0)
}

async fn record(site: &Site, state: OperationState, progress: i64, message: &str) {
    let recorded = OperationProgress { state, progress, message: Some(message.to_owned()), checkpoint: None };
    site.store.record_operation(&newest(site).await.id, &recorded).await.unwrap();
}

/// Focuses an element with the tab key.
async fn tab_to(browser: &Client, id: &str) {
    for _ in 0..TABS_MAX {
        let focused = browser.active_element().await.unwrap();
        if focused.attr("id").await.unwrap().as_deref() == Some(id) {
            return;
        }
        focused.send_keys(&char::from(Key::Tab).to_string()).await.unwrap();
    }
    panic!("the tab key doesn't reach #{id}");
}

async fn enter(browser: &Client) {
    let focused = browser.active_element().await.unwrap();
    focused.send_keys(&char::from(Key::Enter).to_string()).await.unwrap();
}

async fn open_settings(flow: &Flow<'_>) {
    flow.open("/caches").await;
    flow.click(".cache-tabs [href$=settings]").await;
    flow.find("#resize-form").await;
}

#[tokio::test]
async fn an_operation_is_shown_as_it_happens() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions::default()).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));
    flow.sign_up(EMAIL, PASSWORD).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    open_settings(&flow).await;
    flow.find("#memory-mb").await.clear().await.unwrap();
    flow.find("#memory-mb").await.send_keys("32").await.unwrap();
    flow.click("#resize-form button").await;
    assert!(flow.text("#requested").await.starts_with("Resize requested."));
    assert_eq!(flow.text("#operation-title").await, "Resizing to 32 MB");
    record(&site, OperationState::Running, 40, "9 MB are still to be given back").await;
    flow.find("#operation-progress[value=\"40\"]").await;
    assert_eq!(flow.text("#operation-message").await, "9 MB are still to be given back");
    record(&site, OperationState::Done, 100, "memcached has 32 MB; nothing was evicted").await;
    flow.find("#operation-ended.success").await;
    let text = "Resize to 32 MB done: memcached has 32 MB; nothing was evicted.";
    assert_eq!(flow.text("#operation-ended").await, text);
    assert!(!flow.find("#operation").await.is_displayed().await.unwrap());
    assert!(!browser.source().await.unwrap().contains("id=\"requested\""));
    // An error is beside its field, which has the focus and what was typed.
    flow.find("#memory-mb").await.clear().await.unwrap();
    flow.find("#memory-mb").await.send_keys("lots").await.unwrap();
    flow.click("#resize-form button").await;
    flow.find("#resize-error").await;
    let focused = browser.active_element().await.unwrap();
    assert_eq!(focused.attr("id").await.unwrap().as_deref(), Some("memory-mb"));
    assert_eq!(focused.prop("value").await.unwrap().as_deref(), Some("lots"));
    browser.close().await.unwrap();
}

#[tokio::test]
async fn operations_work_with_the_keyboard_and_without_scripts() {
    let site = Site::start().await;
    let driver = Driver::start().await;
    let browser = driver.browser(BrowserOptions { without_scripts: true, ..BrowserOptions::default() }).await;
    let flow = Flow::new(&browser, format!("http://{}", site.address));
    flow.sign_up(EMAIL, PASSWORD).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    open_settings(&flow).await;
    tab_to(&browser, "restart").await;
    enter(&browser).await;
    assert_eq!(flow.text("#contents").await, "All contents are lost.");
    tab_to(&browser, "confirm").await;
    enter(&browser).await;
    flow.find("#requested").await;
    record(&site, OperationState::Done, 100, "memcached was restarted").await;
    // The page reloads by itself.
    flow.find("#operation-ended.success").await;

    tab_to(&browser, "delete").await;
    enter(&browser).await;
    flow.find("#delete-form").await;
    tab_to(&browser, "delete-name").await;
    browser.active_element().await.unwrap().send_keys("defualt").await.unwrap();
    enter(&browser).await;
    flow.find("#delete-error").await;
    tab_to(&browser, "delete-name").await;
    flow.find("#delete-name").await.clear().await.unwrap();
    flow.find("#delete-name").await.send_keys("default").await.unwrap();
    enter(&browser).await;
    flow.find("#cache-deleted").await;
    tab_to(&browser, "cache-name").await;
    browser.active_element().await.unwrap().send_keys("staging").await.unwrap();
    enter(&browser).await;
    flow.revealed_token().await;
    assert_eq!(flow.text("#token-cache").await, "staging");
    browser.close().await.unwrap();
}

/// Makes the pages show a repair and an operation that goes on.
async fn happen(site: &Site) {
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let instance = site.store.first_instance_of(&user.id).await.unwrap().unwrap();
    let event = NewInstanceEvent {
        instance_id: instance.id,
        cause: EventCause::OutOfMemory,
        action: EventAction::Started,
        contents_lost: true,
        detail: String::new(),
        at: now(),
    };
    site.store.add_instance_events(&[event]).await.unwrap();
    let owner = site.store.acting_as(&format!("user {}", user.id));
    let resize = store::NewOperation::Resize { memory_mb: 32 };
    owner.request_operation(&instance.cache_id, resize).await.unwrap();
    record(site, OperationState::Running, 40, "9 MB are still to be given back").await;
}

/// Opens the pages of operations, and calls `visit` with a name for each.
pub(super) async fn every_page(flow: &Flow<'_>, site: &Site, visit: &impl AsyncFn(&str)) {
    happen(site).await;
    for page in ["settings", "activity"] {
        flow.open("/caches").await;
        flow.click(&format!(".cache-tabs [href$={page}]")).await;
        flow.find(&format!("[aria-current=page][href$={page}]")).await;
        visit(&format!("{page}-busy")).await;
    }
    record(site, OperationState::Failed, 40, "memcached keeps 40 MB: restart the cache, which empties it")
        .await;
    open_settings(flow).await;
    flow.click("#resize-form button").await;
    flow.find("#resize-error").await;
    visit("settings-error").await;
    for action in ["restart", "flush", "suspend", "delete"] {
        open_settings(flow).await;
        flow.click(&format!("#{action}")).await;
        flow.find(&format!("#{action}-form")).await;
        visit(action).await;
    }
    flow.open("/caches?all").await;
    flow.find("#caches-count").await;
    visit("caches").await;
}

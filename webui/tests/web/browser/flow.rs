//! Steps of a new user in a browser. Finds elements by ids and data attributes, never by text.

use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, Locator};

const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A browser that shows the web UI.
#[derive(Debug)]
pub(crate) struct Flow<'a> {
    browser: &'a Client,
    /// `http://host:port`
    base: String,
}

/// A token as a page reveals it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RevealedToken {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) token: String,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(browser: &'a Client, base: impl Into<String>) -> Self {
        Self { browser, base: base.into() }
    }

    pub(crate) async fn open(&self, path: &str) {
        self.browser.goto(&format!("{}{path}", self.base)).await.unwrap();
    }

    /// Signs up from the home page; returns the first token.
    pub(crate) async fn sign_up(&self, email: &str, password: &str) -> RevealedToken {
        self.open("/").await;
        self.click("#get-cache").await;
        self.fill_in("#sign-up-form", email, password).await;
        self.revealed_token().await
    }

    pub(crate) async fn sign_in(&self, email: &str, password: &str) {
        self.open("/sign-in").await;
        self.fill_in("#sign-in-form", email, password).await;
        self.find("#state").await;
    }

    pub(crate) async fn sign_out(&self) {
        self.click("#sign-out button").await;
        self.find("#signed-out").await;
    }

    /// Opens the list of the cache's tokens.
    pub(crate) async fn open_tokens(&self) {
        self.open("/caches").await;
        self.click(".cache-tabs [href$=tokens]").await;
        self.find("#token-form").await;
    }

    /// Opens what the cache used.
    pub(crate) async fn open_usage(&self) {
        self.open("/caches").await;
        self.click(".cache-tabs [href$=usage]").await;
        self.find("#usage").await;
    }

    /// Creates a token on its page.
    pub(crate) async fn create_token(&self, name: &str) -> RevealedToken {
        self.open_tokens().await;
        self.find("#token-name").await.send_keys(name).await.unwrap();
        self.click("#token-form button").await;
        self.revealed_token().await
    }

    /// Revokes a token and waits until the list shows it as inactive.
    pub(crate) async fn revoke(&self, username: &str) {
        let id = username.strip_prefix("mg_").unwrap();
        self.open_tokens().await;
        self.click(&format!("[data-revoke=\"{id}\"]")).await;
        self.click("#revoke-form button").await;
        // It is in a closed <details>: present, but not displayed.
        self.find(&format!("[data-inactive-token=\"{id}\"]")).await;
    }

    /// Usernames of the active tokens.
    pub(crate) async fn tokens(&self) -> Vec<String> {
        let mut usernames = Vec::new();
        for item in self.browser.find_all(Locator::Css("[data-token] code")).await.unwrap() {
            usernames.push(item.text().await.unwrap());
        }
        usernames
    }

    /// The token that this page reveals.
    pub(crate) async fn revealed_token(&self) -> RevealedToken {
        RevealedToken {
            token: self.text("#token").await,
            username: self.text("#token-username").await,
            password: self.text("#token-password").await,
        }
    }

    /// `pending`, `running`, ...
    pub(crate) async fn state(&self) -> String {
        self.find("#state").await.attr("data-state").await.unwrap().unwrap()
    }

    /// Waits, without reloading, until the page shows a state.
    pub(crate) async fn wait_for_state(&self, state: &str) {
        self.find(&format!("#state[data-state=\"{state}\"]")).await;
    }

    pub(crate) async fn text(&self, css: &str) -> String {
        self.find(css).await.text().await.unwrap()
    }

    pub(crate) async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Waits until the page has an element that matches.
    pub(crate) async fn find(&self, css: &str) -> Element {
        let found =
            self.browser.wait().at_most(TIMEOUT).every(POLL_INTERVAL).for_element(Locator::Css(css)).await;
        match found {
            Ok(element) => element,
            Err(error) => panic!("no {css}: {error}\n{}", self.browser.source().await.unwrap_or_default()),
        }
    }

    async fn fill_in(&self, form: &str, email: &str, password: &str) {
        self.find(&format!("{form} [name=email]")).await.send_keys(email).await.unwrap();
        self.find(&format!("{form} [name=password]")).await.send_keys(password).await.unwrap();
        self.click(&format!("{form} button")).await;
    }
}

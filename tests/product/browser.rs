//! A new user in a real browser against real containers: sign up, wait for the cache, use the token, sign out
//! and in, create a second token, revoke the first.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::harness::{Credentials, Product, deadline_in};
use crate::text_client::TextClient;

/// From sign-up until the page shows a running cache.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(20);

/// A chromedriver process, killed at the end of the test.
struct Driver {
    process: Child,
    port: u16,
}

impl Driver {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing: run ./deploy/test, which installs it");
        Self { process, port }
    }

    async fn browser(&self) -> Client {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ];
        let options = json!({ "goog:chromeOptions": { "args": arguments } });
        let options = options.as_object().unwrap().clone();
        let deadline = deadline_in(20);
        loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder
                .capabilities(options.clone())
                .connect(&format!("http://127.0.0.1:{}", self.port))
                .await
            {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The current page, with the actions of a person.
struct Page<'a>(&'a Client);

impl Page<'_> {
    async fn fill(&self, field: &str, value: &str) {
        self.0.find(Locator::Css(field)).await.unwrap().send_keys(value).await.unwrap();
    }

    async fn click(&self, selector: &str) {
        self.0.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    async fn text(&self, selector: &str) -> String {
        let element = self.0.wait().at_most(TIMEOUT).for_element(Locator::Css(selector)).await;
        element.unwrap_or_else(|error| panic!("no {selector}: {error}")).text().await.unwrap()
    }

    async fn wait_for(&self, selector: &str, timeout: Duration) {
        let found = self.0.wait().at_most(timeout).for_element(Locator::Css(selector)).await;
        found.unwrap_or_else(|error| panic!("no {selector} within {timeout:?}: {error}"));
    }
}

async fn shown_credentials(page: &Page<'_>, product: &Product) -> Credentials {
    let shown = Credentials {
        email: "ada@example.org".into(),
        username: page.text("#token-username").await,
        password: page.text("#token-password").await,
        token: page.text("#token").await,
    };
    product.register_secret(&shown.password);
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_user_gets_a_cache_and_uses_it() {
    let product = tokio::task::block_in_place(Product::start);
    let driver = Driver::start();
    let browser = driver.browser().await;
    let tokens = sign_up_and_replace_token(&product, &browser).await;
    browser.close().await.unwrap();
    tokio::task::block_in_place(|| {
        let (first, second) = tokens;
        let login = |it: &Credentials| format!("{} {}", it.username, it.password);
        let reply = TextClient::connect(product.endpoint()).set("auth", login(&first).as_bytes());
        assert_eq!(reply, "CLIENT_ERROR authentication failure", "the revoked token");
        let value = TextClient::log_in(product.endpoint(), &second).get("from").unwrap();
        assert_eq!(value.as_deref(), Some(b"the first token".as_slice()));
        drop(product);
    });
}

/// Returns the first token, which is revoked at the end, and the second.
async fn sign_up_and_replace_token(product: &Product, browser: &Client) -> (Credentials, Credentials) {
    let page = Page(browser);
    // The log must not contain this password at the end.
    let password = "a long enough sentence";
    product.register_secret(password);
    browser.goto(&format!("http://{}/sign-up", product.web())).await.unwrap();
    page.fill("#email", "ada@example.org").await;
    page.fill("#password", password).await;
    page.click("#sign-up-form button").await;
    page.wait_for("#state[data-state='running']", RUNNING_TIMEOUT).await;
    let first = shown_credentials(&page, product).await;
    assert!(page.text("#tls-shell-printf").await.contains(&product.endpoint().port().to_string()));
    tokio::task::block_in_place(|| {
        assert_eq!(TextClient::log_in(product.endpoint(), &first).set("from", b"the first token"), "STORED");
    });
    // The page shows that somebody has connected.
    page.wait_for("#first-use-state[data-first-use='connected']", TIMEOUT).await;
    assert!(page.text("#first-use-state").await.starts_with("Connected from 127.0.0.1"));

    page.click("#sign-out button").await;
    page.wait_for("#signed-out", TIMEOUT).await;
    page.fill("#email", "ada@example.org").await;
    page.fill("#password", password).await;
    page.click("#sign-in-form button").await;
    page.wait_for("#endpoint", TIMEOUT).await;
    assert_eq!(page.text("#endpoint").await, product.endpoint().to_string());
    page.click(".cache-tabs [href$=tokens]").await;
    page.wait_for("#token-form", TIMEOUT).await;
    page.fill("#token-name", "second").await;
    page.click("#token-form button").await;
    let second = shown_credentials(&page, product).await;
    assert_ne!(first.username, second.username);

    page.click("#token-saved").await;
    page.wait_for("#token-form", TIMEOUT).await;
    page.click(&format!("[data-revoke='{}']", first.username.trim_start_matches("mg_"))).await;
    page.wait_for("#revoke-form", TIMEOUT).await;
    page.click("#revoke-form button").await;
    page.wait_for(&format!("[data-inactive-token='{}']", first.username.trim_start_matches("mg_")), TIMEOUT)
        .await;
    (first, second)
}

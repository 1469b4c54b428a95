//! The newcomer's way, in a real browser against real containers: sign up, see the cache come up, use
//! the token, sign out and in, make a second token, revoke the first.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::support::{Credentials, Product, within};
use crate::text::Text;

/// Sign-up to running, as a newcomer sees it.
const RUNNING_WITHIN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);

/// chromedriver, ended with the test.
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
        let deadline = within(20);
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

/// The page at hand, and what a person would do with it.
struct Page<'a>(&'a Client);

impl Page<'_> {
    async fn fill(&self, field: &str, value: &str) {
        self.0.find(Locator::Css(field)).await.unwrap().send_keys(value).await.unwrap();
    }

    async fn click(&self, what: &str) {
        self.0.find(Locator::Css(what)).await.unwrap().click().await.unwrap();
    }

    async fn text(&self, of: &str) -> String {
        let element = self.0.wait().at_most(PATIENCE).for_element(Locator::Css(of)).await;
        element.unwrap_or_else(|error| panic!("no {of}: {error}")).text().await.unwrap()
    }

    async fn there(&self, what: &str, at_most: Duration) {
        let waited = self.0.wait().at_most(at_most).for_element(Locator::Css(what)).await;
        waited.unwrap_or_else(|error| panic!("no {what} within {at_most:?}: {error}"));
    }
}

async fn token_shown(page: &Page<'_>, product: &Product) -> Credentials {
    let shown = Credentials {
        email: "ada@example.org".into(),
        username: page.text("#token-username").await,
        password: page.text("#token-password").await,
        token: page.text("#token").await,
    };
    product.keep_secret(&shown.password);
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_gets_a_cache_and_uses_it() {
    let product = tokio::task::block_in_place(Product::start);
    let driver = Driver::start();
    let browser = driver.browser().await;
    let walked = walk(&product, &browser).await;
    browser.close().await.unwrap();
    tokio::task::block_in_place(|| {
        let (first, second) = walked;
        let login = |who: &Credentials| format!("{} {}", who.username, who.password);
        let refused = Text::connect(product.endpoint()).set("auth", login(&first).as_bytes());
        assert_eq!(refused, "CLIENT_ERROR authentication failure", "the revoked one");
        let kept = Text::log_in(product.endpoint(), &second).get("from").unwrap();
        assert_eq!(kept.as_deref(), Some(b"the first token".as_slice()));
        drop(product);
    });
}

/// Gives the first token, revoked at the end, and the second.
async fn walk(product: &Product, browser: &Client) -> (Credentials, Credentials) {
    let page = Page(browser);
    // A password to look for in the log at the end.
    let password = "a long enough sentence";
    product.keep_secret(password);
    browser.goto(&format!("http://{}/sign-up", product.web())).await.unwrap();
    page.fill("#email", "ada@example.org").await;
    page.fill("#password", password).await;
    page.click("#sign-up-form button").await;
    page.there("#state[data-state='running']", RUNNING_WITHIN).await;
    assert_eq!(page.text("#endpoint").await, product.endpoint().to_string());
    let first = token_shown(&page, product).await;
    tokio::task::block_in_place(|| {
        assert_eq!(Text::log_in(product.endpoint(), &first).set("from", b"the first token"), "STORED");
    });

    page.click("#sign-out button").await;
    page.there("#signed-out", PATIENCE).await;
    page.fill("#email", "ada@example.org").await;
    page.fill("#password", password).await;
    page.click("#sign-in-form button").await;
    page.there("#token-form", PATIENCE).await;
    page.fill("#token-name", "second").await;
    page.click("#token-form button").await;
    let second = token_shown(&page, product).await;
    assert_ne!(first.username, second.username);

    page.click(&format!("[data-revoke='{}']", first.username.trim_start_matches("mg_"))).await;
    page.there("#revoke-form", PATIENCE).await;
    page.click("#revoke-form button").await;
    page.there(&format!("[data-revoked-token='{}']", first.username.trim_start_matches("mg_")), PATIENCE)
        .await;
    (first, second)
}

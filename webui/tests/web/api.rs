//! The JSON API: a client, and what holds for all of it. Each resource has a module.

mod caches;
mod errors;
mod idempotency;
mod keys;
mod limits;
mod matrix;
mod metrics;
mod reads;
mod schemathesis;
mod tokens;
mod webhooks;

use serde_json::Value;
use store::{ApiKey, ApiScopes, NewApiKey, TokenKey};

use crate::harness::{Response, Site, Visitor};

/// A client with an API key.
#[derive(Clone)]
pub(super) struct Client {
    visitor: Visitor,
    pub(super) key: String,
    pub(super) user_id: String,
    /// Id of the user's first cache.
    pub(super) cache: String,
    /// Id of its first token.
    pub(super) token: String,
}

/// A site and a client whose key has every scope.
pub(super) async fn start() -> (Site, Client) {
    start_with(|_| {}).await
}

pub(super) async fn start_with(change: impl FnOnce(&mut webui::Config)) -> (Site, Client) {
    let site = Site::start_with(|config| {
        config.limits.tokens_per_hour = 1000;
        config.limits.cache_changes_per_hour = 1000;
        config.limits.api_requests_per_minute = 100_000;
        change(config);
    })
    .await;
    let client = Client::of(&site, "ann@example.com", ApiScopes::ALL).await;
    (site, client)
}

impl Client {
    /// A new user's client, with a key that has these scopes.
    pub(super) async fn of(site: &Site, email: &str, scopes: ApiScopes) -> Self {
        let (_, page) = site.sign_up_user(email).await;
        let token = page.tokens().pop().unwrap();
        let user = site.store.user_by_email(email).await.unwrap().unwrap();
        let cache = site.store.first_cache_of(&user.id).await.unwrap().unwrap().id;
        let key = site.create_api_key(&user.id, scopes).await;
        Self { visitor: site.visitor(), key, user_id: user.id, cache, token }
    }

    /// The same user with another key.
    pub(super) async fn with_scopes(&self, site: &Site, scopes: ApiScopes) -> Self {
        Self { key: site.create_api_key(&self.user_id, scopes).await, ..self.clone() }
    }

    /// Sends a request with these headers, and with the key unless there are others.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let path = path.replace("{cache}", &self.cache).replace("{token}", &self.token);
        let mut request = self.visitor.request_head(method, &format!("/api/v1{path}"));
        if !headers.iter().any(|(name, _)| *name == "Authorization") {
            request += &format!("Authorization: Bearer {}\r\n", self.key);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.visitor.clone().send(request.as_bytes()).await
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    /// Reads a resource, which has to be there.
    pub(super) async fn read(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        json(&response)
    }

    pub(super) async fn delete(&self, path: &str) -> Response {
        self.send("DELETE", path, &[], "").await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Response {
        self.send("POST", path, &[("Content-Type", "application/json")], body).await
    }

    pub(super) async fn patch(&self, path: &str, body: &str) -> Response {
        self.send("PATCH", path, &[("Content-Type", "application/json")], body).await
    }
}

impl Site {
    pub(super) async fn create_api_key(&self, user_id: &str, scopes: ApiScopes) -> String {
        let new = NewApiKey { key: ApiKey::generate(), name: "test", scopes, expires_at: None };
        self.store.create_api_key(&self.token_key(), user_id, &new).await.unwrap();
        new.key.reveal()
    }

    fn token_key(&self) -> TokenKey {
        TokenKey::load(&self.folder().join("token.key")).unwrap()
    }
}

/// The body of an answer.
pub(super) fn json(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.body))
}

/// Checks that an answer is an error with this status and code, which says how to fix it.
pub(super) fn require_problem(response: &Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status, status, "{}", response.body);
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{}", response.body);
    let problem = json(response);
    assert_eq!(problem["code"], code, "{problem}");
    assert_eq!(problem["status"], status);
    assert!(status != 429 || response.header("retry-after").is_some(), "{:?}", response.headers);
    assert_eq!(problem["type"], format!("/api#error-{code}"));
    assert!(problem["detail"].as_str().unwrap().len() > 10 && problem["errors"].is_array(), "{problem}");
    problem
}

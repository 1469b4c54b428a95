//! Webhooks on their pages, and what reaches their receivers.

mod deliveries;
mod pages;

use store::Token;

use crate::harness::{PASSWORD, Response, Site, Visitor};
use crate::webhook_receiver::Receiver;

const PAGE: &str = "/account/webhooks";
const EMAIL: &str = "ann@example.com";
/// Some kinds, as a form sends them.
const KINDS: [&str; 3] = ["token_leaked", "cache_failed", "webhook_disabled"];

/// A web UI that may send to a receiver.
async fn start(receiver: &Receiver) -> (Site, tempfile::TempDir) {
    let mut folder = None;
    let site = Site::start_with(|config| {
        folder = Some(receiver.configure(config));
        config.limits.sign_ins_per_minute = 100;
    })
    .await;
    (site, folder.unwrap())
}

/// With the right password, unless the fields have another.
async fn create(visitor: &mut Visitor, fields: &[(&str, &str)]) -> Response {
    visitor.get(PAGE).await;
    let mut fields = fields.to_vec();
    if fields.iter().all(|(name, _)| *name != "password") {
        fields.push(("password", PASSWORD));
    }
    visitor.post(PAGE, &fields).await
}

/// Creates a webhook for some kinds; returns its id and its secret.
async fn create_for(visitor: &mut Visitor, url: &str) -> (String, String) {
    let fields: Vec<(&str, &str)> = [("url", url)].into_iter().chain(KINDS.map(|kind| (kind, ""))).collect();
    let created = create(visitor, &fields).await;
    assert_eq!(created.status, 200, "{}", created.body);
    let id = created.body.split("data-webhook-id=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    (id, created.text("webhook-secret").unwrap().to_owned())
}

async fn user_id(site: &Site, email: &str) -> String {
    site.store.user_by_email(email).await.unwrap().unwrap().id
}

/// Reports the token that a page shows as found in public.
async fn leak(site: &Site, page: &Response) {
    let token = Token::parse(page.text("token").unwrap()).unwrap();
    let body =
        serde_json::json!([{ "token": token.reveal(), "url": "https://git.example/a", "source": "commit" }])
            .to_string();
    let mut scanner = site.visitor();
    let head = scanner.request_head("POST", "/leaked-tokens");
    let request =
        format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(scanner.send(request.as_bytes()).await.status, 200);
}

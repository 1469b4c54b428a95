//! Schemathesis makes requests from the API's document, valid ones and others, and compares the answers with it.

use std::path::PathBuf;

use store::{ApiScopes, InstanceState};
use tokio::process::Command;

use super::{Client, start_with};

/// Requests of each operation and phase.
const EXAMPLES: &str = "12";
/// Seconds that an answer may take. How fast they are isn't tested here: the machine may be busy.
const REQUEST_TIMEOUT: &str = "60";
/// What the answers have to be.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,unsupported_method,\
    allow_header_conformance,ignored_auth,use_after_free";

/// Where `deploy/test` installs it, unless the variable names another place.
fn program() -> PathBuf {
    let named = std::env::var_os("MEMGATE_TEST_SCHEMATHESIS").map(PathBuf::from);
    let installed = "../target/tools/schemathesis/bin/schemathesis";
    named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(installed))
}

/// Ids that exist, without which most answers would be 404; others for what deletes them.
async fn ids(client: &Client) -> String {
    let spare = super::json(&client.post("/caches", r#"{"name":"spare"}"#).await);
    let token = super::json(&client.post("/caches/{cache}/tokens", r#"{"name":"spare"}"#).await);
    let certificate = super::json(&client.post("/tokens/{token}/certificates", "{}").await);
    let operation = super::json(&client.post("/caches/{cache}/operations", r#"{"kind":"flush"}"#).await);
    let webhook = super::json(&client.post("/webhooks", r#"{"url":"https://hooks.example/x"}"#).await);
    let spare_webhook = super::json(&client.post("/webhooks", r#"{"url":"https://hooks.example/y"}"#).await);
    let test = format!("/webhooks/{}/test", webhook["id"].as_str().unwrap());
    let delivery = super::json(&client.post(&test, "{}").await);
    let id = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap().to_owned();
    format!(
        "[parameters]\n\"path.cache\" = \"{}\"\n\"path.token\" = \"{}\"\n\"path.operation\" = \"{}\"\n\
         \"path.fingerprint\" = \"{}\"\n\"path.connection\" = \"1-1@proxy\"\n\"path.webhook\" = \"{}\"\n\"path.delivery\" = \"{}\"\n\n\
         [[operations]]\ninclude-name = \"DELETE /caches/{{cache}}\"\nparameters = {{ \"path.cache\" = \"{}\" }}\n\n\
         [[operations]]\ninclude-name = \"DELETE /tokens/{{token}}\"\nparameters = {{ \"path.token\" = \"{}\" }}\n\n\
         [[operations]]\ninclude-name = \"DELETE /webhooks/{{webhook}}\"\nparameters = {{ \"path.webhook\" = \"{}\" }}\n",
        client.cache,
        client.token,
        id(&operation, "id"),
        id(&certificate, "fingerprint"),
        id(&webhook, "id"),
        id(&delivery, "id"),
        id(&spare, "id"),
        id(&token, "id"),
        id(&spare_webhook, "id"),
    )
}

// W-24.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_documented() {
    let (site, client) = start_with(|config| {
        config.limits.api_key_failures_per_minute = 100_000;
        config.limits.tokens_at_once = 1000;
        config.limits.tokens_per_hour = 100_000;
        config.limits.connections_per_minute = 100_000;
        config.caches_per_user = 5;
    })
    .await;
    site.set_state("ann@example.com", InstanceState::Running).await;
    let bob = Client::of(&site, "bob@example.com", ApiScopes::ALL).await;
    let of_bob = async || (bob.read("/caches/{cache}/operations").await, bob.read("/tokens/{token}").await);
    let before = of_bob().await;
    let program = program();
    let document = format!("http://{}/api/v1/openapi.json", site.address);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), ids(&client).await).unwrap();
    let output = Command::new(&program)
        .args(["run", &document, "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", "1"])
        .args(["--header", &format!("Authorization: Bearer {}", client.key)])
        .args(["--request-timeout", REQUEST_TIMEOUT, "--suppress-health-check", "all"])
        .args(["--generation-database", "none", "--no-color", "--continue-on-failure"])
        .current_dir(folder.path())
        .output()
        .await
        .unwrap_or_else(|error| {
            panic!("{error}: {} is installed by deploy/test", program.display());
        });
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(before, of_bob().await, "what is another user's");
    println!("{text}");
    // It has done something, too.
    let entries = site.store.audit_by_user(&client.user_id, i64::MAX, 100_000).await.unwrap();
    for action in
        ["token.create", "token.update", "token.rotate", "certificate.issue", "cache.create", "cache.delete"]
    {
        assert!(entries.iter().any(|entry| entry.action == action), "no {action}");
    }
}

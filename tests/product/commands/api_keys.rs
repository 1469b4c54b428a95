//! `memgate api-key`: keys of the JSON API.

use super::{failure, migrated};

#[test]
fn keys_are_created_listed_and_revoked() {
    let installation = migrated();
    installation.json(&["user", "add", "ada@example.org", "--no-wait"]);
    let create = ["api-key", "create", "ada@example.org", "--name", "ci", "--scope", "tokens,read"];
    let made = installation.json(&[&create[..], &["--expires", "30d"]].concat());
    let (id, key) = (made["id"].as_str().unwrap(), made["api_key"].as_str().unwrap());
    assert!(key.starts_with(&format!("mgk_{id}_")), "{made}");
    assert_eq!(made["scopes"], serde_json::json!(["read", "tokens"]));
    let listed = installation.json(&["api-key", "list", "ada@example.org"]);
    assert_eq!(listed["api_keys"][0]["name"], "ci");
    assert!(!listed.to_string().contains(key), "shown once");
    let revoked = installation.json(&["api-key", "revoke", key]);
    assert!(revoked["revoked_at"].is_number());
    installation.json(&["api-key", "revoke", id]);
    let words = String::from_utf8(installation.run(&["api-key", "list", "ada@example.org"]).stdout).unwrap();
    assert!(words.contains("revoked ") && words.contains(&format!("mgk_{id}")), "{words}");
    let (error, _) = failure(&installation, &["api-key", "revoke", "mgk_aaaaaaaaaaaa"], 1);
    assert!(error.contains("no such API key"), "{error}");
    failure(&installation, &[&create[..], &["--expires", "0s"]].concat(), 2);
    failure(&installation, &["api-key", "create", "ada@example.org", "--scope", "admin"], 2);
}

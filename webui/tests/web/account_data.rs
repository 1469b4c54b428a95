//! Download of what the service has of a user: complete, without secrets, and without anything of others.

use crate::harness::{PASSWORD, Site};

// W-22, W-11.
#[tokio::test]
async fn data_is_the_users_own_and_has_no_secret() {
    let site = Site::start().await;
    let (mut ada, page) = site.sign_up_user("ada@example.com").await;
    let secret = page.text("token-password").unwrap().to_owned();
    let (bob, bobs) = site.sign_up_user("bob@example.com").await;
    site.visitor_from([127, 0, 0, 9]).sign_in("ada@example.com", PASSWORD).await;
    assert!(ada.get("/account").await.body.contains("href=\"/account/data.json\""));
    let data = ada.get("/account/data.json").await;
    assert_eq!(data.status, 200);
    assert_eq!(data.header("content-type"), Some("application/json"));
    assert_eq!(data.header("content-disposition"), Some("attachment; filename=\"memgate-account.json\""));
    assert_eq!(data.header("cache-control"), Some("no-store"));
    let document: serde_json::Value = serde_json::from_str(&data.body).unwrap();
    assert_eq!(document["account"]["email"], "ada@example.com");
    assert_eq!(document["caches"][0]["id"].as_str(), Some(ada.cache.as_str()));
    assert_eq!(document["tokens"][0]["id"].as_str(), Some(page.tokens()[0].as_str()));
    assert_eq!(document["sessions"].as_array().unwrap().len(), 2);
    assert!(document["sessions"].to_string().contains("127.0.0.9"));
    assert_eq!(document["audit_entries"][0]["action"], "user.sign_in");
    let session = &ada.cookies["memgate"];
    for hidden in
        [secret.as_str(), session, "argon2", "form_token", "id_hash", "secret_hash", &ada.csrf_token]
    {
        assert!(!data.body.contains(hidden), "{hidden}");
    }
    for other in ["bob@example.com", bob.cache.as_str(), &bobs.tokens()[0]] {
        assert!(!data.body.contains(other), "{other}");
    }
    assert_eq!(site.visitor().get("/account/data.json").await.status, 303);
    for _ in 0..5 {
        assert_eq!(ada.get("/account/data.json").await.status, 200);
    }
    assert_eq!(ada.get("/account/data.json").await.status, 429);
    assert_eq!(site.limited("data_downloads"), 1);
}

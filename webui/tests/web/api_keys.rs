//! The page of API keys: a key is created, shown once and revoked, and hidden from other users.

use store::{ApiKey, ApiScope, ApiScopes, now};

use crate::harness::{PASSWORD, Site, Visitor};

const PAGE: &str = "/account/api-keys";

/// With the right password, unless the fields have another.
async fn create(visitor: &mut Visitor, fields: &[(&str, &str)]) -> crate::harness::Response {
    visitor.get(PAGE).await;
    let mut fields = fields.to_vec();
    if fields.iter().all(|(name, _)| *name != "password") {
        fields.push(("password", PASSWORD));
    }
    visitor.post(PAGE, &fields).await
}

// W-21, W-23: a key outlives the session that makes it.
#[tokio::test]
async fn a_key_takes_the_password_and_a_code() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let user = user_id(&site, "ann@example.com").await;
    for (password, status) in [("", 401), ("wrong horse battery", 401), (PASSWORD, 200)] {
        let response = create(&mut ann, &[("name", "ci"), ("read", ""), ("password", password)]).await;
        assert_eq!(response.status, status, "{password}");
        assert_eq!(response.text("api-key-password-error").is_some(), status == 401);
    }
    site.set_up_second_factor(&user).await;
    let refused = create(&mut ann, &[("name", "ci"), ("read", "")]).await;
    assert_eq!(refused.status, 401);
    assert!(refused.text("api-key-code-error").is_some(), "{}", refused.body);
    assert_eq!(site.store.api_keys_of(&user).await.unwrap().len(), 1);
}

async fn user_id(site: &Site, email: &str) -> String {
    site.store.user_by_email(email).await.unwrap().unwrap().id
}

// W-23.
#[tokio::test]
async fn a_key_is_created_shown_once_and_revoked() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    assert!(ann.get("/account").await.body.contains("href=\"/account/api-keys\""));
    let page = ann.get(PAGE).await;
    assert_eq!((page.status, page.text("api-key")), (200, None));
    let created = create(&mut ann, &[("name", "web shop"), ("read", ""), ("caches", ""), ("expires", "30d")]);
    let created = created.await;
    assert_eq!(created.status, 200, "{}", created.body);
    let key = ApiKey::parse(created.text("api-key").unwrap()).unwrap();
    let rows = site.store.api_keys_of(&user_id(&site, "ann@example.com").await).await.unwrap();
    let scopes: ApiScopes = [ApiScope::Read, ApiScope::Caches].into_iter().collect();
    assert_eq!((rows.len(), rows[0].scopes, &*rows[0].name), (1, scopes, "web shop"));
    assert!(rows[0].is_active(now()) && rows[0].expires_at.is_some());
    let page = ann.get(PAGE).await;
    assert!(page.body.contains("web shop") && page.body.contains(&format!("data-api-key=\"{}\"", key.id())));
    assert!(!page.body.contains(&key.reveal()), "shown once");

    let revoked = ann.post(&format!("{PAGE}/{}/revoke", key.id()), &[]).await;
    assert_eq!((revoked.status, revoked.location()), (303, "/account/api-keys?revoked"));
    let page = ann.get("/account/api-keys?revoked").await;
    assert!(page.text("revoked").is_some());
    assert!(page.body.contains(&format!("data-ended-api-key=\"{}\"", key.id())));
}

#[tokio::test]
async fn invalid_fields_are_told_beside_them_and_kept() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let long = "x".repeat(61);
    for (fields, error) in [
        (vec![("name", ""), ("read", "")], "api-key-name-error"),
        (vec![("name", &*long), ("read", "")], "api-key-name-error"),
        (vec![("name", "a\0b"), ("read", "")], "api-key-name-error"),
        (vec![("name", "ci")], "api-key-scopes-error"),
        (vec![("name", "ci"), ("read", ""), ("expires", "0s")], "api-key-expires-error"),
        (vec![("name", "ci"), ("read", ""), ("expires", "soon")], "api-key-expires-error"),
    ] {
        let response = create(&mut ann, &fields).await;
        assert_eq!(response.status, 422, "{fields:?}");
        assert!(response.text(error).is_some(), "{fields:?}: {}", response.body);
    }
    let kept = create(&mut ann, &[("name", "\"><script>"), ("tokens", "")]).await;
    assert_eq!(kept.status, 200);
    assert!(!kept.body.contains("<script>"));
    assert!(site.store.api_keys_of(&user_id(&site, "ann@example.com").await).await.unwrap().len() == 1);
}

// W-8, W-23.
#[tokio::test]
async fn keys_are_limited_in_number_and_rate() {
    let site = Site::start_with(|config| {
        config.limits.tokens_per_hour = 21;
        config.limits.sign_ins_per_minute = 100;
    })
    .await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..22 {
        statuses.push(create(&mut ann, &[("name", "ci"), ("read", "")]).await.status);
    }
    assert_eq!(statuses, [[200; 20].as_slice(), &[409, 429]].concat());
}

// W-6, W-11.
#[tokio::test]
async fn keys_of_other_users_are_not_found() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    let created = create(&mut ann, &[("name", "ci"), ("read", "")]).await;
    let key = ApiKey::parse(created.text("api-key").unwrap()).unwrap();
    bob.get(PAGE).await;
    for id in [key.id().as_str(), "aaaaaaaaaaaa", "x", "%00", &"a".repeat(3000)] {
        assert_eq!(bob.post(&format!("{PAGE}/{id}/revoke"), &[]).await.status, 404, "{id}");
    }
    let revoke = format!("{PAGE}/{}/revoke", key.id());
    assert_eq!(ann.post_without_token(&revoke, &[]).await.status, 403);
    assert_eq!(ann.post_without_token(PAGE, &[("name", "x"), ("read", "")]).await.status, 403);
    assert_eq!(site.visitor().get(PAGE).await.location(), format!("/sign-in?next={PAGE}"));
    assert!(site.store.api_key(&key.id()).await.unwrap().unwrap().is_active(now()));
}

// W-23.
#[tokio::test]
async fn keys_end_with_a_password_change_that_revokes_tokens() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user("ann@example.com").await;
    create(&mut ann, &[("name", "ci"), ("read", "")]).await;
    ann.get("/account").await;
    let fields =
        [("current_password", PASSWORD), ("new_password", "another battery"), ("revoke_tokens", "on")];
    assert_eq!(ann.post("/account/password", &fields).await.status, 303);
    let rows = site.store.api_keys_of(&user_id(&site, "ann@example.com").await).await.unwrap();
    assert!(rows.len() == 1 && !rows[0].is_active(now()));
}

//! Tokens: created, shown once, revoked, and hidden from other users.

use store::{NewCache, NewToken, Token, TokenId, TokenKey};

use crate::harness::Site;

#[tokio::test]
async fn tokens_are_created_shown_once_and_revoked() {
    let site = Site::start().await;
    let (mut visitor, first) = site.sign_up_user("a@example.com").await;
    let first = Token::parse(first.text("token").unwrap()).unwrap();
    visitor.get("/caches/{cache}/tokens").await;
    let created = visitor.post("/caches/{cache}/tokens", &[("name", "web shop")]).await;
    assert_eq!(created.status, 200);
    let second = Token::parse(created.text("token").unwrap()).unwrap();
    let page = visitor.get("/caches/{cache}/tokens").await;
    assert!(page.body.contains("web shop") && !page.body.contains(second.secret().reveal()));
    assert_eq!(page.tokens(), [first.id().as_str(), second.id().as_str()]);

    let address = format!("/tokens/{}/revoke", first.id());
    let confirm = visitor.get(&address).await;
    assert_eq!(confirm.status, 200);
    assert!(confirm.body.contains("First token"));
    let row = async || site.store.token(&first.id()).await.unwrap().unwrap();
    assert_eq!(row().await.revoked_at, None, "asking changes nothing");
    let tokens = visitor.path("/caches/{cache}/tokens?revoked");
    assert_eq!(visitor.post(&address, &[]).await.location(), tokens);
    assert!(row().await.revoked_at.is_some());
    let page = visitor.get("/caches/{cache}/tokens?revoked").await;
    assert!(page.text("revoked").is_some());
    assert_eq!(page.tokens(), [second.id().as_str()]);
    assert!(page.body.contains(&format!("data-inactive-token=\"{}\"", first.id())));
    assert_eq!(visitor.get(&address).await.status, 404, "it isn't there twice");
}

#[tokio::test]
async fn token_names_are_validated() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    for (name, status) in
        [("", 422), ("  ", 422), (&*"x".repeat(61), 422), ("a\r\nb", 422), (&*"é".repeat(60), 200)]
    {
        visitor.get("/caches/{cache}/tokens").await;
        let response = visitor.post("/caches/{cache}/tokens", &[("name", name)]).await;
        assert_eq!(response.status, status, "{name:?}");
        assert_eq!(response.body.contains("id=\"token-error\""), status != 200);
        assert_eq!(response.text("token").is_some(), status == 200);
    }
}

#[tokio::test]
async fn token_count_is_limited() {
    let site = Site::start_with(|config| config.limits.tokens_at_once = 3).await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        visitor.get("/caches/{cache}/tokens").await;
        statuses.push(visitor.post("/caches/{cache}/tokens", &[("name", "another")]).await.status);
    }
    assert_eq!(statuses, [200, 200, 409]);
    // Concurrent requests don't exceed the limit.
    let id = visitor.get("/caches/{cache}/tokens").await.tokens().pop().unwrap();
    visitor.post(&format!("/tokens/{id}/revoke"), &[]).await;
    let (mut one, mut other) = (visitor.clone(), visitor);
    let name = [("name", "at once")];
    let (one, other) =
        tokio::join!(one.post("/caches/{cache}/tokens", &name), other.post("/caches/{cache}/tokens", &name));
    assert_eq!(one.status.min(other.status), 200);
    let refused = if one.status == 409 { one } else { other };
    assert_eq!(
        refused.text("token-error"),
        Some("Cache default has reached the limit of 3 tokens. Revoke one that isn&#39;t in use.")
    );
}

// W-11.
/// Every route with two users: tokens of the other are answered like unknown ones.
#[tokio::test]
async fn tokens_of_other_users_are_not_found() {
    let site = Site::start().await;
    let (mut ann, ann_page) = site.sign_up_user("ann@example.com").await;
    let (mut bob, bob_page) = site.sign_up_user("bob@example.com").await;
    let id = |page: &crate::harness::Response| Token::parse(page.text("token").unwrap()).unwrap().id();
    let (anns, bobs) = (id(&ann_page), id(&bob_page));
    for (visitor, own, other) in [(&mut ann, anns, bobs), (&mut bob, bobs, anns)] {
        let page = visitor.get("/caches/{cache}/tokens").await;
        assert_eq!(page.tokens(), [own.as_str()]);
        let theirs = format!("/tokens/{other}/revoke");
        for id in [other.as_str(), "aaaaaaaaaaaa", "x", "%00", "..%2f..", &"a".repeat(3000)] {
            assert_eq!(visitor.get(&format!("/tokens/{id}")).await.status, 404, "{id}");
            for address in
                ["revoke", "rotate", "certificates", "edit"].map(|what| format!("/tokens/{id}/{what}"))
            {
                assert_eq!(visitor.get(&address).await.status, 404, "{id}");
                visitor.get("/caches/{cache}/tokens").await;
                assert_eq!(
                    visitor.post(&address, &[("grace", "0s"), ("has_scopes", "1")]).await.status,
                    404,
                    "{id}"
                );
            }
        }
        assert_eq!(visitor.get(&theirs).await.body, visitor.get("/tokens/aaaaaaaaaaaa/revoke").await.body);
    }
    for id in [anns, bobs] {
        let row = site.store.token(&TokenId::parse(id.as_str()).unwrap()).await.unwrap().unwrap();
        assert_eq!((row.revoked_at, row.successor), (None, None));
        assert_eq!(site.store.certificates_of(&id).await.unwrap(), []);
    }
    // A CSRF token of one session is rejected in another.
    ann.get("/caches/{cache}/tokens").await;
    bob.csrf_token = ann.csrf_token.clone();
    assert_eq!(bob.post("/caches/{cache}/tokens", &[("name", "crossed")]).await.status, 403);
    // Signed-out visitors are redirected to the sign-in page, whether the token exists or not.
    for path in [
        "/caches",
        "/caches/none/tokens",
        "/caches/none/state",
        "/caches/none/events",
        &format!("/tokens/{anns}/revoke"),
        &format!("/tokens/{anns}/rotate"),
        &format!("/tokens/{anns}/certificates"),
        &format!("/tokens/{anns}/edit"),
        "/tokens/aaaaaaaaaaaa/revoke",
    ] {
        let response = site.visitor().get(path).await;
        assert_eq!((response.status, response.location()), (303, &*format!("/sign-in?next={path}")));
    }
    let (revoke, rotate) = (format!("/tokens/{anns}/revoke"), format!("/tokens/{anns}/rotate"));
    let [certify, change] = ["certificates", "edit"].map(|what| format!("/tokens/{anns}/{what}"));
    for path in [
        "/caches/{cache}/tokens",
        "/sign-out",
        &revoke,
        &rotate,
        &certify,
        &change,
        "/account/password",
        "/account/delete",
    ] {
        let response = site.visitor().post(path, &[("name", "x")]).await;
        assert_eq!((response.status, response.location()), (303, "/sign-in?next=/caches"));
    }
}

#[tokio::test]
async fn tokens_of_a_second_cache_stay_off_the_page_of_the_first() {
    let site = Site::start_with(|config| config.limits.tokens_at_once = 2).await;
    let (mut visitor, first) = site.sign_up_user("a@example.com").await;
    let first = Token::parse(first.text("token").unwrap()).unwrap();
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let name = "sessions".parse().unwrap();
    let cache = site.store.create_cache(&NewCache { user_id: &user.id, name: &name, plan: None }, 2).await;
    let cache = cache.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&dir.path().join("token.key")).unwrap();
    let other = NewToken::generate(&key, "other app");
    site.store.create_token(&cache.id, &other).await.unwrap();
    let page = visitor.get("/caches/{cache}/tokens").await;
    assert_eq!(page.tokens(), [first.id().as_str()]);
    assert!(!page.body.contains("other app"));

    // The limit is one of each cache.
    assert_eq!(visitor.post("/caches/{cache}/tokens", &[("name", "second")]).await.status, 200);
    visitor.get("/caches/{cache}/tokens").await;
    assert_eq!(visitor.post("/caches/{cache}/tokens", &[("name", "third")]).await.status, 409);

    visitor.get("/caches/{cache}/tokens").await;
    let rotated = visitor.post(&format!("/tokens/{}/rotate", other.token.id()), &[("grace", "1h")]).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let new = Token::parse(rotated.text("token").unwrap()).unwrap();
    assert_eq!(rotated.text("token-cache"), Some("sessions"));
    let tokens = format!("id=\"token-saved\" href=\"/caches/{}/tokens\"", cache.id);
    assert!(rotated.body.contains(&tokens), "{}", rotated.body);
    assert_eq!(site.store.token(&new.id()).await.unwrap().unwrap().cache_id, cache.id);
    let page = visitor.get(&format!("/tokens/{}", new.id())).await;
    assert!(!page.body.contains(new.secret().reveal()));

    // The second cache has its two tokens now.
    visitor.get("/caches/{cache}/tokens").await;
    let rejected = visitor.post(&format!("/tokens/{}/rotate", new.id()), &[("grace", "1h")]).await;
    let error = "Cache sessions has reached the limit of 2 tokens. Revoke one that isn&#39;t in use.";
    assert_eq!((rejected.status, rejected.text("rotate-error")), (409, Some(error)));
}

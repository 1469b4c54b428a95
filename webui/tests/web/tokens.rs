//! Tokens: made, shown once, revoked; and nobody else's.

use store::{Token, TokenId};

use crate::harness::Site;

#[tokio::test]
async fn a_token_is_made_with_a_name_shown_once_and_revoked() {
    let site = Site::start().await;
    let (mut visitor, first) = site.newcomer("a@example.com").await;
    let first = Token::parse(first.text("token").unwrap()).unwrap();
    visitor.get("/cache").await;
    let made = visitor.post("/tokens", &[("name", "web shop")]).await;
    assert_eq!(made.status, 200);
    let second = Token::parse(made.text("token").unwrap()).unwrap();
    let page = visitor.get("/cache").await;
    assert!(page.body.contains("web shop") && !page.body.contains(second.secret().reveal()));
    assert_eq!(page.tokens(), [first.id().as_str(), second.id().as_str()]);
    assert_eq!(visitor.get("/tokens").await.location(), "/cache");

    let address = format!("/tokens/{}/revoke", first.id());
    let confirm = visitor.get(&address).await;
    assert_eq!(confirm.status, 200);
    assert!(confirm.body.contains("First token"));
    let row = async || site.store.token(&first.id()).await.unwrap().unwrap();
    assert_eq!(row().await.revoked_at, None, "asking changes nothing");
    assert_eq!(visitor.post(&address, &[]).await.location(), "/cache#tokens");
    assert!(row().await.revoked_at.is_some());
    let page = visitor.get("/cache").await;
    assert_eq!(page.tokens(), [second.id().as_str()]);
    assert!(page.body.contains(&format!("data-revoked-token=\"{}\"", first.id())));
    assert_eq!(visitor.get(&address).await.status, 404, "it isn't there twice");
}

#[tokio::test]
async fn names_are_checked() {
    let site = Site::start().await;
    let (mut visitor, _) = site.newcomer("a@example.com").await;
    for (name, status) in
        [("", 422), ("  ", 422), (&*"x".repeat(61), 422), ("a\r\nb", 422), (&*"é".repeat(60), 200)]
    {
        visitor.get("/cache").await;
        let answer = visitor.post("/tokens", &[("name", name)]).await;
        assert_eq!(answer.status, status, "{name:?}");
        assert_eq!(answer.body.contains("id=\"token-error\""), status != 200);
        assert_eq!(answer.text("token").is_some(), status == 200);
    }
}

#[tokio::test]
async fn there_is_a_most_of_tokens() {
    let site = Site::start_with(|config| config.limits.tokens_at_once = 3).await;
    let (mut visitor, _) = site.newcomer("a@example.com").await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        visitor.get("/cache").await;
        statuses.push(visitor.post("/tokens", &[("name", "another")]).await.status);
    }
    assert_eq!(statuses, [200, 200, 409]);
    // At once it is the same.
    let id = visitor.get("/cache").await.tokens().pop().unwrap();
    visitor.post(&format!("/tokens/{id}/revoke"), &[]).await;
    let (mut one, mut other) = (visitor.clone(), visitor);
    let name = [("name", "at once")];
    let (one, other) = tokio::join!(one.post("/tokens", &name), other.post("/tokens", &name));
    assert_eq!(one.status.min(other.status), 200);
    let refused = if one.status == 409 { one } else { other };
    assert_eq!(
        refused.text("token-error"),
        Some("You have 3 tokens, and that is the most. Revoke one that isn&#39;t in use.")
    );
}

// W-11.
/// Two users, every route: each sees own things only, and somebody else's aren't there.
#[tokio::test]
async fn somebody_elses_token_is_not_there() {
    let site = Site::start().await;
    let (mut ann, ann_page) = site.newcomer("ann@example.com").await;
    let (mut bob, bob_page) = site.newcomer("bob@example.com").await;
    let id = |page: &crate::harness::Answer| Token::parse(page.text("token").unwrap()).unwrap().id();
    let (anns, bobs) = (id(&ann_page), id(&bob_page));
    for (visitor, own, other) in [(&mut ann, anns, bobs), (&mut bob, bobs, anns)] {
        let page = visitor.get("/cache").await;
        assert_eq!(page.tokens(), [own.as_str()]);
        let theirs = format!("/tokens/{other}/revoke");
        for id in [other.as_str(), "aaaaaaaaaaaa", "x", "%00", "..%2f..", &"a".repeat(3000)] {
            assert_eq!(visitor.get(&format!("/tokens/{id}")).await.status, 404, "{id}");
            for address in
                ["revoke", "rotate", "certificate", "change"].map(|what| format!("/tokens/{id}/{what}"))
            {
                assert_eq!(visitor.get(&address).await.status, 404, "{id}");
                visitor.get("/cache").await;
                assert_eq!(
                    visitor.post(&address, &[("grace", "0s"), ("boxes", "1")]).await.status,
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
    // A form token of one is no good in the other's session.
    ann.get("/cache").await;
    bob.form_token = ann.form_token.clone();
    assert_eq!(bob.post("/tokens", &[("name", "crossed")]).await.status, 403);
    // A stranger is asked to sign in, and learns nothing about what is there.
    for path in [
        "/cache",
        "/cache/state",
        "/cache/live",
        &format!("/tokens/{anns}/revoke"),
        &format!("/tokens/{anns}/rotate"),
        &format!("/tokens/{anns}/certificate"),
        &format!("/tokens/{anns}/change"),
        "/tokens/aaaaaaaaaaaa/revoke",
    ] {
        let answer = site.visitor().get(path).await;
        assert_eq!((answer.status, answer.location()), (303, &*format!("/sign-in?next={path}")));
    }
    let (revoke, rotate) = (format!("/tokens/{anns}/revoke"), format!("/tokens/{anns}/rotate"));
    let [certify, change] = ["certificate", "change"].map(|what| format!("/tokens/{anns}/{what}"));
    for path in
        ["/tokens", "/sign-out", &revoke, &rotate, &certify, &change, "/account/password", "/account/delete"]
    {
        let answer = site.visitor().post(path, &[("name", "x")]).await;
        assert_eq!((answer.status, answer.location()), (303, "/sign-in?next=/cache"));
    }
}

//! What a token may do: chosen when it is made, shown in the list, handed on to its successor.

use store::{Permissions, Scopes, Token, TokenId, now};

use crate::harness::{Answer, Site, Visitor};

const HOUR: i64 = 60 * 60 * 1000;

fn made(answer: &Answer) -> TokenId {
    assert_eq!(answer.status, 200, "{}", answer.body);
    Token::parse(answer.text("token").unwrap()).unwrap().id()
}

async fn permissions(site: &Site, id: &TokenId) -> Permissions {
    site.store.token(id).await.unwrap().unwrap().permissions
}

async fn post(visitor: &mut Visitor, path: &str, fields: &[(&str, &str)]) -> Answer {
    visitor.get("/cache").await;
    visitor.post(path, fields).await
}

#[tokio::test]
async fn a_token_may_what_was_chosen() {
    let site = Site::start().await;
    let (mut visitor, first) = site.newcomer("a@example.com").await;
    assert_eq!(permissions(&site, &made(&first)).await, Permissions::ALL);
    let untouched = [("name", "all"), ("boxes", "1"), ("prefix", ""), ("expires", ""), ("allow_from", "")];
    let boxes = [("read", "on"), ("write", "on"), ("flush", "on"), ("stats", "on")];
    let all = post(&mut visitor, "/tokens", &[&untouched[..], &boxes].concat()).await;
    assert_eq!(permissions(&site, &made(&all)).await, Permissions::ALL);
    let fields = [
        ("name", "shop"),
        ("boxes", "1"),
        ("read", "on"),
        ("prefix", "<b>shop:"),
        ("expires", "30d"),
        ("allow_from", "10.0.0.0/8, ::1"),
    ];
    let id = made(&post(&mut visitor, "/tokens", &fields).await);
    let chosen = permissions(&site, &id).await;
    assert_eq!((chosen.scopes, chosen.prefix.as_ref().unwrap().as_str()), (Scopes::READ, "<b>shop:"));
    assert_eq!(chosen.allow_from.len(), 2);
    assert!((chosen.expires_at.unwrap() - now() - 30 * 24 * HOUR).abs() < 60_000);
    let page = visitor.get("/cache").await;
    for words in ["only read", "shop:…", "from 10.0.0.0/8, ::1/128", "ends "] {
        assert!(page.body.contains(words), "{words}");
    }
    assert!(!page.body.contains("<b>shop:"));
}

#[tokio::test]
async fn what_cannot_be_is_said_and_what_was_typed_stays() {
    let site = Site::start().await;
    let (mut visitor, _) = site.newcomer("a@example.com").await;
    for (field, value, words) in [
        ("prefix", "two words", "No key begins like this"),
        ("allow_from", "10.0.0.1/8", "Write 10.0.0.0/8, or 10.0.0.1"),
        ("allow_from", "here", "here is no network"),
        ("expires", "soon", "Choose when"),
        ("boxes", "1", "Tick at least one"),
    ] {
        let answer = post(&mut visitor, "/tokens", &[("name", "shop"), (field, value)]).await;
        assert_eq!(answer.status, 422, "{field}");
        assert!(answer.text("limits-error").unwrap().contains(words), "{field}: {}", answer.body);
        assert!(answer.body.contains("id=\"token-limits\" open"));
        let invalid = usize::from(field != "boxes");
        assert_eq!(answer.body.matches("aria-invalid=\"true\"").count(), invalid, "{field}");
        assert_eq!(answer.body.matches("aria-describedby=\"limits-error\"").count(), 1, "{field}");
        assert_eq!(answer.text("token"), None);
        if field != "expires" {
            assert_eq!(answer.field(field).as_deref(), Some(value));
        }
        assert!(answer.body.contains("value=\"shop\""));
    }
}

#[tokio::test]
async fn a_successor_is_shown_once_and_the_old_token_ends() {
    let site = Site::start().await;
    let (mut visitor, first) = site.newcomer("a@example.com").await;
    let fields = [("name", "shop"), ("read", "on"), ("prefix", "shop:")];
    let old = made(&post(&mut visitor, "/tokens", &fields).await);
    let address = format!("/tokens/{old}/rotate");
    let confirm = visitor.get(&address).await;
    assert_eq!(confirm.status, 200);
    assert!(confirm.body.contains("shop") && confirm.body.contains("value=\"1h\" selected"));
    assert_eq!(post(&mut visitor, &address, &[("grace", "100w")]).await.status, 400, "not on the list");
    assert_eq!(permissions(&site, &old).await.expires_at, None, "asking changes nothing");

    let new = made(&post(&mut visitor, &address, &[("grace", "1h")]).await);
    let ends = permissions(&site, &old).await.expires_at.unwrap();
    assert!((ends - now() - HOUR).abs() < 60_000);
    let successor = permissions(&site, &new).await;
    assert_eq!((successor.scopes, successor.expires_at), (Scopes::READ, None));
    assert_eq!(site.store.token(&new).await.unwrap().unwrap().name, "shop");
    let page = visitor.get("/cache").await;
    assert_eq!(page.tokens(), [made(&first).as_str(), old.as_str(), new.as_str()]);
    assert!(page.text("token").is_none());
    assert!(!page.body.contains(&address), "it has a successor");
    assert_eq!(visitor.get(&address).await.status, 404);

    let at_once = post(&mut visitor, &format!("/tokens/{new}/rotate"), &[("grace", "0s")]).await;
    let newest = made(&at_once);
    let page = visitor.get("/cache").await;
    assert_eq!(page.tokens(), [made(&first).as_str(), old.as_str(), newest.as_str()]);
    assert!(page.body.contains("expired"));
}

//! Permissions of new tokens, and rotation.

use std::time::Duration;

use store::{Permissions, Scopes, Token, TokenId, now};

use crate::harness::{Response, Site, Visitor};

const HOUR: Duration = Duration::from_hours(1);

fn created(response: &Response) -> TokenId {
    assert_eq!(response.status, 200, "{}", response.body);
    Token::parse(response.text("token").unwrap()).unwrap().id()
}

async fn permissions(site: &Site, id: &TokenId) -> Permissions {
    site.store.token(id).await.unwrap().unwrap().permissions
}

async fn post(visitor: &mut Visitor, path: &str, fields: &[(&str, &str)]) -> Response {
    visitor.get("/caches/{cache}/tokens").await;
    visitor.post(path, fields).await
}

#[tokio::test]
async fn a_new_token_has_the_chosen_permissions() {
    let site = Site::start().await;
    let (mut visitor, first) = site.sign_up_user("a@example.com").await;
    assert_eq!(permissions(&site, &created(&first)).await, Permissions::ALL);
    let untouched =
        [("name", "all"), ("has_scopes", "1"), ("prefix", ""), ("expires", ""), ("allow_from", "")];
    let boxes: Vec<_> = Scopes::ALL.names().map(|scope| (scope, "on")).collect();
    let all = post(&mut visitor, "/caches/{cache}/tokens", &[&untouched[..], &boxes].concat()).await;
    assert_eq!(permissions(&site, &created(&all)).await, Permissions::ALL);
    let fields = [
        ("name", "shop"),
        ("has_scopes", "1"),
        ("read", "on"),
        ("prefix", "<b>shop:"),
        ("expires", "30d"),
        ("allow_from", "10.0.0.0/8, ::1"),
    ];
    let id = created(&post(&mut visitor, "/caches/{cache}/tokens", &fields).await);
    let chosen = permissions(&site, &id).await;
    assert_eq!((chosen.scopes, chosen.prefix.as_ref().unwrap().as_str()), (Scopes::READ, "<b>shop:"));
    assert_eq!(chosen.allow_from.len(), 2);
    assert!(chosen.expires_at.unwrap().since(now()).abs_diff(30 * 24 * HOUR) < Duration::from_mins(1));
    let page = visitor.get("/caches/{cache}/tokens").await;
    for text in ["only read", "shop:…", "from 10.0.0.0/8, ::1/128", "expires "] {
        assert!(page.body.contains(text), "{text}");
    }
    assert!(!page.body.contains("<b>shop:"));
}

#[tokio::test]
async fn invalid_permissions_show_an_error_and_keep_the_input() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    for (field, id, value, text) in [
        ("prefix", "prefix", "two text", "No key begins like this"),
        ("allow_from", "networks", "10.0.0.1/8", "Write 10.0.0.0/8, or 10.0.0.1"),
        ("allow_from", "networks", "here", "here is no network"),
        ("expires", "expires", "soon", "This isn&#39;t an expiry"),
        ("has_scopes", "scopes", "1", "A token needs at least one scope"),
    ] {
        let response =
            post(&mut visitor, "/caches/{cache}/tokens", &[("name", "shop"), (field, value)]).await;
        assert_eq!(response.status, 422, "{field}");
        let error = format!("token-{id}-error");
        assert!(response.text(&error).unwrap().contains(text), "{field}: {}", response.body);
        assert!(response.body.contains("id=\"token-permissions\" open"));
        let invalid = usize::from(field != "has_scopes");
        assert_eq!(response.body.matches("aria-invalid=\"true\"").count(), invalid, "{field}");
        let described = format!("aria-describedby=\"{error}\"");
        assert_eq!(response.body.matches(&described).count(), 1, "{field}");
        // The browser shows the field, far down the page, and nothing else takes the focus.
        assert_eq!(response.body.matches("autofocus").count(), 1, "{field}");
        assert_eq!(response.text("token"), None);
        if field != "expires" {
            assert_eq!(response.field(field).as_deref(), Some(value));
        }
        assert!(response.body.contains("value=\"shop\""));
    }
}

#[tokio::test]
async fn every_invalid_field_has_its_own_error() {
    let site = Site::start().await;
    let (mut visitor, _) = site.sign_up_user("a@example.com").await;
    let fields = [("name", ""), ("prefix", "two text"), ("allow_from", "here")];
    let response = post(&mut visitor, "/caches/{cache}/tokens", &fields).await;
    assert_eq!(response.status, 422);
    for id in ["token-error", "token-prefix-error", "token-networks-error"] {
        assert!(response.text(id).is_some(), "{id}");
    }
    assert_eq!(response.body.matches("aria-invalid=\"true\"").count(), 3);
}

#[tokio::test]
async fn rotation_shows_the_new_token_once_and_the_old_one_expires() {
    let site = Site::start().await;
    let (mut visitor, first) = site.sign_up_user("a@example.com").await;
    let fields = [("name", "shop"), ("read", "on"), ("prefix", "shop:")];
    let old = created(&post(&mut visitor, "/caches/{cache}/tokens", &fields).await);
    let address = format!("/tokens/{old}/rotate");
    let confirm = visitor.get(&address).await;
    assert_eq!(confirm.status, 200);
    assert!(confirm.body.contains("shop") && confirm.body.contains("value=\"1h\" selected"));
    assert_eq!(post(&mut visitor, &address, &[("grace", "100w")]).await.status, 400, "not on the list");
    assert_eq!(permissions(&site, &old).await.expires_at, None, "asking changes nothing");

    let new = created(&post(&mut visitor, &address, &[("grace", "1h")]).await);
    let ends = permissions(&site, &old).await.expires_at.unwrap();
    assert!(ends.since(now()).abs_diff(HOUR) < Duration::from_mins(1));
    let successor = permissions(&site, &new).await;
    assert_eq!((successor.scopes, successor.expires_at), (Scopes::READ, None));
    assert_eq!(site.store.token(&new).await.unwrap().unwrap().name, "shop");
    let page = visitor.get("/caches/{cache}/tokens").await;
    assert_eq!(page.tokens(), [created(&first).as_str(), old.as_str(), new.as_str()]);
    assert!(page.text("token").is_none());
    assert!(!page.body.contains(&address), "it has a successor");
    assert_eq!(visitor.get(&address).await.status, 404);

    let at_once = post(&mut visitor, &format!("/tokens/{new}/rotate"), &[("grace", "0s")]).await;
    let newest = created(&at_once);
    let page = visitor.get("/caches/{cache}/tokens").await;
    assert_eq!(page.tokens(), [created(&first).as_str(), old.as_str(), newest.as_str()]);
    assert!(page.body.contains("expired"));
}

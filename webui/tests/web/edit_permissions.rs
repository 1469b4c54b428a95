//! Editing the permissions of a token.

use std::time::Duration;

use store::{Permissions, Scopes, TokenId, now};

use crate::harness::{Response, Site, Visitor};

const DAY: Duration = Duration::from_hours(24);

/// The form with the box of every scope ticked, and one more field.
fn all_scopes_and<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let boxes = Scopes::ALL.names().map(|scope| (scope, "on"));
    [("has_scopes", "1"), (name, value)].into_iter().chain(boxes).collect()
}

async fn sign_up_user(site: &Site) -> (Visitor, TokenId, String) {
    let (visitor, page) = site.sign_up_user("a@example.com").await;
    let id = TokenId::parse(&page.tokens()[0]).unwrap();
    (visitor, id, format!("/tokens/{id}/edit"))
}

async fn permissions(site: &Site, id: &TokenId) -> Permissions {
    site.store.token(id).await.unwrap().unwrap().permissions
}

fn ticked(page: &Response) -> Vec<&str> {
    Scopes::ALL.names().filter(|name| page.body.contains(&format!("name=\"{name}\" checked"))).collect()
}

#[tokio::test]
async fn editing_permissions_keeps_the_expiry() {
    let site = Site::start().await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    assert!(visitor.get(&format!("/tokens/{id}")).await.body.contains(&format!("href=\"{address}\"")));
    let page = visitor.get(&address).await;
    assert_eq!((page.status, ticked(&page)), (200, Scopes::ALL.names().collect()));
    assert!(page.body.contains("<option value=\"keep\" selected>never (unchanged)"));
    assert_eq!(permissions(&site, &id).await, Permissions::ALL, "asking changes nothing");

    let fields = [
        ("has_scopes", "1"),
        ("read", "on"),
        ("prefix", "<b>shop:"),
        ("expires", "7d"),
        ("allow_from", "10.0.0.0/8, ::1"),
    ];
    assert_eq!(visitor.post(&address, &fields).await.location(), format!("/tokens/{id}?saved"));
    let chosen = permissions(&site, &id).await;
    assert_eq!((chosen.scopes, chosen.prefix.as_ref().unwrap().as_str()), (Scopes::READ, "<b>shop:"));
    assert!(chosen.expires_at.unwrap().since(now()).abs_diff(7 * DAY) < Duration::from_mins(1));
    let user = site.store.user_by_email("a@example.com").await.unwrap().unwrap();
    let noted = site.store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((noted.action.as_str(), noted.actor), ("token.update", format!("user {}", user.id)));

    let page = visitor.get(&address).await;
    assert_eq!(ticked(&page), ["read"]);
    assert_eq!(page.field("allow_from").as_deref(), Some("10.0.0.0/8 ::1/128"));
    assert!(!page.body.contains("<b>shop:") && page.body.contains("shop:"));
    assert!(page.body.contains("<option value=\"keep\" selected>"));

    let same = [("has_scopes", "1"), ("read", "on"), ("prefix", "<b>shop:"), ("expires", "keep")];
    visitor.post(&address, &[&same[..], &[("allow_from", "10.0.0.0/8 ::1/128")]].concat()).await;
    assert_eq!(permissions(&site, &id).await, chosen, "the form as it came");
    visitor.post(&address, &all_scopes_and("expires", "keep")).await;
    assert_eq!(
        permissions(&site, &id).await,
        Permissions { expires_at: chosen.expires_at, ..Permissions::ALL }
    );
    visitor.post(&address, &all_scopes_and("expires", "")).await;
    assert_eq!(permissions(&site, &id).await, Permissions::ALL);
}

#[tokio::test]
async fn invalid_permissions_change_nothing() {
    let site = Site::start_with(|config| config.limits.tokens_per_hour = 1).await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    visitor.get(&address).await;
    for (field, id, value, text) in [
        ("prefix", "prefix", "two text", "No key begins like this"),
        ("allow_from", "networks", "10.0.0.1/8", "Write 10.0.0.0/8, or 10.0.0.1"),
        ("expires", "expires", "soon", "This isn&#39;t an expiry"),
    ] {
        let response = visitor.post(&address, &all_scopes_and(field, value)).await;
        assert_eq!(response.status, 422, "{field}");
        let error = response.text(&format!("token-{id}-error"));
        assert!(error.unwrap().contains(text), "{field}: {}", response.body);
        if field != "expires" {
            assert_eq!(response.field(field).as_deref(), Some(value));
        }
    }
    let none = visitor.post(&address, &[("has_scopes", "1"), ("expires", "keep")]).await;
    assert!(none.text("token-scopes-error").unwrap().contains("A token needs at least one scope"));
    assert_eq!(visitor.post(&address, &[]).await.status, 400, "no form lifts no limit");
    assert_eq!(permissions(&site, &id).await, Permissions::ALL);

    let fields = [("has_scopes", "1"), ("read", "on"), ("expires", "keep")];
    assert_eq!(visitor.post(&address, &fields).await.status, 303);
    let often = visitor.post(&address, &all_scopes_and("expires", "keep")).await;
    assert!(often.status == 429 && often.header("retry-after").is_some());
    assert_eq!(permissions(&site, &id).await.scopes, Scopes::READ);
}

#[tokio::test]
async fn inactive_tokens_can_not_be_edited() {
    let site = Site::start().await;
    let (mut visitor, id, address) = sign_up_user(&site).await;
    visitor.get("/caches/{cache}/tokens").await;
    let expired = visitor.post("/caches/{cache}/tokens", &[("name", "short")]).await.tokens().pop().unwrap();
    let expired_id = TokenId::parse(&expired).unwrap();
    site.store
        .update_permissions(&expired_id, |permissions| {
            permissions.expires_at = Some(now().saturating_sub(Duration::from_millis(1)));
        })
        .await
        .unwrap();
    site.store.revoke_token(&id).await.unwrap();
    for (address, how) in [(address, "revoked "), (format!("/tokens/{expired}/edit"), "expired")] {
        visitor.get("/caches/{cache}/tokens").await;
        let asked = visitor.get(&address).await;
        let sent = visitor.post(&address, &all_scopes_and("expires", "")).await;
        for response in [asked, sent] {
            assert_eq!(response.status, 410);
            assert!(response.text("token-inactive").unwrap().contains(how), "{}", response.body);
            assert!(!response.body.contains("edit-form"));
        }
    }
    assert!(permissions(&site, &expired_id).await.expires_at.is_some());
    assert!(!visitor.get(&format!("/tokens/{id}")).await.body.contains("/edit\""));
}

//! Permissions of tokens: stored, changed, and copied to a successor.

use std::time::Duration;

use store::{NewToken, Permissions, Scopes, Store, StoreError, Timestamp, Token, TokenId, User, now};

use crate::test_db::{TestDb, first_cache, sign_up, token_key};

fn some_permissions() -> Permissions {
    Permissions {
        scopes: Scopes::READ | Scopes::STATS,
        prefix: Some("app:".parse().unwrap()),
        expires_at: Some(now().saturating_add(Duration::from_hours(1))),
        allow_from: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        connections: Some(7),
    }
}

async fn limited(store: &Store, user: &User, permissions: Permissions) -> TokenId {
    let token = NewToken::generate(&token_key(), "limited").limited_to(permissions);
    store.create_token(&first_cache(store, user).await, &token).await.unwrap();
    token.token.id()
}

async fn permissions_are_read_back_as_written(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let id = limited(&store, &ada, some_permissions()).await;
    let row = store.token(&id).await.unwrap().unwrap();
    // The two calls of `some_permissions` are milliseconds apart.
    let permissions = Permissions { expires_at: row.permissions.expires_at, ..some_permissions() };
    assert_eq!(row.permissions, permissions);
    assert_eq!(store.grant(&id).await.unwrap().unwrap().permissions, permissions);
    assert!(store.tokens_of_user(&ada.id).await.unwrap().contains(&row));
    assert_eq!(store.grant(&first.token.id()).await.unwrap().unwrap().permissions, Permissions::ALL);
}

async fn corrupt_permissions_allow_nothing(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ada@example.org").await;
    db.execute("UPDATE tokens SET scopes = 'read,everything'").await.unwrap();
    let grant = store.grant(&token.token.id()).await.unwrap().unwrap();
    assert!(!grant.permissions.is_valid_at(now()));
    assert_eq!(grant.permissions.scopes, Scopes::NONE);
}

async fn permission_change_is_a_new_revision(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let id = limited(&store, &ada, Permissions::ALL).await;
    let mut feed = store.feed().await.unwrap();
    let narrow = |permissions: &mut Permissions| permissions.scopes = Scopes::READ;
    let row = store.update_permissions(&id, narrow).await.unwrap();
    assert_eq!(row.permissions, Permissions { scopes: Scopes::READ, ..Permissions::ALL });
    assert_eq!(feed.next().await.unwrap().tokens, [id]);
    store
        .update_permissions(&id, |permissions| permissions.expires_at = some_permissions().expires_at)
        .await
        .unwrap();
    let permissions = store.token(&id).await.unwrap().unwrap().permissions;
    assert_eq!(permissions.scopes, Scopes::READ, "other permissions stay");
    assert!(permissions.expires_at.is_some());
}

async fn inactive_token_cannot_be_changed_or_rotated(db: TestDb) {
    let store = db.open().await;
    let (ada, revoked) = sign_up(&store, "ada@example.org").await;
    store.revoke_token(&revoked.token.id()).await.unwrap();
    let expired = limited(&store, &ada, Permissions { expires_at: Some(now()), ..Permissions::ALL }).await;
    for id in [revoked.token.id(), expired, Token::generate().id()] {
        let longer = |permissions: &mut Permissions| permissions.expires_at = None;
        assert_inactive(store.update_permissions(&id, longer).await);
        let new = NewToken::generate(&token_key(), "x");
        assert_inactive(store.rotate_token(&id, new, now()).await);
    }
    assert_eq!(store.tokens_of_user(&ada.id).await.unwrap().len(), 2);
}

fn assert_inactive<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound("active token"))), "{result:?}");
}

async fn successor_has_the_same_permissions_and_the_old_token_expires(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let old = limited(&store, &ada, some_permissions()).await;
    let before = store.token(&old).await.unwrap().unwrap();
    let rotate = async |ends_at: Timestamp| {
        store.rotate_token(&old, NewToken::generate(&token_key(), "x"), ends_at).await
    };
    let ends_at = now().saturating_add(Duration::from_mins(1));
    let (new, row) = rotate(ends_at).await.unwrap();
    let successor = store.token(&new.token.id()).await.unwrap().unwrap();
    assert_eq!((&successor.permissions, &successor.name), (&before.permissions, &before.name));
    assert_eq!((&successor.user_id, successor.cache_id), (&ada.id, first_cache(&store, &ada).await));
    assert_eq!(store.token(&old).await.unwrap().as_ref(), Some(&row));
    assert_eq!(
        (row.permissions.expires_at, row.successor.as_deref()),
        (Some(ends_at), Some(successor.id.as_str()))
    );
    let twice = rotate(ends_at).await;
    assert!(matches!(twice, Err(StoreError::AlreadyExists(_))), "{twice:?}");
}

async fn grace_period_never_extends_a_token(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let soon = now().saturating_add(Duration::from_mins(1));
    let old = limited(&store, &ada, Permissions { expires_at: Some(soon), ..Permissions::ALL }).await;
    let new = NewToken::generate(&token_key(), "x");
    let (_, row) = store.rotate_token(&old, new, soon.saturating_add(Duration::from_mins(1))).await.unwrap();
    assert_eq!(row.permissions.expires_at, Some(soon));
}

on_both! {
    permissions_are_read_back_as_written,
    corrupt_permissions_allow_nothing,
    permission_change_is_a_new_revision,
    inactive_token_cannot_be_changed_or_rotated,
    successor_has_the_same_permissions_and_the_old_token_expires,
    grace_period_never_extends_a_token,
}

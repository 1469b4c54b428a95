//! API keys: created, verified, limited in number, and ended with their user's account.

use std::time::Duration;

use store::{
    ApiKey, ApiKeyId, ApiScope, ApiScopes, NewApiKey, NewPassword, Store, StoreError, TokenKey, now,
};

use crate::test_db::{TestDb, sign_up, token_key};

fn new_key(name: &str) -> NewApiKey<'_> {
    NewApiKey { key: ApiKey::generate(), name, scopes: ApiScopes::ALL, expires_at: None }
}

async fn create(store: &Store, token_key: &TokenKey, user_id: &str) -> ApiKey {
    let new = new_key("ci");
    store.create_api_key(token_key, user_id, &new).await.unwrap();
    new.key
}

async fn key_is_verified_and_revoked(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let scopes: ApiScopes = [ApiScope::Read, ApiScope::Tokens].into_iter().collect();
    let new = NewApiKey { scopes, ..new_key("ci") };
    store.create_api_key(&token_key, &ada.id, &new).await.unwrap();
    let row = store.verify_api_key(&token_key, &new.key).await.unwrap().unwrap();
    assert_eq!((&*row.user_id, &*row.name, row.scopes, row.last_used_at), (&*ada.id, "ci", scopes, None));
    assert!(row.is_active(now()));
    assert_eq!(store.api_key(&new.key.id()).await.unwrap().as_ref(), Some(&row));
    assert_eq!(store.api_keys_of(&ada.id).await.unwrap(), [row]);

    // Another secret behind the same id, another installation's key, and a key that doesn't exist.
    assert_eq!(db.number("SELECT CAST(LENGTH(secret_hash) AS BIGINT) FROM api_keys").await, 64);
    assert!(store.verify_api_key(&crate::test_db::token_key(), &new.key).await.unwrap().is_none());
    assert!(store.verify_api_key(&token_key, &ApiKey::generate()).await.unwrap().is_none());

    let revision = store.revision().await.unwrap();
    store.touch_api_key(&new.key.id()).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), revision, "uses don't touch the revision");
    assert!(store.api_key(&new.key.id()).await.unwrap().unwrap().last_used_at.is_some());

    store.revoke_api_key(&new.key.id()).await.unwrap();
    store.revoke_api_key(&new.key.id()).await.unwrap();
    let row = store.verify_api_key(&token_key, &new.key).await.unwrap().unwrap();
    assert!(!row.is_active(now()));
    let unknown = ApiKeyId::parse("aaaaaaaaaaaa").unwrap();
    let error = store.revoke_api_key(&unknown).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("API key")), "{error:?}");
    let entries = store.audit_after(1, 100).await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["api_key.create", "api_key.revoke"], "revoking again is no entry");
    let secret = new.key.reveal();
    let secret = secret.rsplit('_').next().unwrap();
    assert!(!format!("{entries:?}{new:?}").contains(secret));
}

// W-23.
async fn number_of_keys_is_limited(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let mut keys = Vec::new();
    for _ in 0..20 {
        keys.push(create(&store, &token_key, &ada.id).await);
    }
    let error = store.create_api_key(&token_key, &ada.id, &new_key("one more")).await.unwrap_err();
    assert!(matches!(error, StoreError::LimitReached("API key")), "{error:?}");
    create(&store, &token_key, &bob.id).await;
    // Those that have ended make room, and aren't kept for ever.
    for round in 0..3 {
        for key in keys.drain(..) {
            store.revoke_api_key(&key.id()).await.unwrap();
        }
        for _ in 0..20 {
            keys.push(create(&store, &token_key, &ada.id).await);
        }
        let ended = "SELECT COUNT(*) FROM api_keys WHERE revoked_at IS NOT NULL";
        assert_eq!(db.number(ended).await, 20, "{round}");
    }
    let listed = store.api_keys_of(&ada.id).await.unwrap();
    assert_eq!(listed.iter().filter(|key| key.is_active(now())).count(), 20);
    let unknown = store.create_api_key(&token_key, "unknown", &new_key("x")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound("user")), "{unknown:?}");
}

async fn expired_keys_make_room(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    for _ in 0..20 {
        let expires_at = Some(now().saturating_add(Duration::from_secs(3600)));
        let new = NewApiKey { expires_at, ..new_key("short") };
        store.create_api_key(&token_key, &ada.id, &new).await.unwrap();
    }
    assert!(store.create_api_key(&token_key, &ada.id, &new_key("x")).await.is_err());
    db.execute("UPDATE api_keys SET expires_at = 1").await.unwrap();
    create(&store, &token_key, &ada.id).await;
    assert_eq!(store.api_keys_of(&ada.id).await.unwrap().len(), 21);
}

// W-23.
async fn keys_end_with_a_password_change_and_with_the_account(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let (adas, bobs) = (create(&store, &token_key, &ada.id).await, create(&store, &token_key, &bob.id).await);
    let is_active =
        async |key: &ApiKey| store.api_key(&key.id()).await.unwrap().is_some_and(|key| key.is_active(now()));
    let new = NewPassword { hash: "$new$", replaces: None, revoke_tokens: false };
    store.change_password(&ada.id, &new).await.unwrap();
    assert!(is_active(&adas).await, "only if the user asks for it");
    store.change_password(&ada.id, &NewPassword { revoke_tokens: true, ..new }).await.unwrap();
    assert!(!is_active(&adas).await && is_active(&bobs).await);
    store.delete_user(&ada.id).await.unwrap();
    assert_eq!(store.api_keys_of(&ada.id).await.unwrap(), []);
    assert!(is_active(&bobs).await);
}

// F-15.
async fn invalid_scopes_allow_nothing(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let key = create(&store, &token_key, &ada.id).await;
    db.execute("UPDATE api_keys SET scopes = 'read,everything'").await.unwrap();
    assert_eq!(store.verify_api_key(&token_key, &key).await.unwrap().unwrap().scopes, ApiScopes::default());
    for hash in ["", "0", "no hash"] {
        db.execute(&format!("UPDATE api_keys SET secret_hash = '{hash}'")).await.unwrap();
        assert!(store.verify_api_key(&token_key, &key).await.unwrap().is_none(), "{hash}");
    }
}

on_both! {
    expired_keys_make_room, invalid_scopes_allow_nothing, key_is_verified_and_revoked,
    keys_end_with_a_password_change_and_with_the_account, number_of_keys_is_limited,
}

//! Accounts: password change, suspension and deletion.

use std::time::Duration;

use store::{
    DesiredState, Fingerprint, InstanceState, NewPassword, NewToken, Observed, Store, StoreError, UserState,
    now,
};

use crate::test_db::{TestDb, first_cache, new_session, new_user, sign_up, token_key};

const HOUR: Duration = Duration::from_secs(3600);

async fn session(store: &Store, user_id: &str, id_hash: &str) {
    store.create_session(&new_session(id_hash, user_id)).await.unwrap();
}

async fn is_signed_in(store: &Store, id_hash: &str) -> bool {
    store.session(id_hash, HOUR, HOUR).await.unwrap().is_some()
}

/// The number of a user's tokens that are not revoked.
async fn active_tokens(store: &Store, user_id: &str) -> usize {
    let tokens = store.tokens_of_user(user_id).await.unwrap();
    tokens.iter().filter(|token| token.revoked_at.is_none()).count()
}

async fn password_change_closes_sessions_and_revokes_tokens_on_request(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    store
        .create_token(&first_cache(&store, &ada).await, &NewToken::generate(&token_key(), "second"))
        .await
        .unwrap();
    session(&store, &ada.id, "ada").await;
    session(&store, &grace.id, "grace").await;
    let current = store.password_hash(&ada.id).await.unwrap();

    let new = NewPassword { hash: "$new$", replaces: current.as_deref(), revoke_tokens: false };
    assert_eq!(store.change_password(&ada.id, &new).await.unwrap(), 0);
    assert_eq!(store.password_hash(&ada.id).await.unwrap().as_deref(), Some("$new$"));
    assert!(!is_signed_in(&store, "ada").await && is_signed_in(&store, "grace").await);
    assert_eq!(active_tokens(&store, &ada.id).await, 2);

    let late = store.change_password(&ada.id, &NewPassword { hash: "$late$", ..new }).await.unwrap_err();
    assert!(matches!(late, StoreError::NotFound("password")), "{late:?}");
    assert_eq!(store.password_hash(&ada.id).await.unwrap().as_deref(), Some("$new$"));

    session(&store, &ada.id, "again").await;
    let mut feed = store.feed().await.unwrap();
    let reset = NewPassword { hash: "$reset$", replaces: None, revoke_tokens: true };
    assert_eq!(store.change_password(&ada.id, &reset).await.unwrap(), 2);
    assert_eq!((active_tokens(&store, &ada.id).await, active_tokens(&store, &grace.id).await), (0, 1));
    assert!(!is_signed_in(&store, "again").await);
    let changed = feed.next().await.unwrap().tokens;
    assert!(changed.len() == 2 && changed.contains(&first.token.id()), "the feed names both: {changed:?}");
    let unknown = store.change_password("unknown", &reset).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound("user")), "{unknown:?}");

    let entries = store.audit_after(3, 100).await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["user.password", "token.revoke", "token.revoke", "user.password"]);
    assert!(!format!("{entries:?}").contains("$reset$"));
}

async fn suspension_stops_the_instance_and_can_be_undone(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let is_active = async || store.grant(&token.token.id()).await.unwrap().unwrap().is_active();
    let desired = async || store.first_instance_of(&ada.id).await.unwrap().unwrap().desired;
    store.set_user_state(&ada.id, UserState::Suspended).await.unwrap();
    assert_eq!((is_active().await, desired().await), (false, DesiredState::Suspended));
    assert_eq!(store.user(&ada.id).await.unwrap().unwrap().state, UserState::Suspended);
    store.set_user_state(&ada.id, UserState::Active).await.unwrap();
    assert_eq!((is_active().await, desired().await), (true, DesiredState::Running));
    let unknown = store.set_user_state("unknown", UserState::Active).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound("user")), "{unknown:?}");
}

async fn deleted_account_leaves_no_personal_data(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    session(&store, &ada.id, "ada").await;
    let ends = now().saturating_add(HOUR);
    store.add_certificate(&token.token.id(), Fingerprint::of(b"x"), ends, "Ada's laptop").await.unwrap();
    store.delete_user(&ada.id).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM certificates WHERE name <> ''").await, 0);
    assert_eq!(store.user(&ada.id).await.unwrap(), None);
    assert_eq!(store.user_by_email("ada@example.org").await.unwrap(), None);
    assert_eq!(store.user_by_email(&format!("deleted {}", ada.id)).await.unwrap(), None);
    assert!(store.users().await.unwrap().is_empty());
    assert_eq!(store.password_hash(&ada.id).await.unwrap(), None);
    assert!(!is_signed_in(&store, "ada").await);
    assert!(!store.grant(&token.token.id()).await.unwrap().unwrap().is_active());
    assert_eq!(db.number("SELECT COUNT(*) FROM tokens WHERE name <> ''").await, 0);
    assert_eq!(db.number("SELECT COUNT(*) FROM users WHERE email LIKE '%ada%'").await, 0);

    // The provisioner sees the instance until its container is removed.
    let instance = store.instances().await.unwrap().remove(0);
    assert!(instance.desired == DesiredState::Deleting && !instance.is_gone());
    let (state, generation) = (InstanceState::Deleting, 1);
    let seen = Observed { state, generation, address: None, container: None, version: None, message: None };
    store.record_route(&instance.id, &seen).await.unwrap();
    assert!(store.instance(&instance.id).await.unwrap().unwrap().is_gone());

    let again = store.delete_user(&ada.id).await.unwrap_err();
    assert!(matches!(again, StoreError::NotFound("user")), "{again:?}");
    for error in [
        store.set_user_state(&ada.id, UserState::Active).await.unwrap_err(),
        store
            .change_password(&ada.id, &NewPassword { hash: "x", replaces: None, revoke_tokens: false })
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound("user")), "{error:?}");
    }
    let token = NewToken::generate(&token_key(), "first");
    let new = store.sign_up(&new_user("ada@example.org"), &token).await.unwrap();
    assert_ne!(new.id, ada.id, "the address is free again, for a new account");
}

on_both! {
    password_change_closes_sessions_and_revokes_tokens_on_request,
    suspension_stops_the_instance_and_can_be_undone,
    deleted_account_leaves_no_personal_data,
}

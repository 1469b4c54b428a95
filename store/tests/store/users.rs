//! Users: sign-up is atomic, and an e-mail address has one account.

use store::{DesiredState, InstanceState, NewToken, NewUser, StoreError, UserState};

use crate::test_db::{TestDb, new_user, sign_up, token_key};

async fn sign_up_creates_user_instance_and_token(db: TestDb) {
    let store = db.open().await;
    let (user, token) = sign_up(&store, "Ada@Example.ORG").await;
    assert_eq!(
        (user.email.as_str(), user.state, user.is_admin),
        ("ada@example.org", UserState::Active, false)
    );
    assert_eq!(user.id.len(), 24);
    assert_eq!(store.user_by_email("ADA@example.org").await.unwrap().as_ref(), Some(&user));
    assert_eq!(store.users().await.unwrap(), std::slice::from_ref(&user));
    assert_eq!(store.password_hash(&user.id).await.unwrap().as_deref(), Some("$argon2id$..."));

    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    let plan = store.plans().await.unwrap().into_iter().find(|plan| plan.name == "default").unwrap();
    assert_eq!((instance.desired, instance.state()), (DesiredState::Running, InstanceState::Pending));
    assert_eq!(instance.memory_mb, plan.memory_mb);
    assert_eq!(instance.connections, plan.connections);
    assert_eq!(instance.item_size_max, plan.item_size_max);
    assert_eq!(store.instances().await.unwrap(), [instance]);

    let tokens = store.tokens_of_user(&user.id).await.unwrap();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].id, token.token.id().as_str());
}

async fn sign_up_is_all_or_nothing(db: TestDb) {
    let store = db.open().await;
    let (_, first) = sign_up(&store, "ada@example.org").await;
    let before = store.revision().await.unwrap();
    let token = NewToken::generate(&token_key(), "first");

    let taken = store.sign_up(&new_user("ADA@Example.org"), &token).await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists("e-mail address")), "{taken:?}");
    let grace = new_user("grace@example.org");
    let missing = store.sign_up(&NewUser { plan: "huge", ..grace }, &token).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotFound("plan")), "{missing:?}");
    // The last of the three inserts fails: the first two are rolled back.
    store.sign_up(&grace, &first).await.unwrap_err();

    assert_eq!(store.users().await.unwrap().len(), 1);
    assert_eq!(store.instances().await.unwrap().len(), 1);
    assert_eq!(db.number("SELECT COUNT(*) FROM tokens").await, 1);
    assert_eq!(store.revision().await.unwrap(), before, "a failed sign-up is no revision");
    store.sign_up(&grace, &token).await.unwrap();
}

async fn concurrent_sign_ups_create_one_account_per_address(db: TestDb) {
    let store = db.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let token = NewToken::generate(&token_key(), "first");
            store.sign_up(&new_user("ada@example.org"), &token).await
        });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let others = results.iter().filter_map(|result| result.as_ref().err());
    assert!(others.into_iter().all(|error| matches!(error, StoreError::AlreadyExists(_))), "{results:?}");
}

async fn unknown_user_is_none(db: TestDb) {
    let store = db.open().await;
    assert_eq!(store.user("unknown").await.unwrap(), None);
    assert_eq!(store.user_by_email("unknown@example.org").await.unwrap(), None);
    assert_eq!(store.password_hash("unknown").await.unwrap(), None);
    assert_eq!(store.first_instance_of("unknown").await.unwrap(), None);
    assert!(store.users().await.unwrap().is_empty());
    let without = NewUser { password_hash: None, is_admin: true, ..new_user("root@example.org") };
    let user = store.sign_up(&without, &NewToken::generate(&token_key(), "first")).await.unwrap();
    assert_eq!(store.password_hash(&user.id).await.unwrap(), None);
    assert!(store.user(&user.id).await.unwrap().unwrap().is_admin);
}

on_both! {
    sign_up_creates_user_instance_and_token,
    sign_up_is_all_or_nothing,
    concurrent_sign_ups_create_one_account_per_address,
    unknown_user_is_none,
}

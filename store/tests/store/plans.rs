//! Plans: stored, changed, and applied to every cache that has them.

use store::{NewUser, Plan, StoreError};

use crate::test_db::{TestDb, first_cache, sign_up};

fn small() -> Plan {
    Plan {
        name: "small".into(),
        memory_mb: 32,
        connections: 500,
        item_size_max: 65_536,
        operations_per_second: Some(2000),
        bytes_per_second: None,
    }
}

async fn plan_is_read_back_as_written(db: TestDb) {
    let store = db.open().await;
    store.create_plan(&small()).await.unwrap();
    assert_eq!(store.plan("small").await.unwrap(), Some(small()));
    assert_eq!(store.plan("huge").await.unwrap(), None);
    let names: Vec<_> = store.plans().await.unwrap().into_iter().map(|plan| plan.name).collect();
    assert_eq!(names, ["default", "small"]);
    let twice = store.create_plan(&small()).await.unwrap_err();
    assert!(matches!(twice, StoreError::AlreadyExists("plan's name")), "{twice:?}");
    let none = store.update_plan("huge", |_| {}).await.unwrap_err();
    assert!(matches!(none, StoreError::NotFound("plan")), "{none:?}");
    let default = store.plan("default").await.unwrap().unwrap();
    assert_eq!((default.operations_per_second, default.bytes_per_second), (None, None));
}

async fn plan_update_changes_the_rates_of_grants_and_is_in_the_feed(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    store.create_plan(&small()).await.unwrap();
    let new = store::NewToken::generate(&crate::test_db::token_key(), "first");
    let grace = NewUser { email: "grace@example.org", password_hash: None, plan: "small", is_admin: false };
    store.sign_up(&grace, &new).await.unwrap();
    let rates = async |token: &store::NewToken| {
        let grant = store.grant(&token.token.id()).await.unwrap().unwrap();
        (grant.operations_per_second, grant.bytes_per_second)
    };
    assert_eq!(rates(&token).await, (None, None));
    assert_eq!(rates(&new).await, (Some(2000), None));

    let mut feed = store.feed().await.unwrap();
    let changed = store.update_plan("default", |plan| plan.bytes_per_second = Some(1_000_000)).await.unwrap();
    assert_eq!(changed.bytes_per_second, Some(1_000_000));
    assert_eq!(feed.next().await.unwrap().caches, [first_cache(&store, &ada).await]);
    assert_eq!(rates(&token).await, (None, Some(1_000_000)));
    assert_eq!(rates(&new).await, (Some(2000), None));
}

on_both! {
    plan_is_read_back_as_written,
    plan_update_changes_the_rates_of_grants_and_is_in_the_feed,
}

//! Plans: stored, changed, and applied to every cache that has them.

use store::{NewCache, NewUser, Plan, StoreError, UserChange};

use crate::test_db::{TestDb, first_cache, sign_up};

fn small() -> Plan {
    Plan {
        name: "small".into(),
        memory_mb: 32,
        connections: 500,
        item_size_max: 65_536,
        operations_per_second: Some(2000),
        bytes_per_second: None,
        warm: true,
        sleep_after_seconds: Some(3600),
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

async fn another_plan_of_a_user_changes_rates_and_leaves_sizes(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    store.create_plan(&small()).await.unwrap();
    store.create_plan(&Plan { name: "large".into(), ..small() }).await.unwrap();
    let shop = NewCache { user_id: &ada.id, name: &"shop".parse().unwrap(), plan: Some("large") };
    let shop = store.create_cache(&shop, 3).await.unwrap();
    let default = first_cache(&store, &ada).await;
    let mut feed = store.feed().await.unwrap();
    let change = UserChange { plan: Some("small"), is_admin: Some(true) };
    store.update_user(&ada.id, &change).await.unwrap();
    let updated = store.user(&ada.id).await.unwrap().unwrap();
    assert_eq!((updated.plan.as_str(), updated.is_admin), ("small", true));
    let plans: Vec<_> = store.caches_of(&ada.id).await.unwrap().into_iter().map(|it| it.plan).collect();
    assert_eq!(plans, ["small", "large"], "a cache with a plan of its own keeps it");
    assert!(feed.next().await.unwrap().caches.contains(&default));
    let grant = store.grant(&token.token.id()).await.unwrap().unwrap();
    assert_eq!((grant.operations_per_second, grant.connections), (Some(2000), 20_000));
    assert_eq!(store.caches_of_other_size("small").await.unwrap(), [default]);
    assert_eq!(store.caches_of_other_size("large").await.unwrap(), [""; 0]);
    store.update_plan("large", |plan| plan.memory_mb = 64).await.unwrap();
    assert_eq!(store.caches_of_other_size("large").await.unwrap(), [shop.id]);
    assert_eq!(store.user(&bob.id).await.unwrap().unwrap().plan, "default");

    let none = UserChange { plan: Some("gold"), is_admin: None };
    let error = store.update_user(&ada.id, &none).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("plan")), "{error:?}");
    let error = store.update_user("unknown", &UserChange::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("user")), "{error:?}");
    assert_eq!(store.user(&ada.id).await.unwrap().unwrap().plan, "small");
}

async fn plan_is_deleted_when_only_deleted_users_had_it(db: TestDb) {
    let store = db.open().await;
    store.create_plan(&small()).await.unwrap();
    let new = store::NewToken::generate(&crate::test_db::token_key(), "first");
    let grace = NewUser { email: "grace@example.org", password_hash: None, plan: "small", is_admin: false };
    let grace = store.sign_up(&grace, &new).await.unwrap();
    assert_eq!(store.plan_uses("small").await.unwrap(), 2);
    for name in ["small", "default"] {
        let error = store.delete_plan(name).await.unwrap_err();
        assert!(matches!(error, StoreError::InUse("plan")), "{name}: {error:?}");
    }
    store.delete_user(&grace.id).await.unwrap();
    assert_eq!(store.plan_uses("small").await.unwrap(), 0);
    store.delete_plan("small").await.unwrap();
    let error = store.delete_plan("small").await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("plan")), "{error:?}");
    let last = store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!((last.action.as_str(), last.subject.as_str()), ("plan.delete", "plan small"));
    // Rows that stay refer to a plan that exists.
    assert_eq!(db.number("SELECT COUNT(*) FROM caches WHERE plan = 'default'").await, 1);
}

on_both! {
    plan_is_read_back_as_written,
    plan_update_changes_the_rates_of_grants_and_is_in_the_feed,
    another_plan_of_a_user_changes_rates_and_leaves_sizes,
    plan_is_deleted_when_only_deleted_users_had_it,
}

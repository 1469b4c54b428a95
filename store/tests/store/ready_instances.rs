//! Instances that are made ahead: who creates an instance of their size takes one.

use store::{NewCache, Plan, ReadyInstance};

use crate::test_db::{TestDb, sign_up};

on_both! {
    an_instance_of_the_same_size_is_taken,
    one_that_was_taken_is_not_withdrawn,
}

async fn an_instance_of_the_same_size_is_taken(db: TestDb) {
    let store = db.open().await;
    let id_of = async |email: &str| {
        let (user, _) = sign_up(&store, email).await;
        store.first_instance_of(&user.id).await.unwrap().unwrap().id
    };
    let begun = store.begin_ready_instance(64, 20_000, 1 << 20).await.unwrap();
    assert_eq!(store.ready_instances().await.unwrap(), std::slice::from_ref(&begun));
    assert_ne!(id_of("early@example.org").await, begun.id, "it isn't ready");
    let other = store.begin_ready_instance(32, 20_000, 1 << 20).await.unwrap();
    for ready in [&begun, &other] {
        store.offer_ready_instance(&ready.id).await.unwrap();
    }
    let revision = store.revision().await.unwrap();
    assert!(store.ready_instances().await.unwrap().iter().all(|ready| ready.ready_at.is_some()));
    assert_eq!(id_of("ada@example.org").await, begun.id);
    assert_eq!(store.revision().await.unwrap(), revision + 1);
    let left: Vec<String> = store.ready_instances().await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(left, std::slice::from_ref(&other.id), "of another size");
    assert_ne!(id_of("bob@example.org").await, other.id);

    let small = store.plan("default").await.unwrap().unwrap();
    store.create_plan(&Plan { name: "small".into(), memory_mb: 32, ..small }).await.unwrap();
    let (eve, _) = sign_up(&store, "eve@example.org").await;
    let new = NewCache { user_id: &eve.id, name: &"second".parse().unwrap(), plan: Some("small") };
    let cache = store.create_cache(&new, 2).await.unwrap();
    assert_eq!(store.instance_of_cache(&cache.id).await.unwrap().unwrap().id, other.id);
    // An id that memgate doesn't make is never taken.
    db.execute("INSERT INTO ready_instances VALUES ('../x', 64, 20000, 1048576, 1, 1)").await.unwrap();
    assert_ne!(id_of("sue@example.org").await, "../x");
}

async fn one_that_was_taken_is_not_withdrawn(db: TestDb) {
    let store = db.open().await;
    let ready = store.begin_ready_instance(64, 20_000, 1 << 20).await.unwrap();
    store.offer_ready_instance(&ready.id).await.unwrap();
    sign_up(&store, "ada@example.org").await;
    assert!(!store.withdraw_ready_instance(&ready.id).await.unwrap());
    assert_eq!(db.number("SELECT COUNT(*) FROM ready_instances").await, 1);
    store.forget_taken_instances().await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM ready_instances").await, 0);
    let ready = store.begin_ready_instance(64, 20_000, 1 << 20).await.unwrap();
    store.offer_ready_instance(&ready.id).await.unwrap();
    store.forget_withdrawn_instance(&ready.id).await.unwrap();
    assert!(store.withdraw_ready_instance(&ready.id).await.unwrap());
    // A crash may come before everything of it is removed.
    sign_up(&store, "bob@example.org").await;
    assert_eq!(store.ready_instances().await.unwrap(), [ReadyInstance { ready_at: None, ..ready.clone() }]);
    store.forget_withdrawn_instance(&ready.id).await.unwrap();
    assert!(!store.withdraw_ready_instance(&ready.id).await.unwrap());
}

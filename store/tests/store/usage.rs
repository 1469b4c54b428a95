//! Usage is summed over all proxies.

use store::{NewToken, NewUser, Usage, UsageReport};

use crate::test_db::{TestDb, token_key};

on_both!(usage_is_summed_over_proxies);

async fn usage_is_summed_over_proxies(db: TestDb) {
    let store = db.open().await;
    let token = NewToken::generate(&token_key(), "test");
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    store.sign_up(&user, &token).await.unwrap();
    let id = store.grant(&token.token.id()).await.unwrap().unwrap().instance_id;
    assert_eq!(store.usage(&id).await.unwrap(), Usage::default());
    assert_eq!(store.connections(&id).await.unwrap(), 0);
    let report = |hits, connections| UsageReport {
        instance_id: id.clone(),
        usage: Usage { hits, bytes_in: 10, ..Usage::default() },
        latency: vec![(128, hits), (256, 1)],
        connections,
    };
    store.add_usage("one", &[report(3, 2)]).await.unwrap();
    store.add_usage("two", &[report(4, 5)]).await.unwrap();
    // Usage of a deleted instance is ignored.
    let gone = UsageReport { instance_id: "gone".into(), ..report(100, 100) };
    store.add_usage("one", &[gone, report(5, 1)]).await.unwrap();
    let expected = Usage { hits: 12, bytes_in: 30, ..Usage::default() };
    assert_eq!(store.usage(&id).await.unwrap(), expected);
    assert_eq!(store.latency(&id).await.unwrap(), [(128, 12), (256, 3)]);
    assert_eq!(store.connections(&id).await.unwrap(), 6);
}

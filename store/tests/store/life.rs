//! The life of a cache: suspended and resumed by itself or with its user, asleep and woken.

use store::{
    DesiredState, Instance, InstanceState, NewOperation, Observed, OperationError, OperationKind, Store,
    StoreError, TokenUse, UserState, now,
};

use crate::test_db::{TestDb, sign_up};

const SUSPEND: NewOperation = NewOperation::Suspend;
const RESUME: NewOperation = NewOperation::Resume;

async fn record(store: &Store, instance: &Instance, state: InstanceState) {
    let (address, container) = (Some("10.0.0.2".into()), Some("c1".into()));
    let seen = Observed { state, generation: 1, address, container, version: None, message: None };
    store.record_route(&instance.id, &seen).await.unwrap();
}

async fn refusal(store: &Store, cache: &str, new: NewOperation) -> OperationError {
    match store.request_operation(cache, new).await.unwrap_err() {
        StoreError::Operation(error) => error,
        error => panic!("{error:?}"),
    }
}

//
async fn suspended_cache_refuses_its_tokens_and_stays_so_whatever_its_user_is(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let instance = store.first_instance_of(&ada.id).await.unwrap().unwrap();
    let cache = &instance.cache_id;
    let is_active = async || store.grant(&token.token.id()).await.unwrap().unwrap().is_active();
    let desired = async || store.instance(&instance.id).await.unwrap().unwrap().desired;
    let mut feed = store.feed().await.unwrap();
    let first = store.request_operation(cache, SUSPEND).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, std::slice::from_ref(cache));
    assert_eq!((is_active().await, desired().await), (false, DesiredState::Suspended));
    let at = now();
    store
        .record_token_uses(&[TokenUse { token: token.token.id(), at, source: [192, 0, 2, 1].into() }])
        .await
        .unwrap();
    assert!(store.grants_used_since(at, None, 10).await.unwrap().is_empty());
    assert!(store.cache(cache).await.unwrap().unwrap().suspended);
    for new in [NewOperation::Restart, NewOperation::Flush, NewOperation::Resize { memory_mb: 128 }] {
        let refused = refusal(&store, cache, new).await;
        assert_eq!(refused, OperationError::Suspended);
        assert!(refused.to_string().contains(": resume it first"), "{refused}");
    }
    assert_eq!(store.request_operation(cache, SUSPEND).await.unwrap().id, first.id, "asked for twice");

    // Its user's suspension comes and goes.
    store.set_user_state(&ada.id, UserState::Suspended).await.unwrap();
    let refused = refusal(&store, cache, RESUME).await;
    assert_eq!(refused, OperationError::UserSuspended);
    assert!(refused.to_string().contains(": resume the user first"), "{refused}");
    store.set_user_state(&ada.id, UserState::Active).await.unwrap();
    assert_eq!((is_active().await, desired().await), (false, DesiredState::Suspended));
    let resumed = store.request_operation(cache, RESUME).await.unwrap();
    assert_eq!((resumed.kind, is_active().await), (OperationKind::Resume, true));
    assert_eq!(desired().await, DesiredState::Running);
    // What was asked for last counts, also while nothing of it is done.
    assert_eq!(store.request_operation(cache, SUSPEND).await.unwrap().id, first.id);
    assert_eq!((is_active().await, desired().await), (false, DesiredState::Suspended));
    let log = store.audit_after(0, 100).await.unwrap();
    let actions: Vec<_> = log.iter().map(|it| it.action.as_str()).collect();
    assert!(actions.windows(2).any(|pair| pair == ["user.resume", "cache.resume"]), "{actions:?}");
}

// F-37.
async fn sleeping_instance_is_woken_once_for_each_time_that_it_sleeps(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let instance = store.first_instance_of(&ada.id).await.unwrap().unwrap();
    let ids = [instance.id.clone(), "unknown".to_owned()];
    let wakes = async || store.instance(&instance.id).await.unwrap().unwrap().wake_requested;
    for state in [InstanceState::Running, InstanceState::Suspended, InstanceState::Failed] {
        record(&store, &instance, state).await;
        let before = store.revision().await.unwrap();
        store.request_wake(&ids).await.unwrap();
        assert_eq!((wakes().await, store.revision().await.unwrap()), (false, before), "{state:?}");
    }
    for _ in 0..2 {
        record(&store, &instance, InstanceState::Asleep).await;
        let grant = store.grant(&token.token.id()).await.unwrap().unwrap();
        assert_eq!((grant.asleep, grant.address), (true, None));
        assert!(!wakes().await, "what was asked for before has been obeyed");
        let mut feed = store.feed().await.unwrap();
        store.request_wake(&ids).await.unwrap();
        assert!(wakes().await);
        assert_eq!(feed.next().await.unwrap().caches, std::slice::from_ref(&instance.cache_id));
        let before = store.revision().await.unwrap();
        for _ in 0..10 {
            store.request_wake(&ids).await.unwrap();
        }
        assert_eq!(store.revision().await.unwrap(), before, "asking again costs nothing");
        record(&store, &instance, InstanceState::Restarting).await;
        assert!(!wakes().await);
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM wake_requests").await, 1);
}

async fn instance_follows_its_plan(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let life = async || {
        let instance = store.first_instance_of(&ada.id).await.unwrap().unwrap();
        (instance.warm, instance.sleep_after().map(|time| time.as_secs()))
    };
    assert_eq!(life().await, (false, None));
    let change = |plan: &mut store::Plan| (plan.warm, plan.sleep_after_seconds) = (true, Some(60));
    store.update_plan("default", change).await.unwrap();
    assert_eq!(life().await, (true, Some(60)));
    let log = store.audit_after(0, 100).await.unwrap();
    assert!(log.last().unwrap().detail.ends_with("warm: yes, sleep after s: 60"), "{log:?}");
}

async fn cache_sleeps_earlier_than_its_plan_and_never_later(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let cache = store.first_cache_of(&ada.id).await.unwrap().unwrap();
    let plan = async |seconds| {
        store.update_plan("default", move |plan| plan.sleep_after_seconds = seconds).await.unwrap();
    };
    let sleeps =
        async || store.first_instance_of(&ada.id).await.unwrap().unwrap().effective_sleep_after_seconds;
    let mut feed = store.feed().await.unwrap();
    store.acting_as_user(&ada.id).set_sleep_after(&cache.id, Some(600)).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, std::slice::from_ref(&cache.id));
    let entry = store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!((entry.action.as_str(), entry.actor), ("cache.update", format!("user {}", ada.id)));
    assert!(entry.detail.ends_with("sleeps after 600 s (was plan)"), "{}", entry.detail);
    for (of_plan, effective) in [(None, 600), (Some(3600), 600), (Some(60), 60)] {
        plan(of_plan).await;
        assert_eq!(sleeps().await, Some(effective), "{of_plan:?}");
    }
    assert_eq!(store.cache(&cache.id).await.unwrap().unwrap().sleep_after_seconds, Some(600));
    let refused = store.set_sleep_after(&cache.id, Some(61)).await;
    assert!(matches!(refused, Err(StoreError::SleepsEarlier { max: 60 })), "{refused:?}");
    store.set_sleep_after(&cache.id, Some(60)).await.unwrap();
    store.set_sleep_after(&cache.id, None).await.unwrap();
    assert_eq!(sleeps().await, Some(60));
    plan(None).await;
    assert_eq!(sleeps().await, None);
    for wrong in [0, -1] {
        assert!(store.set_sleep_after(&cache.id, Some(wrong)).await.is_err(), "{wrong}");
    }
    store.delete_cache(&cache.id).await.unwrap();
    assert!(matches!(store.set_sleep_after(&cache.id, None).await, Err(StoreError::NotFound("cache"))));
}

on_both! {
    cache_sleeps_earlier_than_its_plan_and_never_later,
    suspended_cache_refuses_its_tokens_and_stays_so_whatever_its_user_is,
    sleeping_instance_is_woken_once_for_each_time_that_it_sleeps,
    instance_follows_its_plan,
}

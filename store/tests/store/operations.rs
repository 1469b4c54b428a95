//! Operations: who may ask for which and when, what is kept of them, and who hears of it.

use store::{
    HostCapacity, Instance, InstanceState, NewOperation, Observed, Operation, OperationError, OperationKind,
    OperationProgress, OperationState, Plan, Store, StoreError, UserChange, UserState, now,
};

use crate::test_db::{TestDb, sign_up};

const FLUSH: NewOperation = NewOperation::Flush;
const RESTART: NewOperation = NewOperation::Restart;

fn resize(memory_mb: i64) -> NewOperation {
    NewOperation::Resize { memory_mb }
}

/// The instance of a new user's cache, in a state.
async fn instance_in(store: &Store, email: &str, state: InstanceState) -> Instance {
    let (user, _) = sign_up(store, email).await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    set_state(store, &instance, state).await;
    instance
}

async fn set_state(store: &Store, instance: &Instance, state: InstanceState) {
    let seen =
        Observed { state, generation: 1, address: None, container: None, version: None, message: None };
    store.record_route(&instance.id, &seen).await.unwrap();
}

fn progress(state: OperationState, percent: i64, message: &str) -> OperationProgress {
    let message = (!message.is_empty()).then(|| message.to_owned());
    OperationProgress { state, progress: percent, message, checkpoint: None }
}

async fn refusal(store: &Store, cache: &str, new: NewOperation) -> OperationError {
    match store.request_operation(cache, new).await.unwrap_err() {
        StoreError::Operation(error) => error,
        error => panic!("{error:?}"),
    }
}

async fn an_unfinished_operation_stands_until_it_ends(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let asked = store.request_operation(cache, RESTART).await.unwrap();
    let expected = Operation {
        id: asked.id.clone(),
        cache_id: cache.clone(),
        kind: OperationKind::Restart,
        memory_mb: None,
        requested_by: "operator".into(),
        state: OperationState::Pending,
        progress: 0,
        message: None,
        checkpoint: None,
        created_at: asked.created_at,
        started_at: None,
        finished_at: None,
    };
    assert_eq!(asked, expected);
    let revision = store.revision().await.unwrap();
    assert_eq!(store.request_operation(cache, RESTART).await.unwrap(), asked, "the one that stands");
    assert_eq!(store.audit_length().await.unwrap(), 2, "asked for once, signed up once");
    let flush = store.request_operation(cache, FLUSH).await.unwrap();
    assert_eq!(store.open_operations_of(cache).await.unwrap(), [asked.clone(), flush.clone()]);

    let begun = OperationProgress {
        checkpoint: Some("before".into()),
        ..progress(OperationState::Running, 10, "it runs")
    };
    store.record_operation(&asked.id, &begun).await.unwrap();
    let more = OperationProgress { checkpoint: None, ..progress(OperationState::Running, 120, "") };
    store.record_operation(&asked.id, &more).await.unwrap();
    let running = store.operation(cache, &asked.id).await.unwrap().unwrap();
    assert_eq!((running.state, running.progress, &running.message), (OperationState::Running, 100, &None));
    assert_eq!(running.checkpoint.as_deref(), Some("before"), "kept until another is recorded");
    assert!(running.started_at.is_some() && running.finished_at.is_none());
    assert_eq!(store.request_operation(cache, RESTART).await.unwrap(), running);

    store.record_operation(&asked.id, &progress(OperationState::Done, 100, "restarted")).await.unwrap();
    store.record_operation(&asked.id, &progress(OperationState::Failed, 0, "too late")).await.unwrap();
    let done = store.operation(cache, &asked.id).await.unwrap().unwrap();
    assert_eq!((done.state, done.message.as_deref()), (OperationState::Done, Some("restarted")));
    assert!(done.finished_at.is_some(), "{done:?}");
    assert_eq!(store.open_operations().await.unwrap(), [flush]);
    let next = store.request_operation(cache, RESTART).await.unwrap();
    assert_ne!(next.id, asked.id);
    let listed = store.operations_of(cache, 2).await.unwrap();
    assert_eq!((listed.len(), &listed[0]), (2, &next), "newest first");
    assert!(store.revision().await.unwrap() > revision);
    store.record_operation("unknown", &progress(OperationState::Done, 100, "")).await.unwrap();
}

async fn a_resize_changes_the_desired_size_and_the_unfinished_operation(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let memory = async || store.instance(&instance.id).await.unwrap().unwrap().memory_mb;
    let first = store.request_operation(cache, resize(128)).await.unwrap();
    assert_eq!((first.memory_mb, memory().await), (Some(128), 128));
    let again = store.request_operation(cache, resize(32)).await.unwrap();
    assert_eq!((&again.id, again.memory_mb, memory().await), (&first.id, Some(32), 32));
    let log = store.audit_after(0, 10).await.unwrap();
    let last = log.last().unwrap();
    assert_eq!((last.action.as_str(), last.subject.as_str()), ("cache.resize", &*format!("cache {cache}")));
    assert!(last.detail.ends_with("32 MB (was 128 MB)"), "{last:?}");
}

//
async fn what_cannot_be_done_is_refused_with_its_fix(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let too_small = OperationError::TooSmall { min: 8, item_size_max: 1 << 20 };
    assert_eq!(refusal(&store, cache, resize(7)).await, too_small);
    assert_eq!(refusal(&store, cache, resize(1 << 21)).await, OperationError::TooLarge { max: 1 << 20 });
    db.execute("UPDATE instances SET item_size_max = 104857600").await.unwrap();
    let too_small = OperationError::TooSmall { min: 200, item_size_max: 100 << 20 };
    assert_eq!(refusal(&store, cache, resize(199)).await, too_small);
    let capacity = HostCapacity {
        budget_bytes: 1 << 30,
        reserved_bytes: 1 << 29,
        growth_mb: 200,
        waiting: 0,
        changed_at: now(),
    };
    store.set_host_capacity(&capacity).await.unwrap();
    assert_eq!(store.host_capacity().await.unwrap(), Some(capacity));
    let no_room = OperationError::NoRoom { memory_mb: 265, available_mb: 264 };
    assert_eq!(refusal(&store, cache, resize(265)).await, no_room);
    let old = now().saturating_sub(std::time::Duration::from_secs(61));
    store.set_host_capacity(&HostCapacity { changed_at: old, ..capacity }).await.unwrap();
    assert_eq!(store.host_capacity().await.unwrap(), None, "what is old may be wrong");
    for state in [InstanceState::Pending, InstanceState::Restarting, InstanceState::Failed] {
        set_state(&store, &instance, state).await;
        assert_eq!(refusal(&store, cache, FLUSH).await, OperationError::NotRunning(state.as_str()));
    }
    store.request_operation(cache, RESTART).await.unwrap();
    set_state(&store, &instance, InstanceState::Pending).await;
    let pending = OperationError::NotRunning("pending");
    assert_eq!(refusal(&store, cache, RESTART).await, pending);
    store.set_user_state(&instance.user_id, UserState::Suspended).await.unwrap();
    for new in [RESTART, FLUSH, resize(300)] {
        let refused = refusal(&store, cache, new).await;
        assert_eq!(refused, OperationError::UserSuspended);
        assert!(refused.to_string().contains(": resume the user first"), "{refused}");
    }
    store.delete_cache(cache).await.unwrap();
    let gone = store.request_operation(cache, RESTART).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound("cache")), "{gone:?}");
    let kept = store.operations_of(cache, 10).await.unwrap();
    assert_eq!(
        kept.iter().map(|it| it.kind).collect::<Vec<_>>(),
        [OperationKind::Delete],
        "only its removal"
    );
}

// W-11: a user doesn't lift what an operator has decided, neither at once nor by taking it over.
async fn only_who_has_suspended_a_cache_resumes_it(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let owner = store.acting_as(&format!("user {}", instance.user_id));
    let ask = async |store: &Store, new| {
        let asked = store.request_operation(cache, new).await.unwrap();
        store.record_operation(&asked.id, &progress(OperationState::Done, 100, "")).await.unwrap();
    };
    ask(&owner, NewOperation::Suspend).await;
    ask(&owner, NewOperation::Suspend).await;
    ask(&owner, NewOperation::Resume).await;
    ask(&store, NewOperation::Suspend).await;
    for new in [NewOperation::Suspend, NewOperation::Resume] {
        let refused = refusal(&owner, cache, new).await;
        assert_eq!(refused, OperationError::SuspendedByOperator, "{new:?}");
        assert!(refused.to_string().contains(": ask the operator"), "{refused}");
    }
    ask(&store, NewOperation::Resume).await;
    ask(&owner, NewOperation::Suspend).await;
    // An operator's suspension counts from then on, also of a cache that its user has suspended.
    ask(&store, NewOperation::Suspend).await;
    assert_eq!(refusal(&owner, cache, NewOperation::Resume).await, OperationError::SuspendedByOperator);
    // Without a row that says who it was, nobody but the operator resumes it.
    db.execute("DELETE FROM operations").await.unwrap();
    assert_eq!(refusal(&owner, cache, NewOperation::Resume).await, OperationError::SuspendedByOperator);
}

// W-11: also of what its user has asked for and nobody has carried out yet.
async fn an_operator_takes_over_an_unfinished_suspension(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let owner = store.acting_as(&format!("user {}", instance.user_id));
    let asked = owner.request_operation(cache, NewOperation::Suspend).await.unwrap();
    let taken_over = store.request_operation(cache, NewOperation::Suspend).await.unwrap();
    assert_eq!((&taken_over.id, taken_over.requested_by.as_str()), (&asked.id, "operator"));
    let last = store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((last.actor.as_str(), last.action.as_str()), ("operator", "cache.suspend"));
    for new in [NewOperation::Suspend, NewOperation::Resume] {
        assert_eq!(refusal(&owner, cache, new).await, OperationError::SuspendedByOperator, "{new:?}");
    }
}

// W-11: the plan is read with the request, so that one that shrinks at the same time is kept to.
async fn owners_get_no_more_memory_than_the_plan_has(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let owner = store.acting_as(&format!("user {}", instance.user_id));
    let above = refusal(&owner, cache, resize(65)).await;
    assert_eq!(above, OperationError::AbovePlan { max: 64 });
    assert!(above.to_string().contains(": ask for that or less"), "{above}");
    store.request_operation(cache, resize(100)).await.unwrap();
    // What an operator gave stays, and is no reason for more.
    assert_eq!(refusal(&owner, cache, resize(101)).await, OperationError::AbovePlan { max: 100 });
    owner.request_operation(cache, resize(80)).await.unwrap();
    assert_eq!(refusal(&owner, cache, resize(81)).await, OperationError::AbovePlan { max: 80 });
    db.execute("UPDATE plans SET memory_mb = 90").await.unwrap();
    owner.request_operation(cache, resize(90)).await.unwrap();
}

//
async fn operations_are_bounded(db: TestDb) {
    let store = db.open().await;
    db.execute("UPDATE plans SET memory_mb = 1024").await.unwrap();
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let other = instance_in(&store, "bob@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let finish = async |operation: &Operation| {
        let done = progress(OperationState::Done, 100, &"ä".repeat(5_000));
        store.record_operation(&operation.id, &done).await.unwrap();
    };
    // An operator isn't limited; the history is.
    for _ in 0..30 {
        finish(&store.request_operation(cache, FLUSH).await.unwrap()).await;
    }
    let kept = store.operations_of(cache, 100).await.unwrap();
    assert_eq!(kept.len(), 21, "the newest finished ones, and the one that was added last");
    assert_eq!(kept[0].message.as_ref().unwrap().chars().count(), 500);

    let user = store.acting_as(&format!("user {}", instance.user_id));
    let refused = refusal(&user, cache, FLUSH).await;
    assert_eq!(refused, OperationError::TooOften { max: 20 }, "an operator's count too");
    let bob = store.acting_as(&format!("user {}", other.user_id));
    let mut asked = 0;
    for size in 0..100 {
        match bob.request_operation(&other.cache_id, resize(64 + size)).await {
            Ok(_) => asked += 1,
            Err(StoreError::Operation(OperationError::TooOften { .. })) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    // The first one asks for the size that it has.
    assert_eq!(asked, 20, "asking for another size counts, too");
    assert_eq!(db.number("SELECT COUNT(*) FROM operations WHERE memory_mb IS NOT NULL").await, 1);
    let foreign = store.operations_of(&other.cache_id, 1).await.unwrap().remove(0);
    assert_eq!(store.operation(cache, &foreign.id).await.unwrap(), None, "not by another cache's name");
    assert_eq!(foreign.requested_by, format!("user {}", other.user_id));
}

//
async fn old_operation_that_is_asked_for_again_counts(db: TestDb) {
    let store = db.open().await;
    db.execute("UPDATE plans SET memory_mb = 1024").await.unwrap();
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = &instance.cache_id;
    let user = store.acting_as(&format!("user {}", instance.user_id));
    let change_size = async |sizes: std::ops::Range<i64>| {
        for size in sizes {
            user.request_operation(cache, resize(size)).await.unwrap();
        }
    };
    let age = async || {
        let hours = now().saturating_sub(std::time::Duration::from_hours(2)).as_millis();
        db.execute(&format!("UPDATE operations SET created_at = {hours}, asked_at = {hours}")).await.unwrap();
    };
    let too_often = OperationError::TooOften { max: 20 };
    // It waits for memory, say.
    for _ in 0..2 {
        change_size(100..120).await;
        assert_eq!(refusal(&user, cache, resize(120)).await, too_often, "each change counts");
        age().await;
    }
    change_size(100..119).await;
    let resized = store.operations_of(cache, 1).await.unwrap().remove(0);
    store.record_operation(&resized.id, &progress(OperationState::Done, 100, "")).await.unwrap();
    // Others' operations don't push it out.
    for _ in 0..20 {
        let flush = store.request_operation(cache, FLUSH).await.unwrap();
        db.execute(&format!("UPDATE operations SET asked_at = 1 WHERE id = '{}'", flush.id)).await.unwrap();
        store.record_operation(&flush.id, &progress(OperationState::Done, 100, "")).await.unwrap();
    }
    user.request_operation(cache, FLUSH).await.unwrap();
    assert_eq!(refusal(&user, cache, RESTART).await, too_often, "what counts is kept");
}

async fn followers_hear_of_requests_and_of_progress(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let cache = instance.cache_id.clone();
    let mut feed = store.feed().await.unwrap();
    let asked = db.open().await.request_operation(&cache, FLUSH).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, std::slice::from_ref(&cache));
    store.record_operation(&asked.id, &progress(OperationState::Done, 100, "")).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, [cache]);
}

async fn caches_get_the_memory_of_their_users_new_plan(db: TestDb) {
    let store = db.open().await;
    let instance = instance_in(&store, "ada@example.org", InstanceState::Running).await;
    let default = store.plan("default").await.unwrap().unwrap();
    for (name, memory_mb) in [("large", 256), ("tiny", 4)] {
        store.create_plan(&Plan { name: name.into(), memory_mb, ..default.clone() }).await.unwrap();
    }
    let to = async |plan: &str| {
        let change = UserChange { plan: Some(plan), ..UserChange::default() };
        store.update_user(&instance.user_id, &change).await.unwrap();
        store.instance(&instance.id).await.unwrap().unwrap().memory_mb
    };
    assert_eq!(to("large").await, 256);
    let open = store.open_operations_of(&instance.cache_id).await.unwrap();
    assert_eq!((open.len(), open[0].kind, open[0].memory_mb), (1, OperationKind::Resize, Some(256)));
    assert_eq!(to("tiny").await, 256, "less than memcached can be given while it runs");
    let of_other_size = store.caches_of_other_size("tiny").await.unwrap();
    assert_eq!(of_other_size, std::slice::from_ref(&instance.cache_id));
    store.set_user_state(&instance.user_id, UserState::Suspended).await.unwrap();
    assert_eq!(to("default").await, 64, "at its next start");
    assert_eq!(store.operations_of(&instance.cache_id, 10).await.unwrap().len(), 1);
}

on_both! {
    an_unfinished_operation_stands_until_it_ends,
    a_resize_changes_the_desired_size_and_the_unfinished_operation,
    what_cannot_be_done_is_refused_with_its_fix,
    only_who_has_suspended_a_cache_resumes_it,
    an_operator_takes_over_an_unfinished_suspension,
    owners_get_no_more_memory_than_the_plan_has,
    operations_are_bounded,
    old_operation_that_is_asked_for_again_counts,
    followers_hear_of_requests_and_of_progress,
    caches_get_the_memory_of_their_users_new_plan,
}

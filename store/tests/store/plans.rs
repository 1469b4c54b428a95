//! Plans: stored, changed, and applied to every cache that has them.

use store::{
    DesiredState, ExistingCaches, HostCapacity, Instance, InstanceMemory, NewCache, NewToken, NewUser,
    OperationError, OperationKind, Plan, SignUpRoom, Store, StoreError, UserChange, now,
};

use crate::test_db::{TestDb, first_cache, new_user, sign_up, token_key};

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
        cpu_weight: 50,
        caches_per_user: Some(2),
        price_label: Some("3 € a month".into()),
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
    assert_eq!((default.cpu_weight, default.caches_per_user, default.price_label), (100, None, None));
    // An item has at most half of the memory: no cache of such a plan would start.
    let tight = Plan { name: "tight".into(), memory_mb: 8, item_size_max: (4 << 20) + 1, ..small() };
    let too_small =
        |result| matches!(result, Err(StoreError::Operation(OperationError::TooSmall { min: 9, .. })));
    assert!(too_small(store.create_plan(&tight).await));
    let changed = store.update_plan("small", |plan| plan.item_size_max = (4 << 20) + 1).await;
    assert!(changed.is_ok());
    assert!(too_small(store.update_plan("small", |plan| plan.memory_mb = 8).await.map(drop)));
    assert_eq!(store.plan("small").await.unwrap().unwrap().memory_mb, 32, "nothing half done");
}

/// The instance of a new user's cache.
async fn instance(store: &Store, email: &str) -> Instance {
    let (user, _) = sign_up(store, email).await;
    store.first_instance_of(&user.id).await.unwrap().unwrap()
}

/// Records that instances hold this many MiB.
async fn hold(db: &TestDb, held: &[(&Instance, i64)]) {
    for (instance, mb) in held {
        let sql = "INSERT INTO instance_statistics (instance_id, bytes, limit_bytes, items, hits, misses, evictions, \
                   uptime_seconds, sampled_at) VALUES";
        db.execute(&format!("{sql} ('{}', {}, 0, 1, 0, 0, 0, 60, 1)", instance.id, mb << 20)).await.unwrap();
    }
}

async fn memory_of_a_plan_is_given_to_its_caches_by_resizing(db: TestDb) {
    let store = db.open().await;
    let (ada, bob) = (instance(&store, "ada@example.org").await, instance(&store, "bob@example.org").await);
    let own_size = instance(&store, "eve@example.org").await;
    db.execute(&format!("UPDATE instances SET memory_mb = 100 WHERE id = '{}'", own_size.id)).await.unwrap();
    let stopped = instance(&store, "sue@example.org").await;
    store.set_desired_state(&stopped.id, DesiredState::Suspended).await.unwrap();
    let memory = async |instance: &Instance| store.instance(&instance.id).await.unwrap().unwrap().memory_mb;
    let to = async |memory_mb, existing| {
        store.update_plan_and("default", existing, |plan| plan.memory_mb = memory_mb).await
    };
    hold(&db, &[(&ada, 40), (&bob, 20), (&own_size, 90)]).await;

    let kept = to(128, ExistingCaches::Keep).await.unwrap();
    assert_eq!((kept.plan.memory_mb, kept.resized, memory(&ada).await), (128, 0, 64));
    to(64, ExistingCaches::Keep).await.unwrap();

    let refused = to(32, ExistingCaches::Resize).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::PlanHolds { caches: 1, memory_mb: 32, most_mb: 41 }),
        "{refused:?}"
    );
    assert_eq!(store.plan("default").await.unwrap().unwrap().memory_mb, 64, "nothing half done");
    assert_eq!(store.open_operations().await.unwrap(), []);

    let shrunk = to(41, ExistingCaches::Resize).await.unwrap();
    assert_eq!((shrunk.plan.memory_mb, shrunk.resized), (41, 3));
    assert_eq!((memory(&ada).await, memory(&stopped).await, memory(&own_size).await), (41, 41, 100));
    let asked: Vec<_> = store.open_operations().await.unwrap();
    let asked: Vec<_> = asked.into_iter().map(|it| (it.cache_id, it.kind, it.memory_mb)).collect();
    for cache in [&ada.cache_id, &bob.cache_id] {
        assert!(asked.contains(&(cache.clone(), OperationKind::Resize, Some(41))), "{asked:?}");
    }
    assert_eq!(asked.len(), 2, "one that is stopped gets it at its next start");
    let forced = to(16, ExistingCaches::ResizeAndEvict).await.unwrap();
    assert_eq!((forced.resized, memory(&ada).await), (3, 16));

    // Growing needs room on the machine, for all of them.
    capacity(&store, 1 << 40, 100).await;
    let refused = to(70, ExistingCaches::Resize).await.unwrap_err();
    assert!(matches!(refused, StoreError::Operation(OperationError::NoRoom { .. })), "{refused:?}");
    assert_eq!((memory(&ada).await, memory(&bob).await), (16, 16));
    assert_eq!(to(60, ExistingCaches::Resize).await.unwrap().resized, 3);
}

async fn warm_caches_are_emptied_only_if_that_is_said(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = (instance(&store, "ada@example.org").await, instance(&store, "bob@example.org").await);
    let stopped = instance(&store, "sue@example.org").await;
    store.set_desired_state(&stopped.id, DesiredState::Suspended).await.unwrap();
    let memory = async |instance: &Instance| store.instance(&instance.id).await.unwrap().unwrap().memory_mb;
    let update = async |warm, memory_mb, existing| {
        let change = |plan: &mut Plan| (plan.warm, plan.memory_mb) = (warm, memory_mb);
        Ok::<_, StoreError>(store.update_plan_and("default", existing, change).await?.resized)
    };
    // What it is before a change counts, and what it is then.
    for (former, warm, memory_mb, empties) in [
        ((false, 100), false, 80, false),
        ((false, 100), true, 80, false),
        ((false, 100), true, 120, false),
        ((true, 100), true, 120, false),
        ((true, 100), true, 80, true),
        ((true, 100), false, 80, true),
        ((true, 100), false, 120, true),
        // With so little no cache is warm.
        ((true, 60), true, 50, false),
    ] {
        update(former.0, former.1, ExistingCaches::ResizeAndEvict).await.unwrap();
        let case = format!("{former:?}, {warm}, {memory_mb}");
        if empties {
            let refused = update(warm, memory_mb, ExistingCaches::Resize).await.unwrap_err();
            assert!(matches!(refused, StoreError::PlanEmpties { caches: 2 }), "{case}: {refused:?}");
            assert_eq!(memory(&ada).await, former.1, "{case}: nothing half done");
            assert_eq!(update(warm, memory_mb, ExistingCaches::ResizeAndEvict).await.unwrap(), 3, "{case}");
        } else {
            assert_eq!(update(warm, memory_mb, ExistingCaches::Resize).await.unwrap(), 3, "{case}");
        }
    }
}

async fn another_plan_of_a_user_empties_warm_caches_only_if_that_is_said(db: TestDb) {
    let store = db.open().await;
    let ada = instance(&store, "ada@example.org").await;
    let default = store.plan("default").await.unwrap().unwrap();
    for (name, warm, memory_mb) in
        [("warm", true, 256), ("larger", true, 512), ("smaller", true, 128), ("cold", false, 512)]
    {
        let plan = Plan { name: name.into(), warm, memory_mb, ..default.clone() };
        store.create_plan(&plan).await.unwrap();
    }
    let to = async |plan: &str, may_empty| {
        let change = UserChange { plan: Some(plan), may_empty, ..UserChange::default() };
        store.update_user(&ada.user_id, &change).await
    };
    for (plan, empties) in [("larger", false), ("smaller", true), ("cold", true), ("warm", false)] {
        to("warm", true).await.unwrap();
        if empties {
            let refused = to(plan, false).await.unwrap_err();
            assert!(matches!(refused, StoreError::PlanEmpties { caches: 1 }), "{plan}: {refused:?}");
            let user = store.user(&ada.user_id).await.unwrap().unwrap();
            let memory_mb = store.instance(&ada.id).await.unwrap().unwrap().memory_mb;
            assert_eq!((user.plan.as_str(), memory_mb), ("warm", 256), "{plan}: nothing half done");
            to(plan, true).await.unwrap();
        } else {
            to(plan, false).await.unwrap();
        }
    }
    // One that is suspended has no contents, and one that isn't warm keeps what fits.
    to("warm", true).await.unwrap();
    store.set_desired_state(&ada.id, DesiredState::Suspended).await.unwrap();
    to("cold", false).await.unwrap();
    store.set_desired_state(&ada.id, DesiredState::Running).await.unwrap();
    to("smaller", false).await.unwrap();
}

async fn cpu_weight_of_a_plan_is_its_caches(db: TestDb) {
    let store = db.open().await;
    let ada = instance(&store, "ada@example.org").await;
    assert_eq!(ada.cpu_weight, 100);
    let mut feed = store.feed_of_caches().await.unwrap();
    store.update_plan("default", |plan| plan.cpu_weight = 300).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, std::slice::from_ref(&ada.cache_id));
    assert_eq!(store.instance(&ada.id).await.unwrap().unwrap().cpu_weight, 300);
    assert_eq!(store.instances().await.unwrap()[0].cpu_weight, 300);
}

async fn plan_says_how_many_caches_its_users_have(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let create = async |name: &str| {
        let new = NewCache { user_id: &ada.id, name: &name.parse().unwrap(), plan: None };
        store.create_cache(&new, 2).await
    };
    create("second").await.unwrap();
    let full = |result| matches!(result, Err(StoreError::LimitReached("cache")));
    assert!(full(create("third").await), "the setting's number");
    store.update_plan("default", |plan| plan.caches_per_user = Some(3)).await.unwrap();
    create("third").await.unwrap();
    assert!(full(create("fourth").await));
    store.update_plan("default", |plan| plan.caches_per_user = Some(1)).await.unwrap();
    assert!(full(create("fourth").await));
}

/// Records what the machine has for caches: bytes in all, and MiB that those that run may grow by.
async fn capacity(store: &Store, budget_bytes: i64, growth_mb: i64) {
    let now = now();
    let capacity = HostCapacity { budget_bytes, reserved_bytes: 0, growth_mb, waiting: 0, changed_at: now };
    store.set_host_capacity(&capacity).await.unwrap();
}

//
async fn no_more_caches_are_promised_than_the_machine_holds(db: TestDb) {
    let store = db.open().await;
    let of_default = InstanceMemory::new(64, 20_000, 1 << 20).limit();
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let room = SignUpRoom { memory_of: Some("default"), ..SignUpRoom::default() };
    let add = async |email: &str| {
        let token = NewToken::generate(&token_key(), "first");
        store.sign_up_within(&new_user(email), &token, &room).await
    };
    let full = |error: StoreError| matches!(error, StoreError::LimitReached("memory"));
    // Without a provisioner that tells, none is refused.
    add("unknown@example.org").await.unwrap();
    // Nothing has started yet: what was promised counts.
    capacity(&store, of_default * 4 - 1, 1 << 20).await;
    store.check_room(&room).await.unwrap();
    add("third@example.org").await.unwrap();
    assert!(full(store.check_room(&room).await.unwrap_err()));
    assert!(full(add("fourth@example.org").await.unwrap_err()));
    assert_eq!(store.user_by_email("fourth@example.org").await.unwrap(), None, "nothing half done");
    let cache = NewCache { user_id: &ada.id, name: &"second".parse().unwrap(), plan: None };
    assert!(full(store.create_cache(&cache, 3).await.unwrap_err()));
    // A smaller one fits, and so does another once one is deleted.
    let tiny = Plan { name: "tiny".into(), memory_mb: 8, ..small() };
    store.create_plan(&tiny).await.unwrap();
    store.create_cache(&NewCache { plan: Some("tiny"), ..cache }, 3).await.unwrap();
    store.delete_user(&ada.id).await.unwrap();
    add("fourth@example.org").await.unwrap();
    // What the provisioner said long ago counts no more.
    db.execute("UPDATE host_capacity SET budget_bytes = 1, changed_at = 1").await.unwrap();
    add("fifth@example.org").await.unwrap();
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
    let change = UserChange { plan: Some("small"), is_admin: Some(true), ..UserChange::default() };
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

    let none = UserChange { plan: Some("gold"), ..UserChange::default() };
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
    memory_of_a_plan_is_given_to_its_caches_by_resizing,
    warm_caches_are_emptied_only_if_that_is_said,
    another_plan_of_a_user_empties_warm_caches_only_if_that_is_said,
    cpu_weight_of_a_plan_is_its_caches,
    plan_says_how_many_caches_its_users_have,
    no_more_caches_are_promised_than_the_machine_holds,
}

//! Caches: created by sign-up and by request, each with its own tokens, plan and instance; deleted with them.

use store::{
    CREATED_MAX, Cache, CacheName, DesiredState, Grant, InstanceState, NewCache, NewToken, Observed, Plan,
    Store, StoreError, User, UserState, now,
};

use crate::test_db::{TestDb, sign_up, token_key};

const CACHES_MAX: usize = 3;

async fn create(store: &Store, user: &User, name: &str, plan: Option<&str>) -> Result<Cache, StoreError> {
    let name: CacheName = name.parse().unwrap();
    store.create_cache(&NewCache { user_id: &user.id, name: &name, plan }, CACHES_MAX).await
}

async fn create_token(store: &Store, cache: &Cache) -> NewToken {
    let token = NewToken::generate(&token_key(), "app");
    store.create_token(&cache.id, &token).await.unwrap();
    token
}

async fn grant(store: &Store, token: &NewToken) -> Grant {
    store.grant(&token.token.id()).await.unwrap().unwrap()
}

async fn sign_up_creates_a_cache_named_default(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let [cache] = &store.caches_of(&ada.id).await.unwrap()[..] else { panic!("one cache") };
    assert_eq!((cache.name.as_str(), &cache.plan, &cache.user_id), ("default", &ada.plan, &ada.id));
    assert_eq!(store.cache(&cache.id).await.unwrap().as_ref(), Some(cache));
    assert_eq!(store.cache_by_name(&ada.id, "default").await.unwrap().as_ref(), Some(cache));
    assert_eq!(store.first_cache_of(&ada.id).await.unwrap().as_ref(), Some(cache));
    let instance = store.instance_of_cache(&cache.id).await.unwrap().unwrap();
    assert_eq!((&instance.cache, &instance.user_id), (&cache.name, &ada.id));
    let row = store.token(&token.token.id()).await.unwrap().unwrap();
    assert_eq!((&row.cache_id, &row.cache, &row.user_id), (&cache.id, &cache.name, &ada.id));
    let created = store.audit_after(0, 10).await.unwrap().remove(0);
    assert!(created.detail.contains(&format!("cache default ({})", cache.id)), "{}", created.detail);
}

async fn caches_of_a_user_have_separate_tokens_plans_and_grants(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let default = store.first_cache_of(&ada.id).await.unwrap().unwrap();
    let small = Plan {
        name: "small".into(),
        memory_mb: 8,
        connections: 10,
        item_size_max: 1024,
        operations_per_second: Some(100),
        bytes_per_second: None,
        warm: false,
        sleep_after_seconds: None,
        cpu_weight: 100,
        caches_per_user: None,
        price_label: None,
    };
    store.create_plan(&small).await.unwrap();
    let second = create(&store, &ada, "second", Some("small")).await.unwrap();
    let token = create_token(&store, &second).await;

    let ids = async |cache: &Cache| {
        let tokens = store.tokens_of_cache(&cache.id).await.unwrap();
        tokens.into_iter().map(|token| token.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&default).await, [first.token.id().to_string()]);
    assert_eq!(ids(&second).await, [token.token.id().to_string()]);
    assert_eq!(store.tokens_of_user(&ada.id).await.unwrap().len(), 2);

    let (one, two) = (grant(&store, &first).await, grant(&store, &token).await);
    assert_eq!((&one.cache_id, &two.cache_id), (&default.id, &second.id));
    assert_ne!(one.instance_id, two.instance_id);
    assert_eq!((one.connections, one.operations_per_second), (20_000, None));
    assert_eq!((two.connections, two.item_size_max, two.operations_per_second), (10, 1024, Some(100)));
    let instance = store.instance_of_cache(&second.id).await.unwrap().unwrap();
    assert_eq!((instance.memory_mb, instance.desired), (8, DesiredState::Running));

    let mut feed = store.feed().await.unwrap();
    store.update_plan("small", |plan| plan.operations_per_second = None).await.unwrap();
    assert_eq!(feed.next().await.unwrap().caches, [second.id], "the other cache has another plan");
}

async fn cache_count_is_limited(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    let second = create(&store, &ada, "second", None).await.unwrap();
    let taken = create(&store, &ada, "second", None).await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists("cache name")), "{taken:?}");
    create(&store, &grace, "second", None).await.unwrap();
    let plan = create(&store, &ada, "third", Some("huge")).await.unwrap_err();
    assert!(matches!(plan, StoreError::NotFound("plan")), "{plan:?}");

    // Of two concurrent calls at the limit, one succeeds.
    let (a, b) = tokio::join!(create(&store, &ada, "a", None), create(&store, &ada, "b", None));
    let refused = [a, b].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(refused[..], [StoreError::LimitReached("cache")]), "{refused:?}");
    assert_eq!(store.caches_of(&ada.id).await.unwrap().len(), CACHES_MAX);
    store.delete_cache(&second.id).await.unwrap();
    create(&store, &ada, "second", None).await.unwrap();
}

// the rows of deleted caches are kept for ever.
async fn caches_that_are_created_and_deleted_are_limited_and_not_listed(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    let user = store.acting_as(&format!("user {}", ada.id));
    for _ in 1..CREATED_MAX {
        let cache = create(&user, &ada, "second", None).await.unwrap();
        user.delete_cache(&cache.id).await.unwrap();
    }
    let refused = create(&user, &ada, "second", None).await.unwrap_err();
    assert!(matches!(refused, StoreError::LimitReached("caches a day")), "{refused:?}");
    create(&store.acting_as(&format!("user {}", grace.id)), &grace, "second", None).await.unwrap();
    create(&store, &ada, "by-the-operator", None).await.unwrap();

    // Until their containers are gone, the provisioner has to know of them.
    assert_eq!(store.instance_ids().await.unwrap().len(), 23);
    let gone = Observed {
        state: InstanceState::Deleting,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: None,
    };
    for instance in store.instances().await.unwrap() {
        if instance.desired == DesiredState::Deleting {
            store.record_route(&instance.id, &gone).await.unwrap();
        }
    }
    assert_eq!((store.instance_ids().await.unwrap().len(), store.instances().await.unwrap().len()), (4, 4));
    assert_eq!(store.instance_ids_of_user(&ada.id).await.unwrap().len(), 21, "bills have them");
    let ago = now().saturating_sub(std::time::Duration::from_hours(25)).as_millis();
    db.execute(&format!("UPDATE caches SET created_at = {ago}")).await.unwrap();
    create(&user, &ada, "second", None).await.unwrap();
}

async fn token_of_a_deleted_cache_is_refused(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let second = create(&store, &ada, "second", None).await.unwrap();
    let token = create_token(&store, &second).await;
    let mut feed = store.feed().await.unwrap();
    assert_eq!(store.delete_cache(&second.id).await.unwrap(), 1);
    let changes = feed.next().await.unwrap();
    assert_eq!((changes.tokens, changes.caches), (vec![token.token.id()], vec![second.id.clone()]));

    assert!(!grant(&store, &token).await.is_active());
    assert!(grant(&store, &first).await.is_active());
    assert_eq!(store.cache(&second.id).await.unwrap(), None);
    assert_eq!(store.cache_by_name(&ada.id, "second").await.unwrap(), None);
    assert_eq!(store.caches_of(&ada.id).await.unwrap().len(), 1);
    let instance = store.instance_of_cache(&second.id).await.unwrap().unwrap();
    assert_eq!(instance.desired, DesiredState::Deleting);

    let new = store.create_token(&second.id, &NewToken::generate(&token_key(), "x")).await.unwrap_err();
    assert!(matches!(new, StoreError::NotFound("cache")), "{new:?}");
    let rotated = store.rotate_token(&token.token.id(), NewToken::generate(&token_key(), "x"), now()).await;
    assert!(matches!(rotated, Err(StoreError::NotFound("active token"))), "{rotated:?}");
    let again = store.delete_cache(&second.id).await.unwrap_err();
    assert!(matches!(again, StoreError::NotFound("cache")), "{again:?}");
    // Resuming the user doesn't bring the instance back.
    store.set_user_state(&ada.id, UserState::Suspended).await.unwrap();
    store.set_user_state(&ada.id, UserState::Active).await.unwrap();
    let instance = store.instance_of_cache(&second.id).await.unwrap().unwrap();
    assert_eq!(instance.desired, DesiredState::Deleting);

    let entries = store.audit_after(0, 100).await.unwrap();
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert!(actions.windows(2).any(|pair| pair == ["token.revoke", "cache.delete"]), "{actions:?}");
}

async fn suspension_and_deletion_of_a_user_apply_to_all_caches(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let second = create(&store, &ada, "second", None).await.unwrap();
    let token = create_token(&store, &second).await;
    let desired = async || {
        let instances = store.instances().await.unwrap();
        instances.into_iter().map(|instance| instance.desired).collect::<Vec<_>>()
    };
    store.set_user_state(&ada.id, UserState::Suspended).await.unwrap();
    assert!(!grant(&store, &first).await.is_active() && !grant(&store, &token).await.is_active());
    assert_eq!(desired().await, [DesiredState::Suspended; 2]);
    let third = create(&store, &ada, "third", None).await.unwrap();
    let instance = store.instance_of_cache(&third.id).await.unwrap().unwrap();
    assert_eq!(instance.desired, DesiredState::Suspended, "a suspended user's new cache waits");
    store.set_user_state(&ada.id, UserState::Active).await.unwrap();
    assert!(grant(&store, &first).await.is_active() && grant(&store, &token).await.is_active());
    assert_eq!(desired().await, [DesiredState::Running; 3]);

    store.delete_user(&ada.id).await.unwrap();
    assert!(!grant(&store, &first).await.is_active() && !grant(&store, &token).await.is_active());
    assert_eq!(desired().await, [DesiredState::Deleting; 3]);
    assert_eq!(store.caches_of(&ada.id).await.unwrap(), []);
    assert_eq!(db.number("SELECT COUNT(*) FROM caches WHERE name LIKE 'second%'").await, 0);
    let refused = create(&store, &ada, "fourth", None).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotFound("user")), "{refused:?}");
}

on_both! {
    sign_up_creates_a_cache_named_default,
    caches_of_a_user_have_separate_tokens_plans_and_grants,
    cache_count_is_limited,
    caches_that_are_created_and_deleted_are_limited_and_not_listed,
    token_of_a_deleted_cache_is_refused,
    suspension_and_deletion_of_a_user_apply_to_all_caches,
}

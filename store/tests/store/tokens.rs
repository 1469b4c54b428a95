//! Tokens and grants: what the store keeps of a token, and what a proxy reads of it.

use std::time::Duration;

use store::{
    Grant, InstanceState, LeakReport, NewToken, Observed, ScramKeys, Store, StoreError, Token, TokenId,
    TokenRow, TokenUse, User, UserState, now,
};

use crate::test_db::{TestDb, first_cache, new_user, sign_up, token_key};

async fn tokens_are_created_listed_and_revoked(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    let second = NewToken::generate(&token_key(), "laptop \"><script> \u{202e}");
    store.create_token(&first_cache(&store, &ada).await, &second).await.unwrap();

    let list = store.tokens_of_user(&ada.id).await.unwrap();
    let ids: Vec<&str> = list.iter().map(|row| row.id.as_str()).collect();
    assert!(ids.contains(&first.token.id().as_str()) && ids.contains(&second.token.id().as_str()));
    assert_eq!(list.len(), 2);
    assert_eq!(store.tokens_of_user(&grace.id).await.unwrap().len(), 1);
    let row = store.token(&second.token.id()).await.unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.revoked_at), ("laptop \"><script> \u{202e}", None));

    store.revoke_token(&second.token.id()).await.unwrap();
    let revoked = store.token(&second.token.id()).await.unwrap().unwrap();
    assert!(revoked.revoked_at >= Some(row.created_at));
    store.revoke_token(&second.token.id()).await.unwrap();
    assert_eq!(
        store.token(&second.token.id()).await.unwrap(),
        Some(revoked),
        "the first revocation's time stays"
    );
    assert_eq!(store.token(&first.token.id()).await.unwrap().unwrap().revoked_at, None);
}

async fn token_count_is_limited(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    sign_up(&store, "grace@example.org").await;
    // Concurrently: none of the four sees the others' rows.
    let tokens: Vec<NewToken> = (0..4).map(|_| NewToken::generate(&token_key(), "x")).collect();
    let cache = first_cache(&store, &ada).await;
    let add = |token| store.create_token_within(&cache, token, 3);
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| add(&tokens[n]));
    let results: [Result<(), StoreError>; 4] = tokio::join!(a, b, c, d).into();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
    assert!(
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .all(|error| matches!(error, StoreError::LimitReached("token")))
    );
    assert_eq!(store.tokens_of_user(&ada.id).await.unwrap().len(), 3);
    store.revoke_token(&first.token.id()).await.unwrap();
    let another = NewToken::generate(&token_key(), "y");
    store.create_token_within(&first_cache(&store, &ada).await, &another, 3).await.unwrap();
}

//
async fn lists_show_active_tokens_and_few_of_the_others(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &ada).await;
    let (now, day) = (store::now(), Duration::from_hours(24));
    let mut ids = Vec::new();
    for n in 0..6_u32 {
        let token = NewToken::generate(&token_key(), "x");
        store.create_token(&cache, &token).await.unwrap();
        let (id, at) = (token.token.id(), now.saturating_sub(day * (10 - n)));
        db.execute(&format!("UPDATE tokens SET created_at = {at} WHERE id = '{id}'")).await.unwrap();
        ids.push(id.to_string());
    }
    for id in &ids[1..4] {
        store.revoke_token(&TokenId::parse(id).unwrap()).await.unwrap();
    }
    db.execute(&format!("UPDATE tokens SET expires_at = {now} WHERE id = '{}'", ids[4])).await.unwrap();
    let listed = store.list_tokens(&cache, 3).await.unwrap();
    let names = |rows: &[TokenRow]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    assert_eq!(names(&listed.active), [&ids[0], &ids[5], first.token.id().as_str()]);
    assert_eq!(names(&listed.inactive), [&*ids[4], &ids[3], &ids[2]], "the newest");
    assert_eq!(store.count_active_tokens(&cache).await.unwrap(), 3);
}

//
async fn tokens_that_ended_long_ago_are_deleted(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &ada).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let token = NewToken::generate(&token_key(), "x");
        store.create_token(&cache, &token).await.unwrap();
        ids.push(token.token.id());
    }
    let ago = |days: u32| store::now().saturating_sub(Duration::from_hours(24) * days);
    let found = LeakReport::new(&first.token, "https://example.org", "content");
    let key = token_key();
    let leaked = NewToken::generate(&key, "leaked");
    store.create_token(&cache, &leaked).await.unwrap();
    assert!(store.report_leak(&key, &leaked.token, &found).await.unwrap());
    for (id, column, days) in [
        (ids[0], "revoked_at", 89),
        (ids[1], "revoked_at", 91),
        (ids[2], "expires_at", 89),
        (ids[3], "expires_at", 91),
        (leaked.token.id(), "revoked_at", 91),
    ] {
        let sql = format!("UPDATE tokens SET {column} = {} WHERE id = '{id}'", ago(days));
        db.execute(&sql).await.unwrap();
    }
    assert_eq!(store.prune_tokens().await.unwrap(), 3);
    let rows = store.tokens_of_cache(&cache).await.unwrap();
    let mut left: Vec<_> = rows.iter().map(|row| row.id.clone()).collect();
    let mut expected = [first.token.id(), ids[0], ids[2]].map(|id| id.to_string());
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(store.leaks_of(&ada.id).await.unwrap(), []);
    let length = store.audit_length().await.unwrap();
    let last = store.audit_after(length - 1, 1).await.unwrap().remove(0);
    assert_eq!((&*last.action, &*last.detail), ("token.prune", "3 tokens that ended more than 90 days ago"));
    assert_eq!(store.prune_tokens().await.unwrap(), 0);
    assert_eq!(store.audit_length().await.unwrap(), length, "nothing to note");
}

//
async fn tokens_that_ended_are_kept_in_bounded_number(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &ada).await;
    let numbers = if db.is_postgres() {
        "SELECT i FROM generate_series(1, 1098) AS n (i)"
    } else {
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1098) SELECT i FROM n"
    };
    db.execute(&format!(
        "INSERT INTO tokens SELECT 't' || i, '{cache}', 'x', '', '', 1, '', '', 'all', NULL, NULL, NULL, NULL, NULL, i, i, 1 \
         FROM ({numbers}) n"
    ))
    .await
    .unwrap();
    let count = async || db.number(&format!("SELECT COUNT(*) FROM tokens WHERE cache_id = '{cache}'")).await;
    let rotated = NewToken::generate(&token_key(), "x");
    let (rotated, _) = store.rotate_token(&first.token.id(), rotated, store::now()).await.unwrap();
    assert_eq!(count().await, 1098 + 2, "few more than are kept");
    store.revoke_token(&rotated.token.id()).await.unwrap();
    store.create_token(&cache, &NewToken::generate(&token_key(), "x")).await.unwrap();
    assert_eq!(count().await, 1000 + 1, "the newest, and the active one");
    assert!(store.token(&first.token.id()).await.unwrap().is_some(), "a new one");
    let length = store.audit_length().await.unwrap();
    let last = store.audit_after(length - 1, 1).await.unwrap().remove(0);
    assert_eq!((&*last.action, &*last.detail), ("token.prune", "the oldest 100 of those that ended"));
    store.create_token(&cache, &NewToken::generate(&token_key(), "x")).await.unwrap();
    assert_eq!(count().await, 1000 + 2);
}

async fn unknown_tokens_and_caches_are_not_found(db: TestDb) {
    let store = db.open().await;
    let unknown = Token::generate().id();
    assert_eq!(store.token(&unknown).await.unwrap(), None);
    assert!(store.grant(&unknown).await.unwrap().is_none());
    let error = store.revoke_token(&unknown).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("token")), "{error:?}");
    let error = store.create_token("unknown", &NewToken::generate(&token_key(), "x")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("cache")), "{error:?}");
}

async fn grant_has_limits_and_route_for_the_proxy(db: TestDb) {
    let store = db.open().await;
    let key = token_key();
    let token = NewToken::generate(&key, "first");
    let user = store.sign_up(&new_user("ada@example.org"), &token).await.unwrap();
    let id = token.token.id();
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();

    let grant = store.grant(&id).await.unwrap().unwrap();
    assert_eq!((grant.token, &grant.user_id, &grant.cache_id), (id, &user.id, &instance.cache_id));
    assert_eq!(grant.instance_id, instance.id);
    assert_eq!((grant.connections, grant.item_size_max), (instance.connections, instance.item_size_max));
    assert_eq!((grant.revoked, grant.user_state), (false, UserState::Active));
    assert_eq!((grant.address.as_deref(), grant.generation), (None, 0));
    assert_eq!(grant.read_at, store.revision().await.unwrap());

    for (state, address) in [
        (InstanceState::Running, Some("10.1.0.2")),
        (InstanceState::Restarting, None),
        (InstanceState::Failed, None),
    ] {
        record(&store, &instance.id, state).await;
        let grant = store.grant(&id).await.unwrap().unwrap();
        assert_eq!((grant.address.as_deref(), grant.generation), (address, 3), "{state:?}");
    }
}

async fn record(store: &Store, instance_id: &str, state: InstanceState) {
    let address = Some("10.1.0.2".to_owned());
    let seen = Observed { state, generation: 3, address, container: None, version: None, message: None };
    store.record_route(instance_id, &seen).await.unwrap();
}

// V-4.
async fn grant_matches_its_own_secret_only(db: TestDb) {
    let store = db.open().await;
    let key = token_key();
    let token = NewToken::generate(&key, "first");
    store.sign_up(&new_user("ada@example.org"), &token).await.unwrap();
    let (_, other) = sign_up(&store, "grace@example.org").await;
    let id = token.token.id();
    let grant = store.grant(&id).await.unwrap().unwrap();
    assert!(grant.matches(&key, token.token.secret()));
    assert!(!grant.matches(&key, other.token.secret()));
    assert!(!grant.matches(&token_key(), token.token.secret()), "another installation's key");
    assert!(!Grant::verify_decoy(&key, &id, token.token.secret()));
    let stored = format!(
        "SELECT COUNT(*) FROM tokens WHERE secret_hash LIKE '%{0}%' OR scram_salt LIKE '%{0}%' \
         OR scram_stored_key LIKE '%{0}%' OR scram_server_key LIKE '%{0}%'",
        token.token.secret().reveal()
    );
    assert_eq!(db.number(&stored).await, 0, "the secret itself is not in the table");
    assert!(!format!("{token:?} {grant:?}").contains(token.token.secret().reveal()));
}

// S-10.
async fn grant_has_scram_keys(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ada@example.org").await;
    let (_, other) = sign_up(&store, "grace@example.org").await;
    let scram = async |id: &TokenId| store.grant(id).await.unwrap().unwrap().scram;
    let keys = scram(&token.token.id()).await.unwrap();
    assert_eq!(keys.iterations, 4096);
    assert_ne!(keys.salt, scram(&other.token.id()).await.unwrap().salt);
    assert_ne!(keys.stored_key, [0; 32]);
    assert!(keys.disabled().salt == keys.salt && keys.disabled() != keys);
    assert_eq!(format!("{keys:?}"), "ScramKeys");
    let key = token_key();
    let decoy = |name: &[u8]| ScramKeys::decoy(&key, name);
    assert!(decoy(b"ann") == decoy(b"ann"), "a salt that changes tells that the token is unknown");
    assert!(decoy(b"ann").salt != decoy(b"bob").salt);
    assert!(ScramKeys::decoy(&token_key(), b"ann").salt != decoy(b"ann").salt, "another installation");
    // A corrupt salt disables SCRAM for its own token only.
    let sql = format!("UPDATE tokens SET scram_salt = 'x' WHERE id = '{}'", token.token.id().as_str());
    db.execute(&sql).await.unwrap();
    assert!(scram(&token.token.id()).await.is_none());
    assert!(scram(&other.token.id()).await.is_some());
}

async fn grant_shows_revoked_token_and_suspended_user(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let (_, other) = sign_up(&store, "grace@example.org").await;
    store.revoke_token(&token.token.id()).await.unwrap();
    suspend(&db, &ada).await;
    let flags = async |id: &TokenId| {
        let grant = store.grant(id).await.unwrap().unwrap();
        (grant.revoked, grant.user_state)
    };
    assert_eq!(flags(&token.token.id()).await, (true, UserState::Suspended));
    assert_eq!(flags(&other.token.id()).await, (false, UserState::Active));
}

//
async fn grants_of_a_cache_and_of_active_tokens(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let (grace, other) = sign_up(&store, "grace@example.org").await;
    let cache = first_cache(&store, &ada).await;
    let more: Vec<NewToken> = (0..5).map(|_| NewToken::generate(&token_key(), "x")).collect();
    for token in &more {
        store.create_token(&cache, token).await.unwrap();
    }
    store.revoke_token(&more[0].token.id()).await.unwrap();
    let mut expected: Vec<TokenId> = more[1..].iter().chain([&first]).map(|new| new.token.id()).collect();
    expected.sort_unstable_by_key(TokenId::to_string);
    let ids = |grants: &[Grant]| {
        let mut ids: Vec<TokenId> = grants.iter().map(|grant| grant.token).collect();
        ids.sort_unstable_by_key(TokenId::to_string);
        ids
    };
    let of_cache = store.grants_of_cache(&cache).await.unwrap();
    assert_eq!(ids(&of_cache), expected);
    let one = store.grant(&first.token.id()).await.unwrap().unwrap();
    let same = of_cache.iter().find(|grant| grant.token == one.token).unwrap();
    assert_eq!(format!("{same:?}"), format!("{one:?}"));
    let (used_at, unused) = (now(), NewToken::generate(&token_key(), "unused"));
    store.create_token(&cache, &unused).await.unwrap();
    let tokens: Vec<TokenId> =
        more.iter().chain([&first, &other]).map(|new| new.token.id()).chain([unused.token.id()]).collect();
    let at = |token: &TokenId| {
        if *token == unused.token.id() { used_at.saturating_sub(Duration::from_mins(1)) } else { used_at }
    };
    let uses: Vec<_> = tokens
        .iter()
        .map(|token| TokenUse { token: *token, at: at(token), source: [192, 0, 2, 1].into() })
        .collect();
    store.record_token_uses(&uses).await.unwrap();
    // In pages, in the order of ids.
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|grant: &Grant| &grant.token);
        let page = store.grants_used_since(used_at, after, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    expected.push(other.token.id());
    expected.sort_unstable_by_key(TokenId::to_string);
    assert_eq!((all.len(), ids(&all)), (expected.len(), expected));
    suspend(&db, &grace).await;
    assert_eq!(store.grants_used_since(used_at, None, 100).await.unwrap().len(), 5);
}

async fn suspend(db: &TestDb, user: &User) {
    let sql = format!("UPDATE users SET state = 'suspended' WHERE id = '{}'", user.id);
    db.execute(&sql).await.unwrap();
}

on_both! {
    tokens_are_created_listed_and_revoked,
    token_count_is_limited,
    lists_show_active_tokens_and_few_of_the_others,
    tokens_that_ended_long_ago_are_deleted,
    tokens_that_ended_are_kept_in_bounded_number,
    unknown_tokens_and_caches_are_not_found,
    grant_has_limits_and_route_for_the_proxy,
    grant_matches_its_own_secret_only,
    grant_has_scram_keys,
    grant_shows_revoked_token_and_suspended_user,
    grants_of_a_cache_and_of_active_tokens,
}

//! Feeds: a follower learns of every write of every process, in order, even if its connection breaks.

use std::collections::{HashMap, HashSet};

use store::{Changes, Feed, InstanceState, NewToken, Observed, StoreError, TokenId};

use crate::concurrent_process::{self, Task};
use crate::test_db::{DEADLINE, TestDb, first_cache, sign_up, token_key};

const WRITERS: i64 = 4;
const TOKENS: i64 = 200;

async fn next(feed: &mut Feed) -> Changes {
    tokio::time::timeout(DEADLINE, feed.next()).await.expect("the feed reports a change").unwrap()
}

/// Kills the feed's connection, as a restart of PostgreSQL or a firewall would.
async fn kill_listeners(db: &TestDb) {
    if db.is_postgres() {
        let sql = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        db.number(sql).await;
    }
}

/// The feed names what a write changed, and nothing else.
async fn feed_names_what_each_write_changed(db: TestDb) {
    let store = db.open().await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    let mut feed = store.feed().await.unwrap();
    let start = store.revision().await.unwrap();
    assert_eq!(feed.revision(), start, "a feed starts at the current revision");
    let named = |revision: i64, tokens: &[TokenId], caches: &[&str]| Changes {
        revision,
        tokens: tokens.to_vec(),
        certificates: Vec::new(),
        caches: caches.iter().map(|id| (*id).to_owned()).collect(),
    };

    // Write through another pool, so that the change must come from the database.
    let other = db.open().await;
    let (ada, first) = sign_up(&other, "ada@example.org").await;
    let cache = first_cache(&other, &ada).await;
    assert_eq!(next(&mut feed).await, named(start + 1, &[first.token.id()], &[&cache]));
    let second = NewToken::generate(&token_key(), "second");
    other.create_token(&cache, &second).await.unwrap();
    assert_eq!(next(&mut feed).await, named(start + 2, &[second.token.id()], &[]));
    other.revoke_token(&first.token.id()).await.unwrap();
    assert_eq!(next(&mut feed).await, named(start + 3, &[first.token.id()], &[]));
    let instance = other.first_instance_of(&grace.id).await.unwrap().unwrap();
    let state = InstanceState::Failed;
    let seen =
        Observed { state, generation: 1, address: None, container: None, version: None, message: None };
    other.record_route(&instance.id, &seen).await.unwrap();
    assert_eq!(next(&mut feed).await, named(start + 4, &[], &[&instance.cache_id]));
    for (n, table, id) in [(5, "users", &ada.id), (6, "instances", &cache), (7, "caches", &cache)] {
        let key = if table == "instances" { "cache_id" } else { "id" };
        db.execute(&format!(
            "BEGIN; UPDATE revision SET value = value + 1; UPDATE {table} SET revision = \
                 (SELECT value FROM revision) WHERE {key} = '{id}'; COMMIT"
        ))
        .await
        .unwrap();
        assert_eq!(next(&mut feed).await, named(start + n, &[], &[&cache]), "{table}");
    }
    assert_eq!(feed.revision(), start + 7);
}

/// Several writes between two polls are reported together, each row once.
async fn changes_between_two_polls_are_merged(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let mut feed = store.feed().await.unwrap();
    let second = NewToken::generate(&token_key(), "second");
    store.create_token(&first_cache(&store, &ada).await, &second).await.unwrap();
    store.revoke_token(&second.token.id()).await.unwrap();
    store.revoke_token(&first.token.id()).await.unwrap();
    let changes = next(&mut feed).await;
    assert_eq!(changes.revision, store.revision().await.unwrap());
    let tokens: HashSet<TokenId> = changes.tokens.iter().copied().collect();
    assert_eq!(tokens, HashSet::from([first.token.id(), second.token.id()]));
    assert_eq!(changes.tokens.len(), 2);
    // A dropped `next` loses nothing.
    for _ in 0..3 {
        tokio::select! {
            biased;
            changes = feed.next() => panic!("nothing happened, yet {changes:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    let third = NewToken::generate(&token_key(), "third");
    store.create_token(&first_cache(&store, &ada).await, &third).await.unwrap();
    assert_eq!(next(&mut feed).await.tokens, [third.token.id()]);
}

// F-4, F-5.
/// Four processes write 200 transactions each while the feed's connection is killed several times.
async fn feed_misses_nothing_while_four_processes_write(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let mut feed = store.feed().await.unwrap();
    let start = feed.revision();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (database, cache_id) = (db.database(), first_cache(&store, &user).await);
        writers.spawn(async move {
            let task = Task::Write { cache_id: &cache_id, tokens: TOKENS.try_into().unwrap() };
            concurrent_process::run(&database, task).await
        });
    }
    let mut received = Vec::new();
    let mut killed_at = start;
    while feed.revision() < start + WRITERS * TOKENS {
        let changes = next(&mut feed).await;
        assert_eq!(changes.revision, feed.revision());
        if changes.revision >= killed_at + 100 {
            killed_at = changes.revision;
            kill_listeners(&db).await;
        }
        received.push(changes);
    }
    let written: HashSet<String> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(written.len(), usize::try_from(WRITERS * TOKENS).unwrap());

    let sql = "SELECT id, revision FROM tokens WHERE name = 'one of many' ORDER BY revision";
    let rows: HashMap<String, i64> = db.pairs(sql).await.into_iter().collect();
    let mut revisions: Vec<i64> = rows.values().copied().collect();
    revisions.sort_unstable();
    let expected: Vec<i64> = (start + 1..=start + WRITERS * TOKENS).collect();
    assert_eq!(revisions, expected, "one revision each, no gap");

    let mut after = start;
    let mut named = HashSet::new();
    for changes in &received {
        assert!(changes.revision > after, "in order");
        let ids: HashSet<&str> = changes.tokens.iter().map(TokenId::as_str).collect();
        let due = rows.iter().filter(|(_, revision)| (after + 1..=changes.revision).contains(*revision));
        for (id, revision) in due {
            assert!(ids.contains(id.as_str()), "{revision} is missing after {after}");
        }
        named.extend(ids);
        after = changes.revision;
    }
    assert_eq!(named, written.iter().map(String::as_str).collect());
}

// F-5.
/// The feed listens again after the kill: with its poll alone it would be up to a second late.
async fn feed_reconnects_after_its_connection_is_killed(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let mut feed = store.feed().await.unwrap();
    let key = token_key();
    let listening = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND query LIKE 'LISTEN%'";
    for _ in 0..3 {
        kill_listeners(&db).await;
        let heals = async { while db.is_postgres() && db.number(listening).await != 1 {} };
        tokio::select! {
            changes = feed.next() => panic!("nothing happened, yet {changes:?}"),
            healed = tokio::time::timeout(DEADLINE, heals) => healed.expect("the feed listens again"),
        }
        let token = NewToken::generate(&key, "one more");
        store.create_token(&first_cache(&store, &user).await, &token).await.unwrap();
        assert_eq!(next(&mut feed).await.tokens, [token.token.id()]);
    }
}

/// A restored backup: the feed can't know which changes were undone.
async fn feed_reports_a_revision_that_went_back(db: TestDb) {
    let store = db.open().await;
    sign_up(&store, "ada@example.org").await;
    let mut feed = store.feed().await.unwrap();
    db.execute("UPDATE revision SET value = value - 1").await.unwrap();
    for _ in 0..2 {
        let error =
            tokio::time::timeout(DEADLINE, feed.next()).await.expect("the feed notices it").unwrap_err();
        assert!(matches!(error, StoreError::RolledBack), "{error}");
    }
    assert_eq!(store.feed().await.unwrap().revision(), feed.revision() - 1);
}

on_both! {
    feed_reports_a_revision_that_went_back,
    feed_names_what_each_write_changed,
    changes_between_two_polls_are_merged,
    feed_misses_nothing_while_four_processes_write,
    feed_reconnects_after_its_connection_is_killed,
}

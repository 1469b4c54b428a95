//! Browser sessions: they expire when idle or when too old.

use std::time::Duration;

use store::{NewSession, StoreError};

use crate::test_db::{TestDb, new_session, sign_up};

const IDLE: Duration = Duration::from_secs(12 * 3600);
const ABSOLUTE: Duration = Duration::from_secs(7 * 24 * 3600);

async fn session_expires_when_idle_or_old(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    // (name, seconds since it was last seen, seconds since it was created, is valid)
    let cases = [
        ("fresh", 0, 0, true),
        ("in use", 60, 6 * 24 * 3600, true),
        ("nearly idle", 12 * 3600 - 60, 12 * 3600, true),
        ("idle", 12 * 3600 + 1, 12 * 3600 + 1, false),
        ("old", 0, 7 * 24 * 3600 + 1, false),
    ];
    for (name, seen, age, _) in cases {
        let new = new_session(name, &user.id);
        store.create_session(&new).await.unwrap();
        let sql = format!(
            "UPDATE sessions SET last_seen_at = last_seen_at - {seen} * 1000, \
             created_at = created_at - {age} * CAST(1000 AS BIGINT) WHERE id_hash = '{name}'"
        );
        db.execute(&sql).await.unwrap();
    }
    for (name, _, _, is_valid) in cases {
        let session = store.session(name, IDLE, ABSOLUTE).await.unwrap();
        assert_eq!(session.is_some(), is_valid, "{name}");
        assert!(session.is_none_or(|s| s.user_id == user.id && s.form_token == "form"));
    }
    assert_eq!(store.end_old_sessions(IDLE, ABSOLUTE).await.unwrap(), 2);
    assert_eq!(db.number("SELECT COUNT(*) FROM sessions").await, 3);
    assert_eq!(store.end_old_sessions(IDLE, ABSOLUTE).await.unwrap(), 0);
}

async fn sessions_of_a_user_are_listed_and_ended(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (grace, _) = sign_up(&store, "grace@example.org").await;
    let long = "x".repeat(300);
    for (id_hash, user) in [("one", &ada), ("two", &ada), ("of grace", &grace)] {
        let new = NewSession { user_agent: &long, ..new_session(id_hash, &user.id) };
        store.create_session(&new).await.unwrap();
    }
    let listed = store.sessions_of(&ada.id, IDLE, ABSOLUTE).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|it| it.source == "192.0.2.7" && it.user_agent.len() == 200));
    assert_eq!(store.end_other_sessions(&ada.id, "two").await.unwrap(), 1);
    let listed = store.sessions_of(&ada.id, IDLE, ABSOLUTE).await.unwrap();
    assert_eq!(listed.iter().map(|it| &*it.id_hash).collect::<Vec<_>>(), ["two"]);
    assert_eq!(store.sessions_of(&grace.id, IDLE, ABSOLUTE).await.unwrap().len(), 1);
}

async fn touch_keeps_a_session_and_sign_out_ends_it(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let before = store.revision().await.unwrap();
    for id_hash in ["one", "two"] {
        store
            .create_session(&NewSession {
                id_hash,
                user_id: &user.id,
                form_token: id_hash,
                source: "192.0.2.7",
                user_agent: "",
            })
            .await
            .unwrap();
    }
    let age =
        "UPDATE sessions SET last_seen_at = last_seen_at - 50000000, created_at = created_at - 50000000";
    db.execute(age).await.unwrap();
    assert_eq!(store.session("one", IDLE, ABSOLUTE).await.unwrap(), None);
    store.touch_session("one").await.unwrap();
    let session = store.session("one", IDLE, ABSOLUTE).await.unwrap().unwrap();
    assert!(session.last_seen_at > session.created_at);
    assert_eq!(store.session("two", IDLE, ABSOLUTE).await.unwrap(), None, "only the one was touched");

    store.end_session("one").await.unwrap();
    assert_eq!(store.session("one", IDLE, ABSOLUTE).await.unwrap(), None);
    assert_eq!(db.number("SELECT COUNT(*) FROM sessions").await, 1);
    assert_eq!(store.revision().await.unwrap(), before, "sessions don't touch the revision");
}

async fn unknown_session_is_refused(db: TestDb) {
    let store = db.open().await;
    let new = new_session("x", "unknown");
    let error = store.create_session(&new).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("user")), "{error:?}");
}

async fn least_recently_used_sessions_of_a_user_end(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let create = async |id_hash: &str, user_id: &str| {
        store.create_session(&new_session(id_hash, user_id)).await.unwrap();
        // Each is older than the next one.
        db.execute("UPDATE sessions SET last_seen_at = last_seen_at - 1000").await.unwrap();
    };
    create("bob", &bob.id).await;
    create("used", &ada.id).await;
    for i in 1..=20 {
        create(&format!("ada{i}"), &ada.id).await;
        store.touch_session("used").await.unwrap();
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM sessions").await, 21, "20 of Ada's and Bob's");
    for (id_hash, is_kept) in
        [("used", true), ("ada1", false), ("ada2", true), ("ada20", true), ("bob", true)]
    {
        let session = store.session(id_hash, IDLE, ABSOLUTE).await.unwrap();
        assert_eq!(session.is_some(), is_kept, "{id_hash}");
    }
}

on_both! { sessions_of_a_user_are_listed_and_ended, least_recently_used_sessions_of_a_user_end, session_expires_when_idle_or_old, touch_keeps_a_session_and_sign_out_ends_it, unknown_session_is_refused }

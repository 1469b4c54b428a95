//! Second factors: a code counts once, and a sign-in waits for a few codes only.

use store::{CodeProof, StoreError};

use crate::test_db::{TestDb, new_session, sign_up, token_key};

async fn code_is_used_once(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    assert_eq!(store.second_factor(&ada.id).await.unwrap(), None);
    store.begin_second_factor(&ada.id, "session").await.unwrap();
    let first = store.second_factor(&ada.id).await.unwrap().unwrap();
    assert!(first.confirmed_at.is_none());
    // Nothing counts before it is confirmed, and another set-up has another secret.
    assert!(store.use_code(&ada.id, CodeProof::Step(5)).await.is_err());
    store.begin_second_factor(&ada.id, "session").await.unwrap();
    let seed = store.second_factor(&ada.id).await.unwrap().unwrap().seed;
    assert_ne!(seed, first.seed);
    let codes = ["one".to_owned(), "two".to_owned()];
    let confirm = async |seed: &str| store.confirm_second_factor(&ada.id, seed, 10, &codes).await;
    assert!(matches!(confirm(&first.seed).await, Err(StoreError::NotFound("second factor"))));
    confirm(&seed).await.unwrap();
    assert!(confirm(&seed).await.is_err(), "once");
    let begun = store.begin_second_factor(&ada.id, "session").await;
    assert!(matches!(begun, Err(StoreError::AlreadyExists("second factor"))));
    store.cancel_second_factor(&ada.id).await.unwrap();

    let try_step = async |step| store.use_code(&ada.id, CodeProof::Step(step)).await.is_ok();
    for (step, is_right) in [(10, false), (9, false), (12, true), (12, false), (11, false), (13, true)] {
        assert_eq!(try_step(step).await, is_right, "{step}");
    }
    assert!(store.use_code(&bob.id, CodeProof::Step(99)).await.is_err(), "has none");
    let try_code = async |user: &str, hash| store.use_code(user, CodeProof::RecoveryCode(hash)).await.is_ok();
    assert!(!try_code(&bob.id, "one").await && !try_code(&ada.id, "three").await);
    assert!(try_code(&ada.id, "one").await && !try_code(&ada.id, "one").await);
    assert_eq!(store.second_factor(&ada.id).await.unwrap().unwrap().recovery_codes, 1);
    store.replace_recovery_codes(&ada.id, &["four".to_owned()]).await.unwrap();
    assert!(!try_code(&ada.id, "two").await && try_code(&ada.id, "four").await);

    assert!(store.remove_second_factor(&ada.id).await.unwrap());
    assert!(!store.remove_second_factor(&ada.id).await.unwrap());
    assert_eq!(store.second_factor(&ada.id).await.unwrap(), None);
}

async fn steps_and_codes_are_used_once_at_the_same_time(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    store.begin_second_factor(&ada.id, "session").await.unwrap();
    let seed = store.second_factor(&ada.id).await.unwrap().unwrap().seed;
    store.confirm_second_factor(&ada.id, &seed, 1, &["one".to_owned()]).await.unwrap();
    for proof in [CodeProof::Step(2), CodeProof::RecoveryCode("one")] {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (store, id) = (db.open_existing().await.unwrap(), ada.id.clone());
            tasks.spawn(async move { store.use_code(&id, proof).await.is_ok() });
        }
        assert_eq!(tasks.join_all().await.into_iter().filter(|used| *used).count(), 1, "{proof:?}");
    }
}

async fn sign_in_waits_for_five_codes_and_minutes(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    store.add_pending_sign_in("one", &ada.id).await.unwrap();
    assert!(
        store.is_sign_in_pending("one").await.unwrap() && !store.is_sign_in_pending("two").await.unwrap()
    );
    for left in (0..5).rev() {
        let tried = store.try_pending_sign_in("one").await.unwrap().unwrap();
        assert_eq!((tried.user_id.as_str(), tried.attempts_left), (ada.id.as_str(), left));
    }
    assert_eq!(store.try_pending_sign_in("one").await.unwrap(), None);
    assert!(!store.is_sign_in_pending("one").await.unwrap());
    assert_eq!(store.try_pending_sign_in("unknown").await.unwrap(), None);
    store.add_pending_sign_in("two", &ada.id).await.unwrap();
    assert!(
        store.end_pending_sign_in("two").await.unwrap() && !store.end_pending_sign_in("two").await.unwrap()
    );
    store.add_pending_sign_in("three", &ada.id).await.unwrap();
    db.execute("UPDATE pending_sign_ins SET expires_at = expires_at - 300001").await.unwrap();
    assert_eq!(store.try_pending_sign_in("three").await.unwrap(), None);
    assert_eq!(store.delete_expired_sign_ins().await.unwrap(), 2);
    // A change of the password ends them.
    store.add_pending_sign_in("four", &ada.id).await.unwrap();
    let new = store::NewPassword { hash: "x", replaces: None, revoke_tokens: false };
    store.change_password(&ada.id, &new).await.unwrap();
    assert!(!store.is_sign_in_pending("four").await.unwrap());
    for n in 0..15 {
        store.add_pending_sign_in(&format!("many {n}"), &ada.id).await.unwrap();
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM pending_sign_ins").await, 10);
    assert!(store.add_pending_sign_in("five", "unknown").await.is_err());
    store.begin_second_factor(&ada.id, "session").await.unwrap();
    store.delete_user(&ada.id).await.unwrap();
    for table in ["pending_sign_ins", "second_factors", "recovery_codes"] {
        assert_eq!(db.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
}

// W-21.
async fn switching_it_on_ends_what_was_begun_without_a_code(db: TestDb) {
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    for (id_hash, user) in [("kept", &ada), ("other", &ada), ("of bob", &bob)] {
        store.create_session(&new_session(id_hash, &user.id)).await.unwrap();
    }
    store.add_pending_sign_in("waits", &ada.id).await.unwrap();
    store.add_pending_sign_in("waits of bob", &bob.id).await.unwrap();
    store.begin_second_factor(&ada.id, "kept").await.unwrap();
    let seed = store.second_factor(&ada.id).await.unwrap().unwrap().seed;
    assert!(store.confirm_second_factor(&ada.id, "wrong", 10, &[]).await.is_err());
    assert_eq!(db.number("SELECT COUNT(*) FROM sessions").await, 3);
    store.confirm_second_factor(&ada.id, &seed, 10, &[]).await.unwrap();
    for (sql, left) in [
        ("SELECT COUNT(*) FROM sessions WHERE id_hash IN ('kept', 'of bob')", 2),
        ("SELECT COUNT(*) FROM sessions", 2),
        ("SELECT COUNT(*) FROM pending_sign_ins", 1),
    ] {
        assert_eq!(db.number(sql).await, left, "{sql}");
    }
    let entry = store.audit_before(i64::MAX, 1).await.unwrap().remove(0);
    assert_eq!(entry.detail, "switched on, other sessions ended: 1");
    // Signing out everywhere else ends a sign-in that waits, also if there is no other session.
    store.add_pending_sign_in("waits", &ada.id).await.unwrap();
    assert_eq!(store.end_other_sessions(&ada.id, "kept").await.unwrap(), 0);
    assert!(!store.is_sign_in_pending("waits").await.unwrap());
    assert!(store.is_sign_in_pending("waits of bob").await.unwrap());
    let before = store.audit_length().await.unwrap();
    store.end_other_sessions(&ada.id, "kept").await.unwrap();
    assert_eq!(store.audit_length().await.unwrap(), before, "nothing is left to end");
}

on_both! {
    code_is_used_once,
    steps_and_codes_are_used_once_at_the_same_time,
    sign_in_waits_for_five_codes_and_minutes,
    switching_it_on_ends_what_was_begun_without_a_code,
}

// W-21.
#[test]
fn secrets_differ_by_user_and_seed_and_key() {
    let (key, other) = (token_key(), token_key());
    let secret = key.second_factor_secret("ada", "seed");
    assert_eq!(secret, key.second_factor_secret("ada", "seed"));
    for different in [
        key.second_factor_secret("bob", "seed"),
        key.second_factor_secret("ada", "deed"),
        other.second_factor_secret("ada", "seed"),
    ] {
        assert_ne!(secret, different);
    }
    assert_ne!(key.recovery_code_hash("ada", "code"), key.recovery_code_hash("bob", "code"));
}

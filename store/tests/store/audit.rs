//! The audit log: which entries are written, for which actor, and how a changed entry is detected.

#![expect(clippy::disallowed_methods, reason = "a test may leave a task untracked")]

use store::{AuditChain, AuditError, NewToken, Permissions, Scopes, Store};

use crate::test_db::{TestDb, first_cache, sign_up, token_key};

async fn follow(store: &Store) -> Result<AuditChain, AuditError> {
    let mut chain = AuditChain::default();
    for entry in store.audit_after(0, 1000).await.unwrap() {
        chain.follow(&entry)?;
    }
    Ok(chain)
}

async fn actions_are_audited_in_order(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let token = NewToken::generate(&token_key(), "ci");
    let (id, name) = (token.token.id(), format!("user {}", ada.id));
    let acting = store.acting_as(&name);
    acting.create_token(&first_cache(&acting, &ada).await, &token).await.unwrap();
    acting.update_permissions(&id, |permissions| permissions.scopes = Scopes::NONE).await.unwrap();
    store.revoke_token(&id).await.unwrap();
    acting.note("user.sign_in", &name, "from 127.0.0.1").await.unwrap();
    // An action that fails writes no entry.
    assert!(store.create_token("unknown", &NewToken::generate(&token_key(), "x")).await.is_err());

    let entries = store.audit_after(0, 10).await.unwrap();
    let written: Vec<_> =
        entries.iter().map(|e| (e.actor.as_str(), e.action.as_str(), e.subject.clone())).collect();
    let expected = [
        ("operator", "user.create", name.clone()),
        (&name, "token.create", format!("token {id}")),
        (&name, "token.update", format!("token {id}")),
        ("operator", "token.revoke", format!("token {id}")),
        (&name, "user.sign_in", name.clone()),
    ];
    assert_eq!(written, expected);
    assert!(entries[1].detail.contains(&Permissions::ALL.to_string()), "{}", entries[1].detail);
    let all = format!("{entries:?}");
    for token in [&first, &token] {
        assert!(!all.contains(token.token.secret().reveal()));
    }
    assert_eq!(store.audit_length().await.unwrap(), 5);
    assert_eq!(store.audit_after(3, 1).await.unwrap(), entries[3..4]);
    assert_eq!(store.audit_before(i64::MAX, 1).await.unwrap(), entries[4..]);
    assert_eq!(store.audit_before(2, 9).await.unwrap(), entries[..1]);
    assert_eq!(follow(&store).await.unwrap().head, entries[4].hash);
}

async fn changed_audit_entry_breaks_the_chain(db: TestDb) {
    let store = db.open().await;
    sign_up(&store, "ada@example.org").await;
    for n in 0..4 {
        store.note("test", "nothing", &n.to_string()).await.unwrap();
    }
    assert_eq!(follow(&store).await.unwrap().entries, 5);
    db.execute("UPDATE audit SET detail = 'innocent' WHERE seq = 3").await.unwrap();
    assert_eq!(follow(&store).await, Err(AuditError::Changed { seq: 3 }));
    db.execute("DELETE FROM audit WHERE seq = 3").await.unwrap();
    assert_eq!(follow(&store).await, Err(AuditError::Gap { expected: 3 }));
}

async fn concurrent_writers_make_one_chain(db: TestDb) {
    let store = db.open().await;
    let writers = (0..8).map(|writer| {
        let store = store.acting_as(&format!("writer {writer}"));
        tokio::spawn(async move {
            for n in 0..10 {
                store.note("test", "nothing", &n.to_string()).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(follow(&store).await.unwrap().entries, 80);
}

on_both! {
    actions_are_audited_in_order,
    changed_audit_entry_breaks_the_chain,
    concurrent_writers_make_one_chain,
}

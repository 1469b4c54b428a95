//! Client certificates: each belongs to one token and is identified by its fingerprint.

use std::time::Duration;

use store::{Fingerprint, Permissions, StoreError, Token, now};

use crate::test_db::{DEADLINE, TestDb, first_cache, sign_up};

const LATER: Duration = Duration::from_hours(1);

fn numbered(n: i64) -> Fingerprint {
    Fingerprint::of(&n.to_be_bytes())
}

async fn certificate_belongs_to_one_token(db: TestDb) {
    let store = db.open().await;
    let (_, ada) = sign_up(&store, "ada@example.org").await;
    let (_, bob) = sign_up(&store, "bob@example.org").await;
    let (ada, bob) = (ada.token.id(), bob.token.id());
    let mut feed = store.feed().await.unwrap();
    let ends = now().saturating_add(LATER);
    store.add_certificate(&ada, numbered(1), ends, "").await.unwrap();
    let changes = tokio::time::timeout(DEADLINE, feed.next()).await.unwrap().unwrap();
    assert_eq!(changes.certificates, [numbered(1)], "a proxy that cached it as unknown must drop it");
    assert_eq!(store.token_of_certificate(&numbered(1)).await.unwrap(), Some((ada, ends)));
    assert_eq!(store.token_of_certificate(&numbered(2)).await.unwrap(), None);
    let list = store.certificates_of(&ada).await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].fingerprint.clone(), list[0].not_after), (numbered(1).to_string(), ends));
    assert!(list[0].is_valid_at(ends.saturating_sub(Duration::from_millis(1))) && !list[0].is_valid_at(ends));
    assert_eq!(store.certificates_of(&bob).await.unwrap(), []);
    let taken = store.add_certificate(&bob, numbered(1), ends, "").await.unwrap_err();
    assert!(matches!(taken, StoreError::AlreadyExists("certificate")), "{taken:?}");
    let entry = store.audit_after(0, 100).await.unwrap().pop().unwrap();
    assert_eq!((entry.action.as_str(), entry.subject), ("certificate.issue", format!("token {ada}")));
    assert!(entry.detail.contains(&numbered(1).to_string()));
}

async fn expiring_certificates_are_of_active_tokens_of_the_cache(db: TestDb) {
    let store = db.open().await;
    let (ada, token) = sign_up(&store, "ada@example.org").await;
    let (bob, other) = sign_up(&store, "bob@example.org").await;
    let cache = first_cache(&store, &ada).await;
    let token = token.token.id();
    let until = now().saturating_add(LATER);
    store.add_certificate(&token, numbered(1), until, "").await.unwrap();
    store.add_certificate(&token, numbered(2), until.saturating_sub(LATER / 2), "").await.unwrap();
    store
        .add_certificate(&token, numbered(3), until.saturating_add(Duration::from_millis(1)), "")
        .await
        .unwrap();
    store.add_certificate(&token, numbered(4), now(), "").await.unwrap();
    store.add_certificate(&other.token.id(), numbered(5), until, "").await.unwrap();
    let found = async |cache: &str| {
        let rows = store.expiring_certificates(cache, until).await.unwrap();
        rows.into_iter().map(|row| row.fingerprint).collect::<Vec<_>>()
    };
    assert_eq!(found(&cache).await, [numbered(2).to_string(), numbered(1).to_string()]);
    assert_eq!(found(&first_cache(&store, &bob).await).await, [numbered(5).to_string()]);
    store.revoke_token(&token).await.unwrap();
    assert_eq!(found(&cache).await, [""; 0]);
}

async fn inactive_token_gets_no_certificate(db: TestDb) {
    let store = db.open().await;
    let (_, revoked) = sign_up(&store, "ada@example.org").await;
    let (_, expired) = sign_up(&store, "bob@example.org").await;
    let (revoked, expired) = (revoked.token.id(), expired.token.id());
    store.revoke_token(&revoked).await.unwrap();
    let end = |permissions: &mut Permissions| permissions.expires_at = Some(now());
    store.update_permissions(&expired, end).await.unwrap();
    for id in [revoked, expired, Token::generate().id()] {
        let error =
            store.add_certificate(&id, numbered(1), now().saturating_add(LATER), "").await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound("active token")), "{error:?}");
    }
    assert_eq!(store.token_of_certificate(&numbered(1)).await.unwrap(), None);
}

async fn certificate_count_is_limited_and_expired_ones_do_not_count(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ada@example.org").await;
    let id = token.token.id();
    store
        .add_certificate(&id, numbered(0), now().saturating_sub(Duration::from_hours(25)), "")
        .await
        .unwrap();
    store.add_certificate(&id, numbered(18), now(), "").await.unwrap();
    for n in 1..=16 {
        store.add_certificate(&id, numbered(n), now().saturating_add(LATER), "").await.unwrap();
    }
    let error = store.add_certificate(&id, numbered(17), now().saturating_add(LATER), "").await.unwrap_err();
    assert!(matches!(error, StoreError::LimitReached("certificate")), "{error:?}");
    let kept = store.certificates_of(&id).await.unwrap();
    assert_eq!(kept.iter().filter(|certificate| certificate.is_valid_at(now())).count(), 16);
    assert_eq!(store.token_of_certificate(&numbered(0)).await.unwrap(), None, "ended long ago");
}

//
async fn certificate_is_revoked_alone(db: TestDb) {
    let store = db.open().await;
    let (_, ada) = sign_up(&store, "ada@example.org").await;
    let (_, bob) = sign_up(&store, "bob@example.org").await;
    let (ada, bob) = (ada.token.id(), bob.token.id());
    let ends = now().saturating_add(LATER);
    for n in [1, 2] {
        store.add_certificate(&ada, numbered(n), ends, "").await.unwrap();
    }
    for (token, fingerprint) in [(bob, 1), (ada, 3)] {
        let error = store.revoke_certificate(&token, numbered(fingerprint)).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound("certificate")), "{error:?}");
    }
    let mut feed = store.feed().await.unwrap();
    store.revoke_certificate(&ada, numbered(1)).await.unwrap();
    let changes = tokio::time::timeout(DEADLINE, feed.next()).await.unwrap().unwrap();
    assert_eq!((changes.certificates, changes.tokens), (vec![numbered(1)], vec![ada]));
    let (_, ended) = store.token_of_certificate(&numbered(1)).await.unwrap().unwrap();
    assert!(ended <= now());
    assert_eq!(store.token_of_certificate(&numbered(2)).await.unwrap(), Some((ada, ends)));
    assert!(store.revoke_certificate(&ada, numbered(1)).await.is_err(), "once");
    // Every proxy can still learn it.
    store.add_certificate(&ada, numbered(4), ends, "").await.unwrap();
    assert!(store.token_of_certificate(&numbered(1)).await.unwrap().is_some());
    let entry =
        store.audit_after(0, 100).await.unwrap().into_iter().find(|it| it.action == "certificate.revoke");
    assert_eq!(entry.unwrap().subject, format!("token {ada}"));
}

async fn certificates_are_deleted_with_their_token(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ada@example.org").await;
    let id = token.token.id();
    store.add_certificate(&id, numbered(1), now().saturating_add(LATER), "").await.unwrap();
    let pragma = if db.is_postgres() { "" } else { "PRAGMA foreign_keys = on; " };
    db.execute(&format!("{pragma}DELETE FROM tokens WHERE id = '{id}'")).await.unwrap();
    assert_eq!(store.token_of_certificate(&numbered(1)).await.unwrap(), None);
}

#[test]
fn fingerprint_has_64_hex_digits() {
    let shown = numbered(1).to_string();
    assert_eq!(shown.parse(), Ok(numbered(1)));
    for bad in ["", "xy", &shown[1..], &format!("{shown}0"), &shown.replace(|_| true, "g")] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

on_both!(
    certificate_belongs_to_one_token,
    expiring_certificates_are_of_active_tokens_of_the_cache,
    inactive_token_gets_no_certificate,
    certificate_is_revoked_alone,
    certificate_count_is_limited_and_expired_ones_do_not_count,
    certificates_are_deleted_with_their_token,
);

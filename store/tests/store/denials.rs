//! Denials: summed over all proxies; the newest of known tokens are kept.

use std::time::Duration;

use store::{DenialCause, DenialRecord, Timestamp, now};

use crate::test_db::{TestDb, first_cache, sign_up};

on_both!(
    denials_are_summed_and_the_oldest_are_deleted,
    old_denials_and_those_of_unknown_tokens_are_dropped,
    denials_of_a_deleted_account_are_not_kept,
);

fn denial(token: &str, cause: DenialCause, source: &str, last_at: Timestamp) -> DenialRecord {
    DenialRecord {
        token_id: token.into(),
        cause,
        source: (source != "many").then(|| source.into()),
        detail: "SASL PLAIN".into(),
        protocol: "binary".into(),
        tls: true,
        count: 2,
        first_at: millis_before(last_at, 1),
        last_at,
    }
}

fn millis_before(at: Timestamp, millis: u64) -> Timestamp {
    at.saturating_sub(Duration::from_millis(millis))
}

fn millis_after(at: Timestamp, millis: u64) -> Timestamp {
    at.saturating_add(Duration::from_millis(millis))
}

async fn denials_are_summed_and_the_oldest_are_deleted(db: TestDb) {
    let store = db.open().await;
    let (ann, first) = sign_up(&store, "ann@example.org").await;
    let (bob, second) = sign_up(&store, "bob@example.org").await;
    let (first, second) = (first.token.id().to_string(), second.token.id().to_string());
    let at = now();
    let wrong = |source: &str, last_at| denial(&first, DenialCause::WrongSecret, source, last_at);
    let before = store.revision().await.unwrap();
    store.add_denials(&[wrong("192.0.2.1", at)]).await.unwrap();
    let later = DenialRecord {
        count: 5,
        tls: false,
        protocol: "text".into(),
        ..wrong("192.0.2.1", millis_after(at, 10))
    };
    store.add_denials(&[later, denial(&second, DenialCause::Limit, "::1", at)]).await.unwrap();
    let expected =
        DenialRecord { count: 7, first_at: millis_before(at, 1), ..wrong("192.0.2.1", millis_after(at, 10)) };
    let expected = DenialRecord { tls: false, protocol: "text".into(), ..expected };
    assert_eq!(store.denials_of(&first).await.unwrap(), [expected]);
    // A flood from many sources neither adds rows nor displaces other causes.
    let expired = denial(&first, DenialCause::Expired, "many", at);
    store.add_denials(std::slice::from_ref(&expired)).await.unwrap();
    let flood: Vec<DenialRecord> =
        (0..100).map(|n| wrong(&format!("198.51.100.{n}"), millis_after(at, 100 + n))).collect();
    for some in flood.chunks(30) {
        store.add_denials(some).await.unwrap();
    }
    let known = store.denials_of(&first).await.unwrap();
    let sources: Vec<_> = known.iter().map(|it| it.source.as_deref().unwrap_or("many")).collect();
    let newest = ["198.51.100.99", "198.51.100.98", "198.51.100.97", "198.51.100.96", "198.51.100.95"];
    assert_eq!(sources, [&newest[..], &["many"]].concat());
    assert_eq!(known[5], expired);
    assert_eq!(store.denials_of_cache(&first_cache(&store, &ann).await).await.unwrap(), known);
    assert_eq!(store.denials_of_cache(&first_cache(&store, &bob).await).await.unwrap().len(), 1);
    assert_eq!(store.revision().await.unwrap(), before, "the revision stays: the feed has nothing to read");
}

async fn old_denials_and_those_of_unknown_tokens_are_dropped(db: TestDb) {
    let store = db.open().await;
    let (_, token) = sign_up(&store, "ann@example.org").await;
    let id = token.token.id().to_string();
    let long_ago = now().saturating_sub(Duration::from_hours(31 * 24));
    let unknown = denial("aaaaaaaaaaaa", DenialCause::Mistyped, "192.0.2.1", now());
    let rows = [denial(&id, DenialCause::Expired, "192.0.2.1", long_ago), unknown.clone()];
    store.add_denials(&rows).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM denials").await, 0);
    // Every cause can be written and read.
    let all: Vec<DenialRecord> =
        DenialCause::all().map(|cause| denial(&id, cause, "192.0.2.1", now())).collect();
    store.add_denials(&all).await.unwrap();
    assert_eq!(store.denials_of(&id).await.unwrap().len(), DenialCause::all().count());
    assert_eq!(store.denials_of("aaaaaaaaaaaa").await.unwrap(), []);
}

async fn denials_of_a_deleted_account_are_not_kept(db: TestDb) {
    let store = db.open().await;
    let (ann, token) = sign_up(&store, "ann@example.org").await;
    let id = token.token.id();
    let seen = [denial(id.as_str(), DenialCause::WrongSecret, "192.0.2.1", now())];
    store.revoke_token(&id).await.unwrap();
    store.add_denials(&seen).await.unwrap();
    assert_eq!(
        store.denials_of(id.as_str()).await.unwrap(),
        seen,
        "denials of a revoked token are shown to its owner"
    );
    store.delete_user(&ann.id).await.unwrap();
    // A client that goes on using it is denied as before.
    store.add_denials(&seen).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM denials").await, 0);
}

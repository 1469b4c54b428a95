//! When tokens were last used.

use store::{NewToken, NewUser, Timestamp, TokenUse, now};

use crate::test_db::{TestDb, token_key};

on_both!(the_last_use_of_a_token_is_kept);

/// what a proxy reports of tokens that don't exist is ignored, and an earlier use doesn't replace a later one.
async fn the_last_use_of_a_token_is_kept(db: TestDb) {
    let store = db.open().await;
    let token = NewToken::generate(&token_key(), "test");
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    store.sign_up(&user, &token).await.unwrap();
    let id = token.token.id();
    let listed = async || {
        let token = store.token(&id).await.unwrap().unwrap();
        let list = store.tokens_of_cache(&token.cache_id).await.unwrap();
        assert_eq!(list, std::slice::from_ref(&token));
        (token.last_used_at, token.last_used_from)
    };
    assert_eq!(listed().await, (None, None));

    let first = now();
    let later = |seconds: i64| Timestamp::from_millis(first.as_millis() + 1000 * seconds);
    let used = |at, source: &str| TokenUse { token: id, at, source: source.parse().unwrap() };
    let unknown = NewToken::generate(&token_key(), "unknown").token.id();
    let foreign = TokenUse { token: unknown, ..used(first, "192.0.2.9") };
    store.record_token_uses(&[foreign, used(first, "192.0.2.1")]).await.unwrap();
    let of = |at, source: &str| (Some(at), Some(source.to_owned()));
    assert_eq!(listed().await, of(first, "192.0.2.1"));
    for (report, expected) in [
        // Soon afterwards, by the same client: not worth a write.
        (used(later(29), "192.0.2.1"), of(first, "192.0.2.1")),
        (used(later(2), "2001:db8::1"), of(later(2), "2001:db8::1")),
        // Late news of another proxy.
        (used(later(1), "192.0.2.3"), of(later(2), "2001:db8::1")),
        (used(later(40), "2001:db8::1"), of(later(40), "2001:db8::1")),
        // Reported by a clock that was a day ahead, and then by one that is right.
        (used(later(86_400), "192.0.2.1"), of(later(86_400), "192.0.2.1")),
        (used(later(50), "192.0.2.1"), of(later(50), "192.0.2.1")),
    ] {
        store.record_token_uses(&[report]).await.unwrap();
        assert_eq!(listed().await, expected);
    }
}

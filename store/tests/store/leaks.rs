//! Leak reports: a token that was found in public is revoked, and its user is told.

use store::{LeakReport, NewToken, StoreError, Token, TokenKey};

use crate::test_db::{TestDb, first_cache, new_user, sign_up, token_key};

const URL: &str = "https://git.example/a/b";

async fn reported_token_is_revoked_and_its_user_is_told(db: TestDb) {
    let store = db.open().await;
    let key = token_key();
    let token = NewToken::generate(&key, "ci");
    let user = store.sign_up(&new_user("ada@example.org"), &token).await.unwrap();
    let (other, _) = sign_up(&store, "grace@example.org").await;
    let (id, found) = (token.token.id(), LeakReport::new(&token.token, URL, "content"));
    let mut feed = store.feed().await.unwrap();
    let reporter = store.acting_as("reporter 192.0.2.1");
    assert!(reporter.report_leak(&key, &token.token, &found).await.unwrap());
    assert_eq!(feed.next().await.unwrap().tokens, [id]);
    let revoked = store.token(&id).await.unwrap().unwrap().revoked_at;
    let leaks = store.open_leaks(&user.id).await.unwrap();
    assert_eq!((leaks.len(), leaks[0].name.as_str(), Some(leaks[0].at)), (1, "ci", revoked));
    assert_eq!((leaks[0].url.as_str(), leaks[0].source.as_str()), (URL, "content"));
    assert!(store.open_leaks(&other.id).await.unwrap().is_empty());

    let before = store.revision().await.unwrap();
    let again = LeakReport::new(&token.token, "elsewhere", "npm");
    assert!(!reporter.report_leak(&key, &token.token, &again).await.unwrap());
    assert_eq!(store.leaks_of(&user.id).await.unwrap(), leaks, "the first report stays");
    assert_eq!(store.revision().await.unwrap(), before, "a repeated report changes nothing");

    store.dismiss_leak(&id).await.unwrap();
    assert!(store.open_leaks(&user.id).await.unwrap().is_empty());
    assert_eq!(store.leaks_of(&user.id).await.unwrap(), leaks);
    let twice = store.dismiss_leak(&id).await.unwrap_err();
    assert!(matches!(twice, StoreError::NotFound("leak")), "{twice:?}");

    let entries = store.audit_after(2, 10).await.unwrap();
    assert_eq!((entries[0].actor.as_str(), entries[0].action.as_str()), ("reporter 192.0.2.1", "token.leak"));
    assert_eq!(entries[0].detail, format!("revoked, found at \"{URL}\" (\"content\")"));
    assert_eq!(entries.len(), 2);
    assert!(!format!("{entries:?}").contains(token.token.secret().reveal()));
    store.delete_user(&user.id).await.unwrap();
    assert!(store.leaks_of(&user.id).await.unwrap().is_empty());
}

async fn leak_report_without_the_secret_revokes_nothing(db: TestDb) {
    let store = db.open().await;
    let key: TokenKey = token_key();
    let token = NewToken::generate(&key, "ci");
    store.sign_up(&new_user("ada@example.org"), &token).await.unwrap();
    let before = store.revision().await.unwrap();
    // A well-formed token with the same id but another secret can't be generated: the row gets another
    // token's hash instead.
    let unknown = Token::generate();
    let found = LeakReport::new(&unknown, URL, "");
    assert!(!store.report_leak(&key, &unknown, &found).await.unwrap());
    assert!(!store.report_leak(&token_key(), &token.token, &found).await.unwrap(), "another installation's");
    assert_eq!(store.revision().await.unwrap(), before);
    let other = NewToken::generate(&key, "other");
    let hash = "UPDATE tokens SET secret_hash = (SELECT secret_hash FROM tokens WHERE name = 'other') \
                WHERE name = 'ci'";
    let user = store.user_by_email("ada@example.org").await.unwrap().unwrap();
    store.create_token(&first_cache(&store, &user).await, &other).await.unwrap();
    db.execute(hash).await.unwrap();
    assert!(!store.report_leak(&key, &token.token, &found).await.unwrap());
    assert_eq!(store.token(&token.token.id()).await.unwrap().unwrap().revoked_at, None);
}

on_both! { reported_token_is_revoked_and_its_user_is_told, leak_report_without_the_secret_revokes_nothing }

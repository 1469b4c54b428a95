//! Creations that are sent again through the API, and what a user did.

use store::{ApiRequest, ApiRequestState, StoreError, TokenChange, TokenRow};

use crate::test_db::{TestDb, sign_up, token_key};

// W-27.
async fn a_creation_is_begun_once(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let revision = store.revision().await.unwrap();
    let request = |user: &str, key: &str, body: &str| ApiRequest::new(&token_key, user, key, &["POST", body]);
    let one = request(&ada.id, "one", "{}");
    let begin = async |request: &ApiRequest| store.begin_api_request(request).await.unwrap();
    assert_eq!(begin(&one).await, ApiRequestState::New);
    assert_eq!(begin(&one).await, ApiRequestState::InProgress);
    assert_eq!(begin(&request(&ada.id, "one", "other")).await, ApiRequestState::OtherRequest);
    assert_eq!(begin(&request(&bob.id, "one", "{}")).await, ApiRequestState::New);
    store.finish_api_request(&one, "created").await.unwrap();
    assert_eq!(begin(&one).await, ApiRequestState::Done("created".into()));
    let two = request(&ada.id, "two", "{}");
    assert_eq!(begin(&two).await, ApiRequestState::New);
    store.forget_api_request(&two).await.unwrap();
    assert_eq!(begin(&two).await, ApiRequestState::New, "it was refused");
    assert_eq!(store.revision().await.unwrap(), revision);
    let unknown = store.begin_api_request(&request("unknown", "one", "{}")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound("user")), "{unknown:?}");
    // One that was broken off may be done again after a minute, and everything after a day.
    db.execute("UPDATE api_requests SET created_at = created_at - 61000").await.unwrap();
    assert_eq!(begin(&two).await, ApiRequestState::New);
    assert_eq!(begin(&two).await, ApiRequestState::InProgress);
    assert_eq!(begin(&one).await, ApiRequestState::Done("created".into()));
    db.execute("UPDATE api_requests SET created_at = created_at - 86400000").await.unwrap();
    assert_eq!(begin(&request(&ada.id, "one", "other")).await, ApiRequestState::New);
    assert_eq!(store.prune_api_requests().await.unwrap(), 2);
    assert_eq!(store.prune_api_requests().await.unwrap(), 0);
    store.delete_user(&ada.id).await.unwrap();
    assert_eq!(db.number("SELECT COUNT(*) FROM api_requests").await, 0);
}

// R-31, W-27.
async fn a_bounded_number_of_creations_is_remembered(db: TestDb) {
    let (store, token_key) = (db.open().await, token_key());
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    db.execute(&format!(
        "INSERT INTO api_requests SELECT '{}', 'k' || i, 'f', 1000 + i, 'r' FROM \
         (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) SELECT i FROM n) AS all_n",
        ada.id
    ))
    .await
    .unwrap();
    let request = ApiRequest::new(&token_key, &ada.id, "new", &["POST"]);
    assert_eq!(store.begin_api_request(&request).await.unwrap(), ApiRequestState::New);
    assert_eq!(db.number("SELECT COUNT(*) FROM api_requests").await, 1000);
    assert_eq!(db.number("SELECT MIN(created_at) FROM api_requests").await, 1202, "the newest are kept");
}

async fn users_see_what_they_did(db: TestDb) {
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let (of_ada, of_bob) =
        (store.acting_as(&format!("user {}", ada.id)), store.acting_as(&format!("user {}", bob.id)));
    for n in 0..5 {
        of_ada.note("test", "subject", &n.to_string()).await.unwrap();
        of_bob.note("test", "subject", "bob's").await.unwrap();
    }
    let newest = store.audit_by_user(&ada.id, i64::MAX, 2).await.unwrap();
    assert_eq!(newest.iter().map(|entry| &*entry.detail).collect::<Vec<_>>(), ["4", "3"]);
    let rest = store.audit_by_user(&ada.id, newest[1].seq, 100).await.unwrap();
    assert_eq!(rest.iter().map(|entry| &*entry.detail).collect::<Vec<_>>(), ["2", "1", "0"]);
    assert!(!format!("{rest:?}").contains(first.token.secret().reveal()));
}

// W-26.
async fn a_token_is_changed_only_if_the_caller_wants_it_as_it_is(db: TestDb) {
    let store = db.open().await;
    let (_, first) = sign_up(&store, "ada@example.org").await;
    let id = first.token.id();
    let length = store.audit_length().await.unwrap();
    let revision = store.revision().await.unwrap();
    let rename = |wanted: &'static str| {
        move |token: &TokenRow, new: &mut TokenChange| {
            new.name = "second".into();
            token.name == wanted
        }
    };
    assert_eq!(store.change_token(&id, rename("other")).await.unwrap(), None);
    assert_eq!((store.audit_length().await.unwrap(), store.revision().await.unwrap()), (length, revision));
    let changed = store.change_token(&id, rename("first")).await.unwrap().unwrap();
    assert_eq!((&*changed.name, changed.permissions.clone()), ("second", store::Permissions::ALL));
    assert_eq!(store.token(&id).await.unwrap(), Some(changed));
    store.revoke_token(&id).await.unwrap();
    let error = store.change_token(&id, rename("second")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("active token")), "{error:?}");
}

on_both! {
    a_bounded_number_of_creations_is_remembered, a_creation_is_begun_once,
    a_token_is_changed_only_if_the_caller_wants_it_as_it_is, users_see_what_they_did,
}

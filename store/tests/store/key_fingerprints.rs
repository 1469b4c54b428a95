//! The fingerprints of the installation's keys: recorded once, and never changed.

use store::{KeyFingerprints, LaneKey, TokenKey};

use crate::test_db::{TestDb, token_key};

fn lane_key() -> LaneKey {
    let folder = tempfile::tempdir().unwrap();
    LaneKey::load_or_create(&folder.path().join("lane.key")).unwrap()
}

// F-28.
async fn fingerprints_are_recorded_once(db: TestDb) {
    let store = db.open().await;
    let none = KeyFingerprints { token_key: None, lane_key: None };
    assert_eq!(store.key_fingerprints().await.unwrap(), none);
    store.record_installation_id("abc234").await.unwrap();
    assert_eq!(store.key_fingerprints().await.unwrap(), none);
    let (token, lane) = (token_key().fingerprint(), lane_key().fingerprint());
    let own = KeyFingerprints { token_key: Some(token.clone()), lane_key: Some(lane.clone()) };
    assert_eq!(store.record_key_fingerprints(&token, &lane).await.unwrap(), own);
    let (other_token, other_lane) = (token_key().fingerprint(), lane_key().fingerprint());
    assert_eq!(store.record_key_fingerprints(&other_token, &other_lane).await.unwrap(), own);
    // One that was removed from the database is recorded again, and no other changes.
    db.execute("UPDATE installation SET lane_key_fingerprint = NULL").await.unwrap();
    assert_eq!(store.record_key_fingerprints(&other_token, &lane).await.unwrap(), own);
}

#[test]
fn fingerprint_tells_keys_apart_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token.key");
    let key = TokenKey::load_or_create(&path).unwrap();
    assert_eq!(TokenKey::load(&path).unwrap().fingerprint(), key.fingerprint());
    assert_ne!(token_key().fingerprint(), key.fingerprint());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!format!("{:?}", key.fingerprint()).contains(text.trim()));
}

on_both!(fingerprints_are_recorded_once);

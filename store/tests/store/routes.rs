//! Routes: one row per instance, with the latest observation.

use store::{InstanceState, Observed, StoreError};

use crate::test_db::{TestDb, sign_up};

async fn latest_route_of_an_instance_is_kept(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    let pending = Observed {
        state: InstanceState::Pending,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: Some("waiting for Docker".into()),
    };
    let running = Observed {
        state: InstanceState::Running,
        generation: 2,
        address: Some("10.1.0.2".into()),
        container: Some("c0ffee".into()),
        version: Some("1.6.18".into()),
        message: None,
    };
    for seen in [&pending, &running, &running, &pending] {
        let before = store.revision().await.unwrap();
        store.record_route(&instance.id, seen).await.unwrap();
        let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
        let route = instance.route.clone().unwrap();
        assert!(route.matches(seen), "{route:?} {seen:?}");
        assert_eq!(instance.state(), seen.state);
        assert_eq!(store.instances().await.unwrap(), [instance]);
        assert_eq!(store.revision().await.unwrap(), before + 1);
    }
    assert_eq!(db.number("SELECT COUNT(*) FROM routes").await, 1);
}

async fn every_instance_state_is_read_back(db: TestDb) {
    use InstanceState::{Asleep, Deleting, Failed, Pending, Restarting, Running, Suspended};
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let instance = store.first_instance_of(&user.id).await.unwrap().unwrap();
    for state in [Pending, Running, Asleep, Restarting, Suspended, Failed, Deleting] {
        let seen =
            Observed { state, generation: 1, address: None, container: None, version: None, message: None };
        store.record_route(&instance.id, &seen).await.unwrap();
        assert_eq!(store.first_instance_of(&user.id).await.unwrap().unwrap().state(), state);
    }
}

async fn route_of_an_unknown_instance_is_refused(db: TestDb) {
    let store = db.open().await;
    let seen = Observed {
        state: InstanceState::Running,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: None,
    };
    let error = store.record_route("unknown", &seen).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound("instance")), "{error:?}");
}

on_both! { latest_route_of_an_instance_is_kept, every_instance_state_is_read_back, route_of_an_unknown_instance_is_refused }

//! What tests of several modules need.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use store::{Database, LaneKey, NewToken, NewUser, Store, TokenKey};
use tokio_util::task::TaskTracker;

use crate::backend::BackendDeps;
use crate::backend::dedicated_pool::DedicatedLanes;
use crate::backend::wake::WakeRequester;
use crate::metrics::Metrics;

/// What backends share that reach no instance. Requests don't wait, and nothing is asked to wake.
pub(crate) fn backend_deps(folder: &Path) -> BackendDeps {
    BackendDeps {
        lane_key: LaneKey::load_or_create(&folder.join("lane")).unwrap(),
        metrics: Metrics::default().into(),
        tasks: TaskTracker::new(),
        buffers: Rc::default(),
        dedicated: DedicatedLanes::new(1),
        networks: None,
        hold: Duration::ZERO,
        wake_requester: WakeRequester::default(),
    }
}

/// A store with one user, whose cache has one token.
pub(crate) async fn store_with_token(folder: &Path) -> (Store, NewToken) {
    let store = Store::open(&Database::Sqlite(folder.join("memgate.db"))).await.unwrap();
    let token = NewToken::generate(&TokenKey::load_or_create(&folder.join("key")).unwrap(), "test");
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    store.sign_up(&user, &token).await.unwrap();
    (store, token)
}

//! Grants that are applied out of order.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use store::{Database, InstanceState, LaneKey, NewToken, NewUser, Observed, Store, TokenKey};

use tokio_util::task::TaskTracker;

use super::*;
use crate::backend::dedicated_pool::DedicatedLanes;
use crate::buffers::BufferBudget;
use crate::metrics::Metrics;
use crate::session_budget::SessionBudget;

fn running(generation: i64, address: Option<&str>) -> Observed {
    Observed {
        state: InstanceState::Running,
        generation,
        address: address.map(Into::into),
        container: None,
        version: None,
        message: None,
    }
}

// nor does a route that leads elsewhere.
#[tokio::test]
async fn older_grant_does_not_change_the_route() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Database::Sqlite(folder.path().join("memgate.db"))).await.unwrap();
    let token = NewToken::generate(&TokenKey::load_or_create(&folder.path().join("key")).unwrap(), "test");
    let user = NewUser { email: "ann@example.com", password_hash: None, plan: "default", is_admin: false };
    store.sign_up(&user, &token).await.unwrap();
    let grant = async || store.grant(&token.token.id()).await.unwrap().unwrap();
    let instance = grant().await.instance_id;
    let mut grants = Vec::new();
    let route_elsewhere = running(3, Some("10.2.1.2"));
    for seen in
        [running(1, Some("10.1.1.1")), running(2, Some("10.1.1.2")), running(2, None), route_elsewhere]
    {
        store.record_route(&instance, &seen).await.unwrap();
        grants.push(grant().await);
    }
    let budget = BufferBudget::new(Gauge::default(), 0);
    let deps = BackendDeps {
        lane_key: LaneKey::load_or_create(&folder.path().join("lane")).unwrap(),
        metrics: Metrics::register(&mut Registry::default()).into(),
        tasks: TaskTracker::new(),
        buffers: Rc::default(),
        dedicated: DedicatedLanes::new(1),
        networks: Some("10.1.0.0/16".parse().unwrap()),
        hold: Duration::ZERO,
    };
    let tenant = Tenant::new(
        deps,
        &WorkerBuffers::new(budget),
        &Rc::default(),
        SessionBudget::new(Gauge::default(), 100),
    );
    let address = || tenant.backend.address().map(|address| address.ip().to_string());
    for (applied, expected) in [
        (0, Some("10.1.1.1")),
        (1, Some("10.1.1.2")),
        (0, Some("10.1.1.2")),
        (2, None),
        (1, None),
        (0, None),
        (3, None),
    ] {
        tenant.apply_plan_and_route(&grants[applied]);
        assert_eq!(address().as_deref(), expected);
    }
}

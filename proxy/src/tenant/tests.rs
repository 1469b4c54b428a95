//! Grants that are applied out of order, and what is reported of tokens.

use std::path::Path;

use prometheus_client::metrics::gauge::Gauge;
use store::{InstanceState, Observed};

use super::*;
use crate::buffers::BufferBudget;
use crate::fixtures::{backend_deps, store_with_token};
use crate::metrics::denials::ClientInfo;
use crate::protocol::Protocol;
use crate::responses::ResponseQueue;
use crate::session_budget::SessionBudget;
use crate::transport::Stream;

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

fn tenant(folder: &Path) -> Rc<Tenant> {
    let networks = Some("10.1.0.0/16".parse().unwrap());
    let deps = BackendDeps { networks, ..backend_deps(folder) };
    let buffers = WorkerBuffers::new(BufferBudget::new(Gauge::default(), 0));
    Tenant::new(deps, &buffers, &Rc::default(), SessionBudget::new(Gauge::default(), 100))
}

// nor does a route that leads elsewhere.
#[tokio::test]
async fn older_grant_does_not_change_the_route() {
    let folder = tempfile::tempdir().unwrap();
    let (store, token) = store_with_token(folder.path()).await;
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
    let tenant = tenant(folder.path());
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

/// a login is a use, and later the requests are; an open connection isn't.
#[tokio::test]
async fn requests_on_an_open_connection_are_uses_of_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let (store, token) = store_with_token(folder.path()).await;
    let grant = Arc::new(store.grant(&token.token.id()).await.unwrap().unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::default());
    let tenant = tenant(folder.path());
    let uses = || {
        let report = tenant.report(&grant.instance_id);
        let uses = report.map(|report| report.used_tokens).unwrap_or_default();
        uses.into_iter().map(|used| (used.token, used.source)).collect::<Vec<_>>()
    };
    let used = [(token.token.id(), address.ip())];
    let half_a_minute_passes = || {
        let before = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        tenant.sessions.used_at.set(before);
    };

    let client = ClientInfo { source: address.ip(), protocol: Protocol::Text, tls: false };
    let session = tenant.register((&grant, None), client, &responses).unwrap();
    assert_eq!(uses(), used);
    half_a_minute_passes();
    assert_eq!(uses(), []);
    responses.count_operation();
    assert_eq!(uses(), []);
    half_a_minute_passes();
    assert_eq!(uses(), used);
    half_a_minute_passes();
    assert_eq!(uses(), []);
    drop(session);
}

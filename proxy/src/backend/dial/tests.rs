//! Sessions that wait for a lane, and routes that change meanwhile.

use store::LaneCredential;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::backend::BackendDeps;
use crate::fixtures::backend_deps;
use crate::metrics::usage::Usage;

const LIMIT: Duration = Duration::from_secs(10);

fn backend(hold: Duration) -> Rc<Backend> {
    let folder = tempfile::tempdir().unwrap();
    let deps = BackendDeps { hold, ..backend_deps(folder.path()) };
    Rc::new(Backend::new(deps, Rc::new(Usage::new())))
}

/// A listener, and a route to it.
async fn listen() -> (TcpListener, Route) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, credential) = (listener.local_addr().unwrap(), LaneCredential::new("secret".into()));
    (listener, Route { address, generation: 1, credential, value_max: 100 })
}

fn change_route(backend: &Rc<Backend>, route: Option<Route>) {
    backend.route.replace(route);
    backend.outage.reset(Instant::now());
    backend.close();
    backend.route_changed.notify();
    backend.open_lanes();
}

/// Accepts one lane as an instance does.
async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    for reply in [&b"CLIENT_ERROR unauthenticated\r\n"[..], b"STORED\r\n", b"VERSION 1.6.45\r\n"] {
        let read = stream.read(&mut [0; 128]).await.unwrap();
        assert!(read > 0);
        stream.write_all(reply).await.unwrap();
    }
    stream
}

// F-35, R-1.
#[tokio::test]
async fn dial_along_an_old_route_is_given_up() {
    let local = LocalSet::new();
    let test = async {
        let backend = backend(LIMIT);
        // The kernel accepts the connection; no program answers.
        let (_silent, old) = listen().await;
        let (listener, new) = listen().await;
        change_route(&backend, Some(old));
        let begun = Instant::now();
        let change = async {
            while !backend.is_dialling.get() {
                tokio::task::yield_now().await;
            }
            change_route(&backend, None);
            tokio::task::yield_now().await;
            assert!(backend.wait_limit(Duration::ZERO).is_some());
            change_route(&backend, Some(new.clone()));
            accept(&listener).await
        };
        let (is_open, _stream) = tokio::join!(backend.wait_for_lane(0, LIMIT), change);
        assert!(is_open && begun.elapsed() < connect::HANDSHAKE_TIMEOUT, "{:?}", begun.elapsed());
    };
    local.run_until(test).await;
}

// F-35, R-9.
#[tokio::test]
async fn all_that_wait_have_one_dial_and_wake_when_it_succeeds() {
    const SESSIONS: usize = 1000;
    let local = LocalSet::new();
    let test = async {
        let backend = backend(LIMIT);
        let (listener, route) = listen().await;
        change_route(&backend, Some(route));
        let waiting: Vec<_> = (0..SESSIONS)
            .map(|_| {
                let backend = backend.clone();
                // All of one lane.
                tokio::task::spawn_local(async move { backend.wait_for_lane(0, LIMIT).await })
            })
            .collect();
        let lane = accept(&listener).await;
        for session in waiting {
            assert!(session.await.unwrap());
        }
        assert_eq!(backend.deps.metrics.held_sessions.get(), 0);
        // There was no other dial, and the lane of the other sessions isn't open.
        assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err());
        assert!(backend.open_lane(0).is_some() && backend.open_lane(1).is_none());
        drop(lane);
    };
    local.run_until(test).await;
}

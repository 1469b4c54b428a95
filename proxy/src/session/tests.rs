//! Pauses that a session owes for frames that the proxy answers itself.

use std::net::Ipv4Addr;

use super::*;
use crate::backend::BackendDeps;
use crate::buffers::{BufferBudget, WorkerBuffers};
use crate::fixtures::{backend_deps, store_with_token};
use crate::metrics::Metrics;
use crate::metrics::denials::ClientInfo;
use crate::session_budget::SessionBudget;

/// A session of a tenant without an instance, and the token that it has logged in with.
async fn session(protocol: Protocol) -> (Session, String) {
    let folder = tempfile::tempdir().unwrap();
    let (store, token) = store_with_token(folder.path()).await;
    let grant = Arc::new(store.grant(&token.token.id()).await.unwrap().unwrap());
    let metrics = Arc::new(Metrics::default());
    let deps = BackendDeps { metrics: metrics.clone(), ..backend_deps(folder.path()) };
    let buffers = WorkerBuffers::new(BufferBudget::new(metrics.buffered.clone(), 16 * 1024 * 1024));
    let tenant =
        Tenant::new(deps, &buffers, &Rc::default(), SessionBudget::new(metrics.sessions.clone(), 100));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let responses = ResponseQueue::new(Stream::plain(client), Rc::default());
    let source = Ipv4Addr::LOCALHOST.into();
    let info = ClientInfo { source, protocol, tls: false };
    let handle = tenant.register((&grant, None), info, &responses).ok().unwrap();
    // Nothing is written, so that no reply stops it.
    responses.abort();
    let session = Session {
        responses,
        source,
        protocol: Some(protocol),
        tenant,
        handle,
        item_size_max: 1024 * 1024,
        wait_timeout: Duration::from_secs(60),
        mechanisms: b"PLAIN",
        input: Vec::new(),
        state: State::default(),
    };
    let (user, secret) = (token.token.id().username(), token.token.secret().reveal().to_owned());
    (session, format!("{user} {secret}"))
}

//
#[tokio::test]
async fn pause_for_local_frames_follows_whatever_comes_next() {
    let few = b"mn\r\n".repeat(200);
    let many = b"mn\r\n".repeat(255);
    let auth = testkit::binary::request(0x21, "PLAIN", "\0user\0pass");
    let noops = testkit::binary::request(0x0a, "", "").repeat(200);
    for (protocol, frames, next) in [
        (Protocol::Text, &many, &b"stats\r\n"[..]),
        (Protocol::Text, &many, b"set long 0 0 200000\r\n"),
        (Protocol::Text, &few, b"login"),
        (Protocol::Binary, &noops, &auth),
    ] {
        let (mut session, credential) = session(protocol).await;
        session.tenant.exceed_local_rate();
        // These aren't charged yet.
        assert_eq!(session.tenant.count_local(10), None);
        let login = format!("set a 0 0 {}\r\n{credential}\r\n", credential.len());
        let next = if next == b"login" { login.as_bytes() } else { next };
        let input = [frames, next].concat();
        let mut paused = 0;
        let mut input = &input[..];
        // A few turns: what comes next is done, and the pause isn't forgotten.
        for _ in 0..8 {
            let (consumed, step) = session.dispatch(input);
            input = &input[consumed..];
            match step {
                Step::Throttled(pause) => {
                    assert_eq!((pause.time, pause.prepaid), (Duration::from_secs(1), false));
                    paused += 1;
                }
                Step::VerifyRelogin(_) => session.state.relogin = Some(Ok(())),
                Step::Login if paused > 0 => break,
                Step::Login => panic!("a login before the pause"),
                _ => {}
            }
        }
        assert!(paused > 0, "{}", next.escape_ascii());
    }
}

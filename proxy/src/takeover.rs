//! A new process of the proxy takes over from an old one without closing a connection (F-38).
//!
//! The new one reads the grants, listens, and says that it is ready. From then on the old one accepts nothing, and sends each
//! plaintext session, between two of its requests, with its socket and what is known of its login (`sender`). The new one looks
//! the grant up and goes on (`receiver`). What was received of a request goes along; new lanes are opened. TLS sessions, whose
//! keys are in the old process, stay there until they end or `proxy.drain` passes; it goes on following the store meanwhile, so
//! that revocations reach them.

mod packet;
mod receiver;
mod sender;

use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use store::{Grant, Timestamp, TokenId};
use tokio::sync::mpsc;

use crate::metrics::ConnectionGuard;
use crate::protocol::Protocol;
pub(crate) use receiver::spawn as spawn_receiver;
pub(crate) use sender::spawn as spawn_sender;

/// Bytes of an unfinished request that move with a session; one with more moves when that request has been answered.
pub(crate) const INPUT_MAX: usize = 96 * 1024;
/// Sessions that wait to be sent.
const LEAVING_MAX: usize = 1024;
/// What the new process sends when it is ready.
const READY: &[u8] = b"ready";

/// A plaintext session on its way from one process to another.
#[derive(Debug)]
pub(crate) struct MovedSession {
    pub(crate) stream: TcpStream,
    pub(crate) token: TokenId,
    pub(crate) source: IpAddr,
    pub(crate) protocol: Protocol,
    /// When it logged in.
    pub(crate) since: Timestamp,
    pub(crate) operations: u64,
    /// What was read and not dispatched: the beginning of a request.
    pub(crate) input: Vec<u8>,
}

/// A session that leaves this process, and what counts its connection until it has.
pub(crate) struct LeavingSession {
    pub(crate) session: MovedSession,
    pub(crate) guard: ConnectionGuard,
}

/// A session that has arrived, with its grant.
pub(crate) struct ResumedSession {
    pub(crate) session: MovedSession,
    pub(crate) grant: Arc<Grant>,
    pub(crate) guard: ConnectionGuard,
    /// It has come back, because the other process is gone.
    pub(crate) is_back: bool,
}

/// Where sessions that leave this process wait.
pub(crate) type LeavingSender = mpsc::Sender<LeavingSession>;
pub(crate) type LeavingSessions = mpsc::Receiver<LeavingSession>;

pub(crate) fn channel() -> (LeavingSender, LeavingSessions) {
    mpsc::channel(LEAVING_MAX)
}

//! One process of a role takes over from another that still runs, so that an upgrade closes no connection: who this process
//! takes over from, and who takes over from it. What is handed over is the role's affair.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The takeovers that a process takes part in. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Takeover(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    predecessor: Mutex<Option<OwnedFd>>,
    successor: Mutex<Option<OwnedFd>>,
    has_successor: Notify,
    begun: CancellationToken,
}

impl Takeover {
    /// For a process that takes over from the one at the other end of a socket, if there is one.
    #[must_use]
    pub fn from_predecessor(socket: Option<OwnedFd>) -> Self {
        Self(Arc::new(Shared { predecessor: Mutex::new(socket), ..Shared::default() }))
    }

    /// The socket to the process that this one takes over from. Only the first call returns it.
    #[must_use]
    pub fn take_predecessor(&self) -> Option<OwnedFd> {
        self.0.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The process at the other end of a socket is about to take over from this one.
    pub fn announce_successor(&self, socket: OwnedFd) {
        *self.0.successor.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        self.0.has_successor.notify_one();
    }

    /// Waits for a successor; returns the socket to it.
    pub async fn successor(&self) -> OwnedFd {
        loop {
            let has_successor = self.0.has_successor.notified();
            if let Some(socket) = self.0.successor.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return socket;
            }
            has_successor.await;
        }
    }

    /// The successor works: this process accepts nothing any more.
    pub fn begin(&self) {
        self.0.begun.cancel();
    }

    /// Waits until a successor works.
    pub async fn begun(&self) {
        self.0.begun.cancelled().await;
    }
}

//! Notices a role that hangs: while it makes progress it sends a byte a second (`role/keepalive.rs`). A role that is stopped,
//! deadlocked or whose loops are stuck sends none.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How long a role may be silent before it counts as hung.
const HUNG_AFTER: Duration = Duration::from_secs(15);
/// The same for a role that has just been started: it gives up privileges and reads its settings first.
const FIRST_SIGN_TIMEOUT: Duration = Duration::from_secs(60);

/// The signs of life of one role.
pub(super) struct Watchdog<R> {
    pipe: Option<R>,
    timeout: Duration,
    hung_after: Duration,
}

impl<R: AsyncRead + Unpin> Watchdog<R> {
    pub(super) fn new(pipe: Option<R>) -> Self {
        Self { pipe, timeout: FIRST_SIGN_TIMEOUT, hung_after: HUNG_AFTER }
    }

    /// The role has shown that it runs to somebody else.
    pub(super) fn has_started(&mut self) {
        self.timeout = self.hung_after;
    }

    /// Whether the role has shown that it runs. Before, it may not have installed its signal handlers.
    pub(super) fn has_seen_sign(&self) -> bool {
        self.timeout == self.hung_after
    }

    /// Returns how long the role has been silent when it hangs. Cancel-safe, but the time begins again with each call.
    pub(super) async fn hung(&mut self) -> Duration {
        let mut signs = [0; 64];
        while let Some(pipe) = &mut self.pipe {
            // Signs that arrived while this process itself was stopped are read first.
            match tokio::time::timeout(self.timeout, pipe.read(&mut signs)).await {
                Ok(Ok(1..)) => self.timeout = self.hung_after,
                // It exits: that is noticed elsewhere.
                Ok(Ok(0) | Err(_)) => self.pipe = None,
                Err(_) => return self.timeout,
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const FIRST: Duration = Duration::from_millis(40);
    const LATER: Duration = Duration::from_millis(20);

    // F-25.
    #[tokio::test]
    async fn silent_role_is_hung_and_one_that_exits_is_not() {
        let (mut role, pipe) = tokio::io::duplex(64);
        let mut watchdog = Watchdog { pipe: Some(pipe), timeout: FIRST, hung_after: LATER };
        assert_eq!(watchdog.hung().await, FIRST, "a role that never starts");
        assert!(!watchdog.has_seen_sign());

        role.write_all(b"..").await.unwrap();
        // Longer than its timeout: what was sent is read first.
        let late = std::time::Instant::now() + FIRST;
        while std::time::Instant::now() < late {
            std::thread::yield_now();
        }
        assert_eq!(watchdog.hung().await, LATER);
        assert!(watchdog.has_seen_sign());

        drop(role);
        let ended = tokio::time::timeout(FIRST, watchdog.hung());
        assert!(ended.await.is_err(), "its exit is noticed elsewhere");
    }
}

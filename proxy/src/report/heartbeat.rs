//! The proxy's row in the store: that it runs, and up to which revision it has applied all changes.

use std::net::SocketAddr;
use std::time::Duration;

use daemon::Shutdown;
use daemon::metrics::CallMetrics;
use store::{Proxy, Store, Timestamp, now};
use tokio::sync::watch;
use tokio::time::timeout;

/// Interval between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for one write.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes this proxy's row.
pub(crate) struct Heartbeat {
    store: Store,
    proxy: Proxy,
}

/// The proxy's name: host and port.
pub(crate) fn name(listen: SocketAddr) -> String {
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), listen.port())
}

impl Heartbeat {
    pub(crate) fn new(store: Store, listen: SocketAddr) -> Self {
        let name = name(listen);
        // During a takeover two proxies of the same name run at once.
        let id = format!("{name}/{}", std::process::id());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let proxy = Proxy { id, name, version, started_at: now(), seen_at: Timestamp::EPOCH, applied: 0 };
        Self { store, proxy }
    }

    pub(crate) fn id(&self) -> &str {
        &self.proxy.id
    }

    /// Spawns a task that writes the row every second and whenever `applied` changes, until shutdown.
    pub(crate) fn spawn(&self, mut applied: watch::Receiver<i64>, calls: CallMetrics, shutdown: &Shutdown) {
        let (store, mut proxy) = (self.store.clone(), self.proxy.clone());
        shutdown.spawn_until_stopped(async move {
            loop {
                (proxy.seen_at, proxy.applied) = (now(), *applied.borrow_and_update());
                let write = calls.observe("write_heartbeat", store.renew_proxy(&proxy));
                match timeout(STORE_TIMEOUT, write).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "heartbeat failed"),
                    Err(_) => tracing::debug!("heartbeat timed out"),
                }
                let _ = timeout(HEARTBEAT_INTERVAL, applied.changed()).await;
            }
        });
    }

    /// Removes the row, after the last connection has closed.
    pub(crate) async fn deregister(&self) {
        let _ = timeout(STORE_TIMEOUT, self.store.remove_proxy(&self.proxy.id)).await;
    }
}

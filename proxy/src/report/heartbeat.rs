//! Says in the store that this proxy is there, and up to which revision it has carried out what was changed.

use std::net::SocketAddr;
use std::time::Duration;

use daemon::Shutdown;
use store::{Proxy, Store, now};
use tokio::sync::watch;
use tokio::time::timeout;

/// Between two signs of life.
const RENEW: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A proxy's own row.
pub(crate) struct Heartbeat {
    store: Store,
    proxy: Proxy,
}

/// What a proxy is called: host and port.
pub(crate) fn name(listen: SocketAddr) -> String {
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), listen.port())
}

impl Heartbeat {
    pub(crate) fn new(store: Store, listen: SocketAddr) -> Self {
        let name = name(listen);
        // Two of one name may run for a while, when one takes over from the other.
        let id = format!("{name}/{}", std::process::id());
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let proxy = Proxy { id, name, version, started_at: now(), seen_at: 0, applied: 0 };
        Self { store, proxy }
    }

    pub(crate) fn id(&self) -> &str {
        &self.proxy.id
    }

    /// Renews the row until shutdown, in a task of it: now and then, and whenever `applied` has changed.
    pub(crate) fn keep(&self, mut applied: watch::Receiver<i64>, shutdown: &Shutdown) {
        let (store, mut proxy, stop) = (self.store.clone(), self.proxy.clone(), shutdown.clone());
        let renew = async move {
            loop {
                (proxy.seen_at, proxy.applied) = (now(), *applied.borrow_and_update());
                match timeout(PATIENCE, store.renew_proxy(&proxy)).await {
                    Ok(Ok(())) => {}
                    // Whoever waits for us sees when we were last heard of.
                    Ok(Err(error)) => tracing::debug!(%error, "can't say that we are there"),
                    Err(_) => tracing::debug!("can't say in time that we are there"),
                }
                let _ = timeout(RENEW, applied.changed()).await;
            }
        };
        shutdown.spawn(async move {
            tokio::select! {
                () = stop.begun() => {}
                () = renew => {}
            }
        });
    }

    /// The last connection has ended: nobody waits for us any more.
    pub(crate) async fn leave(&self) {
        let _ = timeout(PATIENCE, self.store.remove_proxy(&self.proxy.id)).await;
    }
}

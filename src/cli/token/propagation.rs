//! Which proxies have applied a token's last change.

use std::time::{Duration, Instant};

use store::{Propagation, Proxy, Store, TokenId};

use crate::output::CliError;
use crate::output::table;

/// How long a command waits for the proxies, which take less than a second.
const WAIT_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until all running proxies have applied the change, but not longer than 3 s.
pub(super) async fn wait(store: &Store, id: &TokenId) -> Result<Propagation, CliError> {
    let started = Instant::now();
    loop {
        let propagation = store.propagation(id).await?;
        if propagation.awaited.is_empty() || started.elapsed() > WAIT_TIMEOUT {
            return Ok(propagation);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Formats as `2 of 2 proxies (a:11211, b:11211)`, followed by the pending and gone ones.
pub(super) fn text(propagation: &Propagation) -> String {
    let Propagation { by, awaited, gone, .. } = propagation;
    let mut text = propagation.count();
    if !by.is_empty() {
        let names: Vec<_> = by.iter().map(|proxy| proxy.name.as_str()).collect();
        text.push_str(&format!(" ({})", names.join(", ")));
    }
    let seen = |proxy: &Proxy| format!("{}, seen {}", proxy.name, table::time_since(proxy.seen_at));
    for (proxies, state) in [(awaited, "pending"), (gone, "gone")] {
        for proxy in proxies {
            text.push_str(&format!("; {state}: {}", seen(proxy)));
        }
    }
    text
}

//! Which proxies have carried out a token's last change.

use std::time::{Duration, Instant};

use store::{Acknowledged, Proxy, Store, TokenId};

use crate::output::CliError;
use crate::output::table;

/// How long a command waits for the proxies: they take less than a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until all proxies that run have carried it out, but not for long.
pub(crate) async fn wait(store: &Store, id: &TokenId) -> Result<Acknowledged, CliError> {
    let since = Instant::now();
    loop {
        let acknowledged = store.acknowledged(id).await?;
        if acknowledged.awaited.is_empty() || since.elapsed() > PATIENCE {
            return Ok(acknowledged);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `2 of 2 proxies (a:11211, b:11211)`, and who is waited for.
pub(crate) fn words(acknowledged: &Acknowledged) -> String {
    let Acknowledged { by, awaited, gone, .. } = acknowledged;
    let mut text = acknowledged.count();
    if !by.is_empty() {
        text.push_str(&format!(" ({})", names(by)));
    }
    for (proxies, what) in [(awaited, "not yet"), (gone, "gone")] {
        let seen = |proxy: &Proxy| format!("{}, seen {}", proxy.name, table::ago(proxy.seen_at));
        for proxy in proxies {
            text.push_str(&format!("; {what}: {}", seen(proxy)));
        }
    }
    text
}

fn names(proxies: &[Proxy]) -> String {
    proxies.iter().map(|proxy| proxy.name.as_str()).collect::<Vec<_>>().join(", ")
}

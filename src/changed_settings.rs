//! What SIGHUP does with the settings of a role that runs alone: reads them again and says which changes need a restart. A mistake
//! in them changes nothing.

use std::convert::Infallible;

use daemon::Reload;

use crate::global_args::GlobalArgs;
use crate::settings::{self, Settings};

/// Compares the settings with the running ones whenever `reload` is requested.
pub(crate) async fn report(global: &GlobalArgs, running: &Settings, mut reload: Reload) -> Infallible {
    loop {
        reload.requested().await;
        match Settings::load(global) {
            Ok(new) => {
                let changed = between(running, &new).join(", ");
                if changed.is_empty() {
                    tracing::info!("the settings are those in use");
                } else {
                    tracing::warn!("changed settings that are used after a restart of memgate: {changed}");
                }
            }
            Err(error) => tracing::error!("the settings can't be used after a restart: {error}"),
        }
    }
}

/// The keys whose values differ.
pub(crate) fn between(running: &Settings, new: &Settings) -> Vec<String> {
    let (running, new) = (settings::flat(running), settings::flat(new));
    let differs = |pair: &&(String, serde_json::Value)| !running.contains(pair);
    let mut keys: Vec<String> = new.iter().filter(differs).map(|(key, _)| key.clone()).collect();
    keys.extend(
        running.iter().map(|(key, _)| key).filter(|key| !new.iter().any(|(known, _)| known == *key)).cloned(),
    );
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-24.
    #[test]
    fn changed_settings_are_named_without_their_values() {
        let running = Settings::default();
        assert_eq!(between(&running, &running), [""; 0]);
        let mut new = running.clone();
        new.proxy.connections = 7;
        new.store.url = Some("postgres://memgate:secret@db/memgate".into());
        assert_eq!(between(&running, &new), ["proxy.connections", "store.url"]);
        assert_eq!(between(&new, &running), ["proxy.connections", "store.url"]);
    }
}

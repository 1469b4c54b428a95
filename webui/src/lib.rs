//! Sign up, tokens and the state of a cache in a browser.
//!
//! This role writes what is wanted and reads what is so, both through the store. It never sees Docker,
//! never dials a cache, and never keeps a secret that it has shown. What its pages must withstand is in
//! SECURITY section 4; where each rule lives: `headers`, `csrf`, `session`, `password`, `limit`, `source`.

pub mod account;
mod assets;
pub mod certificate;
mod config;
mod csrf;
mod date;
mod denials;
mod error;
mod field;
mod headers;
mod limit;
mod live;
mod metrics;
mod pages;
mod password;
mod permissions;
mod serve;
mod session;
mod snippets;
mod source;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::Shutdown;
use daemon::health::{self, Readiness};
use prometheus_client::registry::Registry;
use store::{Store, TokenKey};
use tokio::net::TcpListener;

pub use config::{Config, Limits};
pub use error::Error;

use web::Web;

/// Serves the pages until shutdown; binds its own ports.
pub async fn run(config: Config, store: Store, token_key: TokenKey, shutdown: Shutdown) -> Result<(), Error> {
    let (listen, health_at) = (config.listen, config.health);
    let mut registry = Registry::default();
    let app = App::new(config, store, token_key, &mut registry)?;
    let listener = TcpListener::bind(listen).await.map_err(|source| Error::Listen {
        what: "listen",
        address: listen,
        source,
    })?;
    let readiness = Readiness::default();
    health::serve(health_at, readiness.clone(), registry, &shutdown)
        .await
        .map_err(|source| Error::Listen { what: "health", address: health_at, source })?;
    app.serve(listener, readiness, shutdown).await;
    Ok(())
}

/// The web UI without its ports, for whoever brings the listener.
#[derive(Debug)]
pub struct App(Arc<Web>);

impl App {
    /// Checks the configuration and prepares everything but the ports.
    pub fn new(
        config: Config,
        store: Store,
        token_key: TokenKey,
        registry: &mut Registry,
    ) -> Result<Self, Error> {
        Ok(Self(Arc::new(Web::new(config, store, token_key, registry)?)))
    }

    /// Serves until shutdown, at most a few seconds longer. `readiness` follows the store.
    pub async fn serve(self, listener: TcpListener, readiness: Readiness, shutdown: Shutdown) {
        let Self(web) = self;
        warn_about_plain_http(&web.config, listener.local_addr().ok());
        warn_about_one_source(&web.config);
        shutdown.spawn(live::follow(web.clone(), readiness, shutdown.token().clone()));
        shutdown.spawn(session::sweep(web.clone(), shutdown.token().clone()));
        let routes = pages::routes(web, shutdown.token().clone());
        serve::until(listener, routes, &shutdown).await;
    }
}

/// Passwords and tokens cross this port in the clear: fine on this machine or behind a TLS proxy only.
fn warn_about_plain_http(config: &Config, address: Option<SocketAddr>) {
    let Some(address) = address else { return };
    tracing::info!(%address, "the web UI listens");
    if !address.ip().is_loopback() && !config.is_https() {
        tracing::warn!(
            %address,
            "passwords and tokens travel unencrypted to this address: \
             put a TLS proxy in front and set webui.base_url to its https:// address"
        );
    }
}

/// Behind a TLS proxy everybody comes from its address, unless it may say for whom it calls.
fn warn_about_one_source(config: &Config) {
    if config.is_https() && config.trusted_proxies.is_empty() {
        tracing::warn!(
            "all visitors share one rate limit, that of the TLS proxy: \
             set webui.trusted_proxies to the addresses that it calls from"
        );
    }
}

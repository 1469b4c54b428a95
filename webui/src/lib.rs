//! Web UI: sign-up, tokens and the state of a cache in a browser.
//!
//! This role writes desired state to the store and reads actual state from it. It never talks to Docker,
//! never connects to a cache, and never stores a secret that it has shown.
//!
//! Modules, from the network to the store: `http` (headers, sessions, CSRF; the server is `daemon::http`), `pages` (one file per
//! page, routes in `pages.rs`), `layout` and `view` (what pages show), `forms` (what pages read), `actions` (what
//! pages and API change), `api` (the JSON API), `state`.

mod actions;
mod api;
mod api_key_attempts;
mod audit_check;
mod cache_events;
mod config;
mod error;
mod forms;
mod generations;
mod http;
mod layout;
mod mail;
mod mail_sender;
mod metrics;
mod notifier;
mod pages;
mod password;
mod password_attempts;
mod rate_limit;
mod sign_up_limit;
mod source_limit;
mod state;
mod totp;
mod view;
mod wait_limit;
mod webhook;
mod webhook_sender;

use std::net::SocketAddr;
use std::sync::Arc;

use daemon::health::Health;
use daemon::{Process, Shutdown};
use prometheus_client::registry::Registry;
use store::{Store, TokenKey};
use tokio::net::TcpListener;

pub use config::{Config, Limits, Mail, SignUp, Webhooks};
pub use error::Error;

use cache_events::Follower;
use http::session;
use state::AppState;

/// Serves the pages until shutdown. The caller serves the health endpoint.
///
/// # Errors
///
/// [`Error`] if the configuration is invalid or the port is taken.
pub async fn run(config: Config, store: Store, token_key: TokenKey, process: Process) -> Result<(), Error> {
    let listen = config.listen;
    let mut registry = Registry::default();
    let app = App::new(config, store, token_key, &mut registry)?;
    let listener = process.listeners.take_or_bind_one(listen);
    let listener = listener.map_err(|source| Error::Listen { address: listen, source })?;
    process.health.publish_metrics(registry);
    app.serve(listener, process.health, process.shutdown).await;
    Ok(())
}

/// The web UI without its ports, for callers that bind their own listener.
#[derive(Debug)]
pub struct App {
    state: Arc<AppState>,
    limits: daemon::http::ConnectionLimits,
}

impl App {
    /// Checks the configuration and registers the metrics.
    ///
    /// # Errors
    ///
    /// [`Error`] if the configuration is invalid or no password worker can be started.
    pub fn new(
        config: Config,
        store: Store,
        token_key: TokenKey,
        registry: &mut Registry,
    ) -> Result<Self, Error> {
        let limits = daemon::http::ConnectionLimits::for_browsers(config.trusted_proxies.clone());
        Ok(Self { state: Arc::new(AppState::new(config, store, token_key, registry)?), limits })
    }

    /// Replaces the limits of connections, for callers that don't want to wait as long.
    #[must_use]
    pub fn with_connection_limits(self, change: impl FnOnce(&mut daemon::http::ConnectionLimits)) -> Self {
        let Self { state, mut limits } = self;
        change(&mut limits);
        Self { state, limits }
    }

    /// Serves until shutdown, and at most 3 s longer. `health` follows the store.
    pub async fn serve(self, listener: TcpListener, health: Health, shutdown: Shutdown) {
        let Self { state: app, limits } = self;
        warn_about_plain_http(&app.config, listener.local_addr().ok());
        warn_about_shared_rate_limit(&app.config);
        warn_about_unknown_origin(&app.config);
        let stop = shutdown.token();
        let follower = Follower {
            store: app.store.clone(),
            calls: app.metrics.store.clone(),
            events: app.cache_events.clone(),
            health,
        };
        shutdown.spawn(follower.run(stop.clone()));
        session::spawn_sweep(app.clone(), &shutdown);
        mail_sender::spawn(&app, &shutdown);
        notifier::spawn(&app, &shutdown);
        webhook_sender::spawn(&app, &shutdown);
        shutdown.spawn(audit_check::run(app.audit_check.clone(), app.store.clone(), stop.clone()));
        let metrics = app.metrics.connections.clone();
        let routes = pages::routes(app, stop.clone());
        daemon::http::serve(listener, routes, limits, metrics, &shutdown).await;
    }
}

/// Passwords and tokens cross the listener unencrypted, which is fine on loopback or behind a TLS proxy only.
fn warn_about_plain_http(config: &Config, address: Option<SocketAddr>) {
    let Some(address) = address else { return };
    tracing::info!(%address, "web UI listening");
    if !address.ip().is_loopback() && !config.is_https() {
        tracing::warn!(
            %address,
            "passwords and tokens reach this address unencrypted: \
             put a TLS proxy in front and set webui.base_url to its https:// address"
        );
    }
}

/// Behind a TLS proxy every client has the proxy's address, unless its `X-Forwarded-For` is trusted.
fn warn_about_shared_rate_limit(config: &Config) {
    if config.is_https() && config.trusted_proxies.is_empty() {
        tracing::warn!(
            "all clients share one rate limit, that of the TLS proxy: \
             set webui.trusted_proxies to the addresses that it connects from"
        );
    }
}

/// Behind a proxy, browsers use an address that this process can't know.
fn warn_about_unknown_origin(config: &Config) {
    if config.base_url.is_none() && !config.trusted_proxies.is_empty() {
        tracing::warn!(
            "forms may be refused, because the address that browsers use is unknown: \
             set webui.base_url to the address of the proxy in webui.trusted_proxies"
        );
    }
}

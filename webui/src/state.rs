//! What all requests share.

use std::time::Duration;

use prometheus_client::registry::Registry;
use store::{Store, TokenKey};

use crate::cache_events::CacheEvents;
use crate::metrics::Metrics;
use crate::password::PasswordHasher;
use crate::rate_limit::RateLimiter;
use crate::view::snippets::Endpoint;
use crate::{Config, Error};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Everything that outlives a request.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) config: Config,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Store,
    pub(crate) token_key: TokenKey,
    pub(crate) passwords: PasswordHasher,
    pub(crate) cache_events: CacheEvents,
    pub(crate) metrics: Metrics,
    pub(crate) rate_limits: RateLimits,
}

/// One rate limiter per action.
#[derive(Debug)]
pub(crate) struct RateLimits {
    /// Per e-mail address and client.
    pub(crate) sign_ins: RateLimiter,
    /// Per client.
    pub(crate) sign_ups: RateLimiter,
    /// Tokens and certificates issued, and permissions changed, per user.
    pub(crate) token_changes: RateLimiter,
    /// Requests for the list of connections, per user.
    pub(crate) connection_lists: RateLimiter,
    /// Requests to close a connection, per user.
    pub(crate) connection_closes: RateLimiter,
    /// Per client.
    pub(crate) leak_reports: RateLimiter,
}

impl AppState {
    /// # Errors
    ///
    /// [`Error`] if the configuration is invalid or no password worker can be started.
    pub(crate) fn new(
        config: Config,
        store: Store,
        token_key: TokenKey,
        registry: &mut Registry,
    ) -> Result<Self, Error> {
        let metrics = Metrics::register(registry);
        let limits = &config.limits;
        let rate_limits = RateLimits {
            sign_ins: RateLimiter::new(limits.sign_ins_per_minute, MINUTE),
            sign_ups: RateLimiter::new(limits.sign_ups_per_hour, HOUR),
            token_changes: RateLimiter::new(limits.tokens_per_hour, HOUR),
            connection_lists: RateLimiter::new(limits.connections_per_minute, MINUTE),
            connection_closes: RateLimiter::new(limits.connections_per_minute, MINUTE),
            leak_reports: RateLimiter::new(limits.leak_reports_per_minute, MINUTE),
        };
        Ok(Self {
            endpoint: config.check()?,
            store,
            token_key,
            passwords: PasswordHasher::new(metrics.password_checks.clone())?,
            cache_events: CacheEvents::default(),
            metrics,
            rate_limits,
            config,
        })
    }
}

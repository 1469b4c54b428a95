//! What every page shares.

use std::time::Duration;

use prometheus_client::registry::Registry;
use store::{Store, TokenKey};

use crate::limit::Limiter;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::password::Passwords;
use crate::snippets::Endpoint;
use crate::{Config, Error};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Everything that outlives a request.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) config: Config,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Store,
    pub(crate) token_key: TokenKey,
    pub(crate) passwords: Passwords,
    pub(crate) live: Live,
    pub(crate) metrics: Metrics,
    pub(crate) sign_ins: Limiter,
    pub(crate) sign_ups: Limiter,
    pub(crate) new_tokens: Limiter,
    pub(crate) connection_looks: Limiter,
    pub(crate) connection_closes: Limiter,
    pub(crate) leak_reports: Limiter,
}

impl Web {
    pub(crate) fn new(
        config: Config,
        store: Store,
        token_key: TokenKey,
        registry: &mut Registry,
    ) -> Result<Self, Error> {
        let metrics = Metrics::register(registry);
        Ok(Self {
            endpoint: config.check()?,
            store,
            token_key,
            passwords: Passwords::new(metrics.password_checks.clone())?,
            live: Live::default(),
            metrics,
            sign_ins: Limiter::new(config.limits.sign_ins_per_minute, MINUTE),
            sign_ups: Limiter::new(config.limits.sign_ups_per_hour, HOUR),
            new_tokens: Limiter::new(config.limits.tokens_per_hour, HOUR),
            connection_looks: Limiter::new(config.limits.connections_per_minute, MINUTE),
            connection_closes: Limiter::new(config.limits.connections_per_minute, MINUTE),
            leak_reports: Limiter::new(config.limits.leak_reports_per_minute, MINUTE),
            config,
        })
    }
}

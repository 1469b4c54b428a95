//! What all requests share.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use store::{Store, TokenKey};
use tokio::sync::{Notify, Semaphore};

use crate::api_key_attempts::ApiKeyAttempts;
use crate::audit_check::AuditCheck;
use crate::cache_events::CacheEvents;
use crate::mail::Mail;
use crate::metrics::Metrics;
use crate::password::PasswordHasher;
use crate::password_attempts::PasswordAttempts;
use crate::rate_limit::RateLimiter;
use crate::sign_up_limit::SignUpLimits;
use crate::source_limit::SourceLimiter;
use crate::view::endpoint::Endpoint;
use crate::wait_limit::WaitLimit;
use crate::webhook;
use crate::{Config, Error};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Uses of an account's right password. Each makes an entry in the audit log, which is kept for ever.
const PASSWORD_USES_PER_HOUR: usize = 60;
/// Files of usage that a user downloads. One has up to a row for each hour that is kept.
const DOWNLOADS_PER_MINUTE: usize = 10;
/// Connections that a user closes; the same.
const CONNECTION_CLOSES_PER_HOUR: usize = 100;
/// Mails that visitors ask for, of all clients together. Each costs a look-up; how many are sent is another limit.
const MAIL_REQUESTS_PER_HOUR: usize = 2_000;
/// Wrong codes of a user's second factor: of a million codes three are right at a time.
const CODES_PER_HOUR: usize = 20;
/// Wrong recovery codes of a user: as many as an hour's sign-ins can try, so that the password alone doesn't use them up. Each has
/// 50 random bits.
const RECOVERY_CODES_PER_HOUR: usize = 5 * PASSWORD_USES_PER_HOUR;
/// Downloads of a user's data: each reads some thousand rows.
const DATA_DOWNLOADS_PER_HOUR: usize = 6;
/// Webhooks that a user creates, changes, enables and rotates: each names where this service connects to.
const WEBHOOK_CHANGES_PER_HOUR: usize = 30;
/// Tests and deliveries that a user sends again: no more, so that nobody searches networks with them.
const WEBHOOK_SENDS_PER_HOUR: usize = 30;
/// Downloads that are made at the same time: each holds some megabytes.
const DATA_DOWNLOADS_AT_ONCE_MAX: usize = 2;
/// What an administrator changes for others: far more than one has to, and too little to empty an installation unnoticed.
const ADMIN_CHANGES_PER_HOUR: usize = 120;
/// A report has up to 200 tokens: more reports at a time would keep the store from answering pages.
const LEAK_REPORTS_AT_ONCE_MAX: usize = 4;
/// Reports that wait until they are looked up.
const LEAK_REPORTS_WAITING_MAX: usize = 64;
/// Attempts that wait for the delay of an account: an eighth of the connections that the web UI has by default.
const DELAYED_SIGN_INS_MAX: usize = 256;

/// Everything that outlives a request.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) config: Config,
    pub(crate) endpoint: Endpoint,
    pub(crate) store: Store,
    pub(crate) token_key: TokenKey,
    pub(crate) passwords: PasswordHasher,
    pub(crate) password_attempts: PasswordAttempts,
    pub(crate) api_key_attempts: ApiKeyAttempts,
    /// Attempts that wait for the delay of an account.
    pub(crate) delayed_sign_ins: WaitLimit,
    /// Reports of leaked tokens that are looked up at the same time.
    pub(crate) leak_reports_at_once: Semaphore,
    /// Reports that wait for that.
    pub(crate) waiting_leak_reports: WaitLimit,
    /// Downloads of users' data that are made at the same time.
    pub(crate) data_downloads_at_once: Semaphore,
    /// `None` without a mail server.
    pub(crate) mail: Option<Mail>,
    /// `None` if the operator wants no webhooks.
    pub(crate) webhooks: Option<webhook::Client>,
    /// Something was written that users are told of.
    pub(crate) detect_soon: Notify,
    /// A delivery was added by this process.
    pub(crate) deliver_soon: Notify,
    pub(crate) cache_events: CacheEvents,
    pub(crate) audit_check: Arc<AuditCheck>,
    pub(crate) metrics: Metrics,
    pub(crate) rate_limits: RateLimits,
}

/// One rate limiter per action.
#[derive(Debug)]
pub(crate) struct RateLimits {
    pub(crate) sign_ups: SignUpLimits,
    /// Warnings that a limit of all sign-ups is nearly reached, per limit.
    pub(crate) near_limit_warnings: RateLimiter,
    /// Tokens and certificates issued, and permissions changed, per user.
    pub(crate) token_changes: RateLimiter,
    /// Caches created and deleted, and operations on them, per user.
    pub(crate) cache_changes: RateLimiter,
    /// Requests, per session.
    pub(crate) session_pages: RateLimiter,
    /// Requests, per user.
    pub(crate) user_pages: RateLimiter,
    /// Requests of the API, per key.
    pub(crate) api_requests: RateLimiter,
    /// Requests of the API, per user.
    pub(crate) api_user_requests: RateLimiter,
    /// Files of usage, per user.
    pub(crate) downloads: RateLimiter,
    /// Requests for the list of connections, per user.
    pub(crate) connection_lists: RateLimiter,
    /// Requests to close a connection, per user and minute.
    pub(crate) connection_closes: RateLimiter,
    /// The same, per hour.
    pub(crate) connection_closes_per_hour: RateLimiter,
    /// Sign-ins and other uses of the right password, per user.
    pub(crate) password_uses: RateLimiter,
    /// What administrators change, per administrator.
    pub(crate) admin_changes: RateLimiter,
    /// Per client and its network.
    pub(crate) leak_reports: SourceLimiter,
    /// Mails that visitors ask for, per client and its network.
    pub(crate) mail_requests: SourceLimiter,
    /// The same, of all clients together.
    pub(crate) mail_requests_in_total: RateLimiter,
    /// Wrong codes of a second factor, per user.
    pub(crate) codes: RateLimiter,
    /// Wrong recovery codes, per user.
    pub(crate) recovery_codes: RateLimiter,
    /// Mails that tell of wrong codes, per user and reason.
    pub(crate) wrong_code_notices: RateLimiter,
    /// Downloads of what the service has of a user, per user.
    pub(crate) data_downloads: RateLimiter,
    /// Changes of webhooks, per user.
    pub(crate) webhook_changes: RateLimiter,
    /// Tests of webhooks and deliveries that are sent again, per user.
    pub(crate) webhook_sends: RateLimiter,
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
            sign_ups: SignUpLimits::new(limits),
            near_limit_warnings: RateLimiter::new(1, HOUR),
            token_changes: RateLimiter::new(limits.tokens_per_hour, HOUR),
            cache_changes: RateLimiter::new(limits.cache_changes_per_hour, HOUR),
            session_pages: RateLimiter::new(limits.pages_per_minute, MINUTE),
            user_pages: RateLimiter::new(limits.pages_per_minute.saturating_mul(2), MINUTE),
            api_requests: RateLimiter::new(limits.api_requests_per_minute, MINUTE),
            api_user_requests: RateLimiter::new(limits.api_requests_per_minute.saturating_mul(2), MINUTE),
            downloads: RateLimiter::new(DOWNLOADS_PER_MINUTE, MINUTE),
            connection_lists: RateLimiter::new(limits.connections_per_minute, MINUTE),
            connection_closes: RateLimiter::new(limits.connections_per_minute, MINUTE),
            connection_closes_per_hour: RateLimiter::new(CONNECTION_CLOSES_PER_HOUR, HOUR),
            password_uses: RateLimiter::new(PASSWORD_USES_PER_HOUR, HOUR),
            admin_changes: RateLimiter::new(ADMIN_CHANGES_PER_HOUR, HOUR),
            leak_reports: SourceLimiter::new(limits.leak_reports_per_minute, MINUTE),
            mail_requests: SourceLimiter::new(limits.mail_requests_per_hour, HOUR),
            mail_requests_in_total: RateLimiter::new(MAIL_REQUESTS_PER_HOUR, HOUR),
            codes: RateLimiter::new(CODES_PER_HOUR, HOUR),
            recovery_codes: RateLimiter::new(RECOVERY_CODES_PER_HOUR, HOUR),
            wrong_code_notices: RateLimiter::new(1, HOUR),
            data_downloads: RateLimiter::new(DATA_DOWNLOADS_PER_HOUR, HOUR),
            webhook_changes: RateLimiter::new(WEBHOOK_CHANGES_PER_HOUR, HOUR),
            webhook_sends: RateLimiter::new(WEBHOOK_SENDS_PER_HOUR, HOUR),
        };
        Ok(Self {
            endpoint: config.check()?,
            store,
            token_key,
            passwords: PasswordHasher::new(
                metrics.password_checks.clone(),
                metrics.password_refusals.clone(),
            )?,
            password_attempts: PasswordAttempts::new(&config.limits),
            api_key_attempts: ApiKeyAttempts::new(config.limits.api_key_failures_per_minute),
            delayed_sign_ins: WaitLimit::new(DELAYED_SIGN_INS_MAX),
            leak_reports_at_once: Semaphore::new(LEAK_REPORTS_AT_ONCE_MAX),
            data_downloads_at_once: Semaphore::new(DATA_DOWNLOADS_AT_ONCE_MAX),
            waiting_leak_reports: WaitLimit::new(LEAK_REPORTS_WAITING_MAX),
            mail: Mail::new(&config)?,
            webhooks: config.webhooks.enabled.then(|| webhook::Client::new(&config.webhooks)).transpose()?,
            detect_soon: Notify::new(),
            deliver_soon: Notify::new(),
            cache_events: CacheEvents::default(),
            audit_check: Arc::default(),
            metrics,
            rate_limits,
            config,
        })
    }
}

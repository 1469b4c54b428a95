//! What every form with a password does before it is checked.

use std::time::Duration;

use crate::http::client_ip::ClientIp;
use crate::password::Requester;
use crate::state::AppState;
use crate::wait_limit::NoPlace;

/// When to try again if too many wait for the delay of an account.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Begins an attempt: counts it, and waits for the account's delay. Returns who wants the password checked. `is_known` says
/// that the browser has signed in to the account before.
///
/// # Errors
///
/// The time to wait if a limit is reached, or too many wait for a delay.
pub(super) async fn begin(
    app: &AppState,
    email: &str,
    client_ip: ClientIp,
    is_known: bool,
) -> Result<Requester, Duration> {
    let attempt = app.password_attempts.acquire(email, client_ip.source(), is_known).map_err(|limited| {
        app.metrics.count_limited(limited.cause);
        limited.wait
    })?;
    if attempt.delay > Duration::ZERO {
        app.metrics.sign_in_delays.inc();
        let delay = tokio::time::sleep(attempt.delay);
        app.delayed_sign_ins.wait(attempt.requester, delay).await.map_err(|NoPlace| {
            app.metrics.count_limited("sign_in_delays");
            RETRY_AFTER
        })?;
    }
    Ok(attempt.requester)
}

/// Counts a use of a user's right password: each is an entry in the audit log.
///
/// # Errors
///
/// The time to wait if there were too many.
pub(super) fn acquire_use(app: &AppState, user_id: &str) -> Result<(), Duration> {
    app.rate_limits.password_uses.acquire(user_id).inspect_err(|_| app.metrics.count_limited("password_uses"))
}

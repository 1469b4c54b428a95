//! What every form with a password does before it is checked.

use std::time::Duration;

use crate::http::client_ip::ClientIp;
use crate::password::Requester;
use crate::state::AppState;

/// Begins an attempt: counts it, and waits for the account's delay. Returns who wants the password checked.
///
/// # Errors
///
/// The time to wait if a limit is reached.
pub(super) async fn begin(app: &AppState, email: &str, client_ip: ClientIp) -> Result<Requester, Duration> {
    let attempt = app.password_attempts.acquire(email, client_ip.source()).map_err(|limited| {
        app.metrics.count_limited(limited.cause);
        limited.wait
    })?;
    if attempt.delay > Duration::ZERO {
        app.metrics.sign_in_delays.inc();
        tokio::time::sleep(attempt.delay).await;
    }
    Ok(attempt.requester)
}

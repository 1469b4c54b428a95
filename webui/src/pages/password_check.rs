//! What every form with a password does before it is checked.

use std::time::Duration;

use crate::http::client_ip::ClientIp;
use crate::state::AppState;

/// Begins an attempt: counts it, and waits for the account's delay.
///
/// # Errors
///
/// The time to wait if a limit is reached.
pub(super) async fn begin(app: &AppState, email: &str, client_ip: ClientIp) -> Result<(), Duration> {
    let delay = app.password_attempts.acquire(email, client_ip.source()).map_err(|limited| {
        app.metrics.count_limited(limited.cause);
        limited.wait
    })?;
    if delay > Duration::ZERO {
        app.metrics.sign_in_delays.inc();
        tokio::time::sleep(delay).await;
    }
    Ok(())
}

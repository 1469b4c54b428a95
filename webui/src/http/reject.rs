//! Why a request gets an error instead of its page. `pages/error.rs` renders the error.

use std::time::Duration;

use store::StoreError;

use crate::password::PasswordError;

/// Reason for an error page or a redirect. Causes go to the log, never to the browser.
#[derive(Debug)]
pub(crate) enum PageError {
    NotFound,
    MethodNotAllowed,
    /// Another site's page sent the form.
    CrossOrigin,
    /// The form's CSRF token isn't that of its sender.
    BadCsrfToken,
    TooLarge,
    Malformed,
    TooManyStreams,
    /// The user exceeded a rate limit; the time to wait.
    RateLimited(Duration),
    /// Every password worker is busy.
    Busy,
    StoreUnavailable,
    DiskFull,
    Internal,
    /// Redirects to the sign-in page, which leads back to this path.
    SignInRequired(String),
    /// Redirects to the cache page.
    AlreadySignedIn,
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, ?cause, "store request failed");
        match error {
            StoreError::DiskFull(_) => Self::DiskFull,
            StoreError::Unavailable(_) | StoreError::Locked(_) => Self::StoreUnavailable,
            _ => Self::Internal,
        }
    }
}

impl From<PasswordError> for PageError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::Busy,
            PasswordError::Failed => Self::Internal,
        }
    }
}

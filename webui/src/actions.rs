//! What pages and API do alike with a user's caches and tokens: find one's own, check limits, make the change.

pub(crate) mod caches;
pub(crate) mod tokens;
pub(crate) mod webhooks;

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use store::{Store, StoreError, User};

use crate::http::reject::PageError;
use crate::layout::set_retry_after;
use crate::state::AppState;

/// What a suspended user is told who wants to change something.
pub(crate) const SUSPENDED: &str = "Your account is suspended. Ask the operator of this service.";

/// When to try again if the machine has no room: somebody has to delete a cache first.
const ROOM_RETRY_BACKOFF: Duration = Duration::from_mins(5);

/// Why an action isn't done, as its user is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) cause: Cause,
    pub(crate) message: String,
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A field's value can't be used; the field's name in the API.
    Invalid(&'static str),
    /// The user, or the cache, is suspended by the operator.
    Suspended,
    /// The name is taken.
    AlreadyExists,
    /// There are as many as allowed.
    LimitReached,
    /// What it is about isn't in a state for it.
    WrongState,
    /// The machine has no room.
    NoRoom,
    /// Too often; the time to wait.
    RateLimited(Duration),
}

/// Why an action failed.
#[derive(Debug)]
pub(crate) enum ActionError {
    Refused(Refusal),
    Failed(PageError),
}

impl Refusal {
    pub(crate) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }

    pub(crate) fn suspended() -> Self {
        Self::new(Cause::Suspended, SUSPENDED)
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.cause {
            Cause::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Cause::Suspended => StatusCode::FORBIDDEN,
            Cause::AlreadyExists | Cause::LimitReached | Cause::WrongState => StatusCode::CONFLICT,
            Cause::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Cause::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// How long a client should wait before it tries again, if that helps.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self.cause {
            Cause::RateLimited(wait) => Some(wait),
            Cause::NoRoom => Some(ROOM_RETRY_BACKOFF),
            _ => None,
        }
    }

    /// Tells a client when to try again.
    pub(crate) fn add_to(&self, response: &mut Response) {
        if let Some(wait) = self.retry_after() {
            set_retry_after(response.headers_mut(), wait);
        }
    }
}

impl From<Refusal> for ActionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<PageError> for ActionError {
    fn from(error: PageError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for ActionError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// The store, with this user as the actor in the audit log.
pub(crate) fn acting(app: &AppState, user: &User) -> Store {
    app.store.acting_as_user(&user.id)
}

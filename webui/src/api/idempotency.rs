//! Creations that are sent again: with an `Idempotency-Key`, a creation is done once, and a copy of it gets what was created,
//! without its secrets.

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use std::time::Duration;
use store::{ApiRequest, ApiRequestState};

use super::body::RequestIdentity;
use super::problem::{Kind, Problem};
use crate::state::AppState;

/// When to ask again for a request that is in progress.
const IN_PROGRESS_RETRY: Duration = Duration::from_secs(1);

/// A creation that was begun.
#[derive(Debug)]
pub(super) enum CreationStart {
    /// It is to be done, and then ended.
    New(Creation),
    /// It was done before: the id of what it created.
    Repeated(String),
}

/// A creation in progress; without an idempotency key there is nothing to record.
#[derive(Debug)]
pub(super) struct Creation(Option<ApiRequest>);

/// Begins a creation.
///
/// # Errors
///
/// If the same one is in progress, or another has used the key.
pub(super) async fn begin(
    app: &AppState,
    user_id: &str,
    identity: &RequestIdentity,
) -> Result<CreationStart, Problem> {
    let Some(key) = &identity.key else { return Ok(CreationStart::New(Creation(None))) };
    let request = ApiRequest::new(&app.token_key, user_id, key, &[&identity.target, &identity.body]);
    match app.store.begin_api_request(&request).await? {
        ApiRequestState::New => Ok(CreationStart::New(Creation(Some(request)))),
        ApiRequestState::Done(resource) => Ok(CreationStart::Repeated(resource)),
        ApiRequestState::InProgress => {
            let detail = "A request with this Idempotency-Key is in progress. Send it again in a second.";
            Err(Problem::new(Kind::InProgress, detail).with_retry_after(IN_PROGRESS_RETRY))
        }
        ApiRequestState::OtherRequest => {
            let detail = "A request with another method, address or body has used this Idempotency-Key within a day. \
                          Use a new key.";
            Err(Problem::new(Kind::KeyReused, detail))
        }
    }
}

impl Creation {
    /// Ends the creation: `created` is the id of what was created, and what the answer is made from. One that was refused
    /// is forgotten, so that it may be sent again.
    ///
    /// # Errors
    ///
    /// Those of the creation. What was created is answered even if it can't be recorded.
    pub(super) async fn end<T>(
        self,
        app: &AppState,
        created: Result<(String, T), Problem>,
    ) -> Result<T, Problem> {
        let Some(request) = self.0 else { return created.map(|(_, value)| value) };
        let recorded = match &created {
            Ok((id, _)) => app.store.finish_api_request(&request, id).await,
            Err(_) => app.store.forget_api_request(&request).await,
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "failed to record a request of the API");
        }
        created.map(|(_, value)| value)
    }
}

/// The answer to a creation that was done before: 200, and a header that says so.
pub(super) fn repeated(mut response: Response) -> Response {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

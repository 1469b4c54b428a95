//! Errors of the API: `application/problem+json` (RFC 9457), with a stable code, and how to fix what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use store::StoreError;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Described, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::actions::{ActionError, Cause, Refusal};
use crate::http::reject::PageError;
use crate::layout::set_retry_after;
use crate::view::date::retry_in;

/// Characters of what a client sent that an error repeats.
const QUOTED_MAX: usize = 200;
const CONTENT_TYPE: &str = "application/problem+json";
/// When to try again if the store is away.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(4);

/// What kind of error it is. Codes don't change; texts may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidRequest,
    InvalidKey,
    MissingScope,
    Suspended,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    LimitReached,
    WrongState,
    InProgress,
    Changed,
    TooLarge,
    UnsupportedMediaType,
    InvalidFields,
    KeyReused,
    RateLimited,
    Internal,
    NoRoom,
    Unavailable,
}

/// An error.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

/// A field that can't be used.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// Its path, like `permissions.scopes[0]`; empty for the whole body.
    field: String,
    /// What is wrong, and how to fix it.
    message: String,
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Where the error is explained.
    #[serde(rename = "type")]
    reference: String,
    /// The kind of error, in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The kind of error, for programs. It doesn't change.
    code: &'static str,
    /// What is wrong, and how to fix it.
    detail: String,
    /// Fields that can't be used.
    errors: Vec<FieldError>,
}

impl Kind {
    pub(super) const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::InvalidKey,
        Self::MissingScope,
        Self::Suspended,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::AlreadyExists,
        Self::LimitReached,
        Self::WrongState,
        Self::InProgress,
        Self::Changed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidFields,
        Self::KeyReused,
        Self::RateLimited,
        Self::Internal,
        Self::NoRoom,
        Self::Unavailable,
    ];

    /// Status, code and title.
    pub(super) fn info(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request", "Invalid request"),
            Self::InvalidKey => (StatusCode::UNAUTHORIZED, "invalid_key", "No valid API key"),
            Self::MissingScope => (StatusCode::FORBIDDEN, "missing_scope", "The API key lacks a scope"),
            Self::Suspended => (StatusCode::FORBIDDEN, "suspended", "Suspended by the operator"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::AlreadyExists => (StatusCode::CONFLICT, "already_exists", "Already exists"),
            Self::LimitReached => (StatusCode::CONFLICT, "limit_reached", "Limit reached"),
            Self::WrongState => (StatusCode::CONFLICT, "wrong_state", "Not possible in this state"),
            Self::InProgress => {
                (StatusCode::CONFLICT, "in_progress", "The same request is still in progress")
            }
            Self::Changed => (StatusCode::PRECONDITION_FAILED, "changed", "Changed meanwhile"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Request too large"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Not JSON")
            }
            Self::InvalidFields => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields", "Invalid fields"),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "Another request has used this Idempotency-Key",
            ),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
            Self::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "no_room", "No room"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Temporarily unavailable"),
        }
    }
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    pub(super) fn not_found() -> Self {
        Self::new(Kind::NotFound, "There is no such thing, or it isn't yours. Check the address.")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            Kind::MethodNotAllowed,
            "This address doesn't know the method. See the reference at /api for those that it knows.",
        )
    }

    pub(super) fn wrong_state(detail: impl Into<String>) -> Self {
        Self::new(Kind::WrongState, detail)
    }

    /// Too often; try again after `wait`.
    pub(super) fn rate_limited(wait: Duration) -> Self {
        let detail = format!("You did this too often, so nothing was changed. Try again {}.", retry_in(wait));
        Self::new(Kind::RateLimited, detail).with_retry_after(wait)
    }

    /// A field of the body, or several, can't be used.
    pub(super) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: quoted(&field.into()), message: quoted(&message.into()) }])
    }

    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = "Nothing was changed. Correct the fields in `errors` and send the request again.";
        Self { errors, ..Self::new(Kind::InvalidFields, detail) }
    }

    /// A parameter of the address, or a header, can't be used.
    pub(super) fn parameter(name: &str, message: impl Into<String>) -> Self {
        let message = quoted(&message.into());
        let detail = format!("Correct {name}: {message}");
        let errors = vec![FieldError { field: name.to_owned(), message }];
        Self { errors, ..Self::new(Kind::InvalidRequest, detail) }
    }

    pub(super) fn with_retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

impl FieldError {
    pub(super) fn new(field: &str, message: impl ToString) -> Self {
        Self { field: field.to_owned(), message: quoted(&message.to_string()) }
    }
}

/// A text that may contain what a client sent: shortened, without marks that reorder or hide text.
pub(super) fn quoted(text: &str) -> String {
    let mut text = identity::escape_controls(text).into_owned();
    if let Some((end, _)) = text.char_indices().nth(QUOTED_MAX) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { kind, detail, errors, retry_after } = self;
        let (status, code, title) = kind.info();
        let reference = format!("/api#error-{code}");
        let body = ProblemBody { reference, title, status: status.as_u16(), code, detail, errors };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response();
        if let Some(wait) = retry_after {
            set_retry_after(response.headers_mut(), wait);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"memgate\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<PageError> for Problem {
    fn from(error: PageError) -> Self {
        match error {
            PageError::NotFound => Self::not_found(),
            PageError::MethodNotAllowed => Self::method_not_allowed(),
            PageError::RateLimited(wait) => Self::rate_limited(wait),
            PageError::TooLarge => too_large(),
            PageError::DiskFull => Self::new(
                Kind::Unavailable,
                "The disk of this service is full, so nothing was changed. Tell the operator, and try again later.",
            )
            .with_retry_after(UNAVAILABLE_RETRY),
            PageError::StoreUnavailable | PageError::Busy => Self::new(
                Kind::Unavailable,
                "Nothing is lost, and caches keep working. Try again in a few seconds.",
            )
            .with_retry_after(UNAVAILABLE_RETRY),
            _ => Self::new(
                Kind::Internal,
                "The error was logged. Try again; if it happens again, tell the operator of this service.",
            ),
        }
    }
}

/// The body is larger than any that is needed.
pub(super) fn too_large() -> Problem {
    Problem::new(Kind::TooLarge, "A body has at most 16 KiB. Nothing was changed: send a shorter one.")
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        PageError::from(error).into()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let retry_after = refusal.retry_after();
        let Refusal { cause, message } = refusal;
        let problem = match cause {
            Cause::Invalid(field) => Self::field(field, message),
            Cause::Suspended => Self::new(Kind::Suspended, message),
            Cause::AlreadyExists => Self::new(Kind::AlreadyExists, message),
            Cause::LimitReached => Self::new(Kind::LimitReached, message),
            Cause::WrongState => Self::new(Kind::WrongState, message),
            Cause::NoRoom => Self::new(Kind::NoRoom, message),
            Cause::RateLimited(_) => Self::new(Kind::RateLimited, message),
        };
        Self { retry_after, ..problem }
    }
}

impl From<ActionError> for Problem {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::Refused(refusal) => refusal.into(),
            ActionError::Failed(error) => error.into(),
        }
    }
}

/// Every kind of error: status, code and title.
pub(crate) fn codes() -> impl Iterator<Item = (u16, &'static str, &'static str)> {
    Kind::ALL.into_iter().map(Kind::info).map(|(status, code, title)| (status.as_u16(), code, title))
}

/// Errors of every request with a key.
pub(super) struct ReadErrors;
/// Errors of a request that changes something, without a body.
pub(super) struct ChangeErrors;
/// Errors of a request that changes something, with a body.
pub(super) struct BodyErrors;

const READ_ERRORS: [u16; 7] = [400, 401, 403, 404, 429, 500, 503];
const CHANGE_ERRORS: [u16; 2] = [409, 412];
const BODY_ERRORS: [u16; 3] = [413, 415, 422];

impl IntoResponses for ReadErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&READ_ERRORS)
    }
}

impl IntoResponses for ChangeErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[READ_ERRORS.as_slice(), &CHANGE_ERRORS].concat())
    }
}

impl IntoResponses for BodyErrors {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        described(&[READ_ERRORS.as_slice(), &CHANGE_ERRORS, &BODY_ERRORS].concat())
    }
}

/// The answers with these statuses: the codes that each may have.
fn described(statuses: &[u16]) -> BTreeMap<String, RefOr<Described>> {
    let response = |status: u16| {
        let of_status = Kind::ALL.into_iter().map(Kind::info).filter(|(it, ..)| it.as_u16() == status);
        let kinds: Vec<String> = of_status.map(|(_, code, title)| format!("{title} (`{code}`)")).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let described = ResponseBuilder::new().description(kinds.join("; ")).content(CONTENT_TYPE, content);
        (status.to_string(), RefOr::T(described.build()))
    };
    statuses.iter().map(|status| response(*status)).collect()
}

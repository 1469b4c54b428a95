//! Values that several answers of the API have: times, and tags of what may change.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use identity::time_text::rfc3339;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use store::Timestamp;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use super::problem::{Kind, Problem};

/// Bytes of an entity tag's hash.
const TAG_LEN: usize = 16;

/// A time in UTC (RFC 3339).
#[derive(Debug, Clone, Copy)]
pub(super) struct DateTime(pub(super) Timestamp);

impl Serialize for DateTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(self.0))
    }
}

impl PartialSchema for DateTime {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build().into()
    }
}

impl ToSchema for DateTime {}

/// Parses a time (RFC 3339).
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let format = &time::format_description::well_known::Rfc3339;
    let parsed = time::OffsetDateTime::parse(text, format).ok()?;
    let millis = parsed.unix_timestamp_nanos() / 1_000_000;
    i64::try_from(millis).ok().map(Timestamp::from_millis)
}

/// The entity tag of a resource, from all of it that may be changed.
pub(super) fn entity_tag(parts: &impl Serialize) -> String {
    let text = serde_json::to_string(parts).unwrap_or_default();
    let hash: String = Sha256::digest(text).iter().take(TAG_LEN).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hash}\"")
}

/// Tags of `If-Match`; `None` without the header.
#[derive(Debug, Clone)]
pub(super) struct IfMatch(Option<String>);

impl IfMatch {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get_all(header::IF_MATCH).iter();
        let sent: Vec<String> =
            sent.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        Self((!sent.is_empty()).then(|| sent.join(",")))
    }

    /// Whether a change of the resource with this tag is wanted.
    pub(super) fn allows(&self, tag: &str) -> bool {
        let matches = |sent: &str| sent.split(',').map(str::trim).any(|it| it == "*" || it == tag);
        self.0.as_deref().is_none_or(matches)
    }

    /// # Errors
    ///
    /// If the resource isn't the one that the client has seen.
    pub(super) fn check(&self, tag: &str) -> Result<(), Problem> {
        if self.allows(tag) { Ok(()) } else { Err(changed()) }
    }
}

/// The resource isn't the one that the client has seen.
pub(super) fn changed() -> Problem {
    let detail = "It isn't as `If-Match` says, so nothing was changed. Get it again, and send its new ETag.";
    Problem::new(Kind::Changed, detail)
}

/// An answer with an entity tag.
pub(super) fn tagged(status: StatusCode, tag: &str, body: &impl Serialize) -> Response {
    with_header((status, Json(body)).into_response(), header::ETAG, tag)
}

/// An answer about what was created, and where it is.
pub(super) fn created(status: StatusCode, path: &str, body: &impl Serialize) -> Response {
    with_header((status, Json(body)).into_response(), header::LOCATION, &format!("/api/v1{path}"))
}

/// The same answer with a header.
pub(super) fn with_header(mut response: Response, name: header::HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let at = parse_time("2026-11-29T08:59:59Z").unwrap();
        assert_eq!(rfc3339(at), "2026-11-29T08:59:59Z");
        assert_eq!(
            parse_time("2026-11-29T10:59:59.5+02:00"),
            Some(Timestamp::from_millis(at.as_millis() + 500))
        );
        for bad in
            ["", "2026-11-29", "now", "2026-13-29T08:59:59Z", "99999-01-01T00:00:00Z", "2026-11-29T08:59:59"]
        {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn tags_match_themselves_only() {
        let tag = entity_tag(&("name", 1));
        assert_ne!(tag, entity_tag(&("name", 2)));
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().unwrap());
            IfMatch::of(&headers)
        };
        for (sent, allowed) in [
            (tag.clone(), true),
            (format!("\"x\", {tag}"), true),
            ("*".into(), true),
            (format!("W/{tag}"), false),
            ("\"x\"".into(), false),
            (tag.trim_matches('"').to_owned(), false),
        ] {
            assert_eq!(of(&sent).allows(&tag), allowed, "{sent}");
        }
        assert!(IfMatch::of(&HeaderMap::new()).allows(&tag));
    }
}

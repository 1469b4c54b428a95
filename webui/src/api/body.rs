//! What requests of the API send: JSON objects, parameters of the address, and headers.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::problem::{Kind, Problem, quoted, too_large};
use crate::state::AppState;

/// Characters of an `Idempotency-Key`.
const IDEMPOTENCY_KEY_MAX: usize = 255;

/// Extractor: the fields of a JSON object, and what has to be the same if the request is sent again.
#[derive(Debug)]
pub(super) struct Body<T> {
    pub(super) fields: T,
    pub(super) identity: RequestIdentity,
}

/// What makes two requests the same.
#[derive(Debug)]
pub(super) struct RequestIdentity {
    /// The `Idempotency-Key`, if there is one.
    pub(super) key: Option<String>,
    /// Method and path.
    pub(super) target: String,
    pub(super) body: String,
}

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<AppState>) -> Result<Self, Problem> {
        let headers = request.headers();
        if !is_json(headers) {
            let detail = "Send the body as JSON, with `Content-Type: application/json`.";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        let key = idempotency_key(headers)?;
        let target = format!("{} {}", request.method(), request.uri().path());
        let bytes = Bytes::from_request(request, app).await;
        let bytes = bytes.map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => Problem::new(Kind::InvalidRequest, "The body was incomplete. Send the request again."),
        })?;
        let body = std::str::from_utf8(&bytes)
            .map_err(|_| Problem::new(Kind::InvalidRequest, "The body isn't UTF-8. Send JSON."))?;
        let fields = parse(body)?;
        Ok(Self { fields, identity: RequestIdentity { key, target, body: body.to_owned() } })
    }
}

/// Reads an object with the fields of `T`.
fn parse<T: DeserializeOwned>(body: &str) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut json);
    let object = parsed.map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            let detail = format!("The body isn't JSON ({}). Correct it.", quoted(&error.to_string()));
            return Problem::new(Kind::InvalidRequest, detail);
        }
        let text = error.to_string();
        // Without the place in the text, which the path tells better.
        let message = text.rsplit_once(" at line ").map_or(&*text, |(message, _)| message);
        Problem::field(field_of(&path, message), format!("{message}. See the reference at /api."))
    })?;
    json.end().map_err(|_| Problem::new(Kind::InvalidRequest, "The body has more than one JSON value."))?;
    Ok(object.0)
}

/// The field that an error is about: the path to it, or what is missing or unknown there.
fn field_of(path: &str, message: &str) -> String {
    let parent = if path == "." { "" } else { path };
    let named = ["missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once('`').map(|(name, _)| name));
    match (parent, named) {
        ("", Some(name)) => name.to_owned(),
        (parent, Some(name)) if !parent.ends_with(name) => format!("{parent}.{name}"),
        (parent, _) => parent.to_owned(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = sent.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut sent = headers.get_all("idempotency-key").iter();
    let (Some(key), None) = (sent.next(), sent.next()) else {
        return match headers.contains_key("idempotency-key") {
            true => Err(Problem::parameter("Idempotency-Key", "send it once.")),
            false => Ok(None),
        };
    };
    let fits = |key: &&str| (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len());
    let key = key.to_str().ok().filter(fits);
    let key =
        key.ok_or_else(|| Problem::parameter("Idempotency-Key", "use 1 to 255 printable ASCII characters."))?;
    Ok(Some(key.to_owned()))
}

/// A JSON object: serde would also take an array, with the fields by position.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads a field that may be `null`: `None` if it is missing.
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Extractor: parameters of the address behind `?`.
#[derive(Debug)]
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<AppState>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, app).await.map_err(|rejection| {
            let text = rejection.body_text();
            let text = text.rsplit_once("query string: ").map_or(&*text, |(_, cause)| cause);
            let detail = format!("{}. See the reference at /api.", quoted(text));
            Problem::new(Kind::InvalidRequest, detail)
        })?;
        Ok(Self(query.0))
    }
}

/// Extractor: the parts of the path that stand for ids. One that isn't text leads nowhere.
#[derive(Debug)]
pub(super) struct Ids<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<AppState>> for Ids<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, app).await.map_err(|_| Problem::not_found())?;
        Ok(Self(path.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Fields {
        name: String,
        #[serde(default, deserialize_with = "present")]
        end: Option<Option<i64>>,
    }

    fn code(body: &str) -> String {
        format!("{:?}", parse::<Fields>(body).unwrap_err())
    }

    #[test]
    fn objects_are_read_and_other_values_refused() {
        let fields = |end| Fields { name: "x".into(), end };
        assert_eq!(parse::<Fields>(r#"{"name":"x"}"#).unwrap(), fields(None));
        assert_eq!(parse::<Fields>(r#"{"name":"x","end":null}"#).unwrap(), fields(Some(None)));
        for (body, kind, field) in [
            (r#"["x",null]"#, "InvalidFields", ""),
            (r#""x""#, "InvalidFields", ""),
            (r#"{"name":1}"#, "InvalidFields", "name"),
            (r#"{}"#, "InvalidFields", "name"),
            (r#"{"name":"x","name":"y"}"#, "InvalidFields", "name"),
            (r#"{"name":"x","other":1}"#, "InvalidFields", "other"),
            (r#"{"name":"x","end":1e400}"#, "InvalidRequest", ""),
            (r#"{"name":"x","end":99999999999999999999}"#, "InvalidFields", "end"),
            (r#"{"name":"x"} {}"#, "InvalidRequest", ""),
            ("", "InvalidRequest", ""),
            ("{", "InvalidRequest", ""),
            (&"[".repeat(10_000), "InvalidFields", ""),
            (&format!("{{\"name\":{}", "[".repeat(10_000)), "InvalidFields", "name"),
        ] {
            let problem = code(body);
            assert!(problem.contains(kind), "{body}: {problem}");
            let named = if field.is_empty() { "errors".into() } else { format!("field: \"{field}\"") };
            assert!(problem.contains(&named), "{body}: {problem}");
        }
    }

    #[test]
    fn idempotency_keys_are_short_and_printable() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("idempotency-key", header::HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers).map_err(drop)
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"abc-1"]), Ok(Some("abc-1".into())));
        for bad in [[b"".as_slice()].as_slice(), &[&[b'x'; 256]], &["é".as_bytes()], &[b"a", b"b"]] {
            assert_eq!(read(bad), Err(()));
        }
    }
}

//! Tokens: list, create, show, change, rotate, revoke. A secret is in the answer that creates it, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use identity::TokenName;
use serde::{Deserialize, Serialize};
use store::{NewToken, Permissions, TokenChange, TokenRow, now};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Principal, Read, Tokens};
use super::body::{Body, Ids, Object, Parameters};
use super::caches::{self, EndpointView};
use super::idempotency::{self, CreationStart, repeated};
use super::paging::{Page, Position, key_of};
use super::permissions::{PermissionFields, PermissionView};
use super::problem::{BodyErrors, ChangeErrors, FieldError, Problem, ReadErrors};
use super::value::{DateTime, IfMatch, changed, created, entity_tag, tagged, with_header};
use crate::actions;
use crate::state::AppState;

/// Revoked and expired tokens that are listed.
const INACTIVE_MAX: i64 = 200;
/// How long a rotated token stays valid, unless the request says.
const GRACE_DEFAULT_SECONDS: u64 = 3_600;
/// The longest time: a week, as on the page.
const GRACE_MAX_SECONDS: u64 = 7 * 24 * 3_600;

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct TokenView {
    /// The public id: 12 letters and digits.
    id: String,
    name: String,
    cache_id: String,
    /// What a client logs in with, beside the password.
    username: String,
    /// `active`, `expired` or `revoked`.
    state: &'static str,
    permissions: PermissionView,
    /// The id of the token that replaces it.
    successor: Option<String>,
    created_at: DateTime,
    revoked_at: Option<DateTime>,
    /// When a client last used it; half a minute late at most.
    last_used_at: Option<DateTime>,
    /// That client's address.
    last_used_from: Option<String>,
}

/// A token that was just created.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    token: TokenView,
    /// Where to connect.
    endpoint: EndpointView,
    /// The password, in the first answer only; `null` in an answer to the same request sent again.
    password: Option<String>,
    /// Username and password in one text, for clients that take that; likewise.
    secret: Option<String>,
    /// Whether the answer has the secret. If not, and it was lost, revoke the token and create another.
    has_secret: bool,
}

/// A token to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken)]
pub(super) struct NewTokenFields {
    /// 1 to 60 characters.
    #[schema(min_length = 1, max_length = 60)]
    name: String,
    /// What it may do; everything without it.
    #[serde(default)]
    #[schema(value_type = Option<PermissionFields>)]
    permissions: Option<Object<PermissionFields>>,
}

/// What to change of a token. What is missing stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenChange)]
pub(super) struct ChangeFields {
    /// 1 to 60 characters.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 60)]
    name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<PermissionFields>)]
    permissions: Option<Object<PermissionFields>>,
}

/// How to rotate a token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation)]
pub(super) struct RotationFields {
    /// Seconds for which the old token stays valid: at most a week; an hour without it.
    #[schema(minimum = 0, maximum = 604_800, default = 3600)]
    grace_seconds: Option<u64>,
}

/// Which tokens of a cache to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParameters {
    /// `active`, as without it, or `inactive`: the newest 200 that are revoked or expired.
    #[param(value_type = Option<TokenState>)]
    state: Option<TokenState>,
    /// Tokens of the page, 1 to 200; 50 without it.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Whether a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum TokenState {
    Active,
    Inactive,
}

/// Lists the tokens of a cache: active ones oldest first, others newest first
#[utoipa::path(get, path = "/caches/{cache}/tokens", tag = "Tokens", operation_id = "listTokens",
    params(("cache" = String, Path, description = "The cache's id"), ListParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of tokens", body = Page<TokenView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(ListParameters { state, limit, cursor }): Parameters<ListParameters>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let position = Position::new(limit.as_deref(), cursor.as_deref())?;
    let (cache, _) = caches::find(&app, &caller.user, &id).await?;
    let key = |it: &TokenRow| key_of(it.created_at, &it.id);
    Ok(Json(match state {
        None | Some(TokenState::Active) => {
            let tokens = app.store.list_tokens(&cache.id, 0).await?.active;
            position.page(tokens, key, TokenView::new)
        }
        Some(TokenState::Inactive) => {
            let tokens = app.store.list_tokens(&cache.id, INACTIVE_MAX).await?.inactive;
            position.page_newest_first(tokens, key, TokenView::new)
        }
    }))
}

/// Creates a token of a cache. The answer has its secret, once
#[utoipa::path(post, path = "/caches/{cache}/tokens", tag = "Tokens", operation_id = "createToken",
    params(("cache" = String, Path, description = "The cache's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NewTokenFields, security(("api_key" = ["tokens"])),
    responses((status = 201, description = "It is created", body = CreatedToken,
            headers(("Location" = String, description = "The token"), ("ETag" = String, description = "For If-Match"))),
        (status = 200, description = "It was created before, with the same Idempotency-Key; without its secret", body = CreatedToken),
        BodyErrors))]
pub(super) async fn create(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids(id): Ids<String>,
    body: Body<NewTokenFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let (cache, _) = caches::find(&app, user, &id).await?;
    let NewTokenFields { name, permissions } = body.fields;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => return repeat(&app, &caller, &id).await,
    };
    let create = async {
        let mut granted = Permissions::ALL;
        let mut errors = Vec::new();
        let name = TokenName::parse(&name).map_err(|error| errors.push(FieldError::new("name", error)));
        if let Some(Object(fields)) = permissions {
            errors.extend(fields.apply(&mut granted, now()));
        }
        let Some(name) = name.ok().filter(|_| errors.is_empty()) else { return Err(Problem::fields(errors)) };
        let new = actions::tokens::create(&app, user, &cache, &name, granted).await?;
        Ok((new.token.id().to_string(), new))
    };
    let created = create.await;
    let new = creation.end(&app, created).await?;
    reveal(&app, &caller, &new).await
}

/// Shows a token, active or not
#[utoipa::path(get, path = "/tokens/{token}", tag = "Tokens", operation_id = "getToken",
    params(("token" = String, Path, description = "Its id")), security(("api_key" = ["read"])),
    responses((status = 200, description = "The token", body = TokenView,
            headers(("ETag" = String, description = "For If-Match; changes with what you can change"))),
        ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
) -> Result<Response, Problem> {
    let (_, token) = actions::tokens::find(&app, &caller.user, &id).await?;
    Ok(tagged(StatusCode::OK, &token_tag(&token), &TokenView::new(token)))
}

/// Changes the name and the permissions of an active token. Takes effect within a second
#[utoipa::path(patch, path = "/tokens/{token}", tag = "Tokens", operation_id = "updateToken",
    params(("token" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Change it only if its ETag is this")),
    request_body = ChangeFields, security(("api_key" = ["tokens"])),
    responses((status = 200, description = "It is changed", body = TokenView,
            headers(("ETag" = String, description = "For If-Match"))),
        BodyErrors))]
pub(super) async fn update(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
    body: Body<ChangeFields>,
) -> Result<Response, Problem> {
    let (id, token) = actions::tokens::find(&app, &caller.user, &id).await?;
    let ChangeFields { name, permissions } = body.fields;
    let permissions = permissions.map(|Object(fields)| fields);
    let (if_match, at) = (IfMatch::of(&headers), now());
    let mut errors = Vec::new();
    let name = match name.map(|name| TokenName::parse(&name)).transpose() {
        Ok(name) => name,
        Err(error) => {
            errors.push(FieldError::new("name", error));
            None
        }
    };
    if let Some(fields) = &permissions {
        errors.extend(fields.apply(&mut token.permissions.clone(), at));
    }
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    require_active(&token)?;
    let change = |current: &TokenRow, new: &mut TokenChange| {
        if let Some(name) = &name {
            name.as_str().clone_into(&mut new.name);
        }
        if let Some(fields) = &permissions {
            fields.apply(&mut new.permissions, at);
        }
        if_match.allows(&token_tag(current))
    };
    if_match.check(&token_tag(&token))?;
    let token = actions::tokens::change(&app, &caller.user, &id, change).await?.ok_or_else(changed)?;
    Ok(tagged(StatusCode::OK, &token_tag(&token), &TokenView::new(token)))
}

/// Replaces an active token by one with the same name and permissions; the old one expires after a while
#[utoipa::path(post, path = "/tokens/{token}/rotate", tag = "Tokens", operation_id = "rotateToken",
    params(("token" = String, Path, description = "The old token's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = RotationFields, security(("api_key" = ["tokens"])),
    responses((status = 201, description = "The new token", body = CreatedToken,
            headers(("Location" = String, description = "The new token"), ("ETag" = String, description = "For If-Match"))),
        (status = 200, description = "It was rotated before, with the same Idempotency-Key; without the secret", body = CreatedToken),
        BodyErrors))]
pub(super) async fn rotate(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids(id): Ids<String>,
    body: Body<RotationFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let (_, token) = actions::tokens::find(&app, user, &id).await?;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => return repeat(&app, &caller, &id).await,
    };
    let rotate = async {
        let grace = body.fields.grace_seconds.unwrap_or(GRACE_DEFAULT_SECONDS);
        if grace > GRACE_MAX_SECONDS {
            return Err(Problem::field("grace_seconds", "A rotated token stays valid for at most a week."));
        }
        require_active(&token)?;
        if let Some(successor) = &token.successor {
            let detail = format!("The token was rotated before. Rotate its successor, {successor}.");
            return Err(Problem::wrong_state(detail));
        }
        let (cache, _) = caches::find(&app, user, &token.cache_id).await?;
        let grace = Duration::from_secs(grace);
        let (new, _) = actions::tokens::rotate(&app, user, &cache, &token, grace).await?;
        Ok((new.token.id().to_string(), new))
    };
    let rotated = rotate.await;
    let new = creation.end(&app, rotated).await?;
    reveal(&app, &caller, &new).await
}

/// Revokes a token for good: logins are refused, and its connections closed within a second
#[utoipa::path(delete, path = "/tokens/{token}", tag = "Tokens", operation_id = "revokeToken",
    params(("token" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Revoke it only if its ETag is this")),
    security(("api_key" = ["tokens"])),
    responses((status = 204, description = "It is revoked, now or before"), ChangeErrors))]
pub(super) async fn revoke(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (id, token) = actions::tokens::find(&app, &caller.user, &id).await?;
    IfMatch::of(&headers).check(&token_tag(&token))?;
    actions::tokens::revoke(&app, &caller.user, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// # Errors
///
/// If the token is revoked or expired.
pub(super) fn require_active(token: &TokenRow) -> Result<(), Problem> {
    if token.is_active(now()) {
        return Ok(());
    }
    Err(Problem::wrong_state("The token is revoked or expired, for good. Create another one."))
}

/// The answer that has a new token's secret.
async fn reveal(app: &AppState, caller: &Principal<Tokens>, new: &NewToken) -> Result<Response, Problem> {
    let id = new.token.id();
    let (_, token) = actions::tokens::find(app, &caller.user, id.as_str()).await?;
    let tag = token_tag(&token);
    let body = CreatedToken {
        token: TokenView::new(token),
        endpoint: EndpointView::of(app),
        password: Some(new.token.secret().reveal().to_owned()),
        secret: Some(new.token.reveal()),
        has_secret: true,
    };
    Ok(with_header(created(StatusCode::CREATED, &format!("/tokens/{id}"), &body), header::ETAG, &tag))
}

/// The answer to a creation that was done before.
async fn repeat(app: &AppState, caller: &Principal<Tokens>, id: &str) -> Result<Response, Problem> {
    let (_, token) = actions::tokens::find(app, &caller.user, id).await?;
    let endpoint = EndpointView::of(app);
    let body = CreatedToken {
        token: TokenView::new(token),
        endpoint,
        password: None,
        secret: None,
        has_secret: false,
    };
    Ok(repeated(Json(body).into_response()))
}

/// The entity tag of a token: of what its user can change.
fn token_tag(token: &TokenRow) -> String {
    entity_tag(&(&token.id, &token.name, &token.permissions, token.revoked_at, &token.successor))
}

impl TokenView {
    fn new(token: TokenRow) -> Self {
        let state = match token.revoked_at {
            Some(_) => "revoked",
            None if token.is_active(now()) => "active",
            None => "expired",
        };
        Self {
            username: format!("mg_{}", token.id),
            state,
            permissions: PermissionView::new(&token.permissions),
            successor: token.successor,
            created_at: DateTime(token.created_at),
            revoked_at: token.revoked_at.map(DateTime),
            last_used_at: token.last_used_at.map(DateTime),
            last_used_from: token.last_used_from,
            id: token.id,
            name: token.name,
            cache_id: token.cache_id,
        }
    }
}

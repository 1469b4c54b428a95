//! Cache page: state, endpoint, code snippets and tokens of the user's first cache. Never shows where the instance
//! runs.

use std::sync::Arc;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use store::{Cache, Instance, Leak, ListedTokens, TokenId, TokenRow, UserState, now};

use super::no_cache;
use crate::forms::permissions::{self, LIFETIMES, PermissionForm};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::cache_state::CacheState;
use crate::view::date::{ago, day};
use crate::view::denials::DenialView;
use crate::view::number;
use crate::view::revealed_token::RevealedToken;
use crate::view::snippets::{self, Credentials, Snippet, Tls};
use crate::view::token::{inactive_reason, last_used};

/// Revoked and expired tokens on the page.
const INACTIVE_TOKENS_MAX: i64 = 20;
/// Denials on the page; a token's own page shows all of its denials.
const DENIALS_MAX: usize = 5;
/// Repairs on the page.
const EVENTS_MAX: i64 = 5;

#[derive(Template)]
#[template(path = "cache.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    state: CacheState,
    endpoint: String,
    /// Whether the endpoint speaks TLS, with a CA certificate to download.
    has_tls: bool,
    instance: &'a Instance,
    suspended: bool,
    active: Vec<TokenView>,
    inactive: Vec<TokenView>,
    denials: Vec<DenialView>,
    /// What happened to the cache, and how long ago, newest first.
    events: Vec<(String, String)>,
    lifetimes: &'a [(&'a str, &'a str)],
    revealed: Option<&'a RevealedToken>,
    form: &'a NewTokenForm,
    snippets: [Snippet; 5],
}

/// A token in a list.
struct TokenView {
    id: String,
    name: String,
    created: String,
    last_used: String,
    permissions: Vec<String>,
    can_rotate: bool,
    /// Why it is inactive; `None` for an active token.
    inactive_reason: Option<String>,
}

/// The form for a new token: its values, and an error message for the name and for the permissions.
#[derive(Default)]
pub(super) struct NewTokenForm {
    pub(super) name: String,
    pub(super) permissions: PermissionForm,
    pub(super) name_error: Option<String>,
    pub(super) permissions_error: Option<String>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    page(&app, &me, StatusCode::OK, None, &NewTokenForm::default()).await
}

/// `GET /cache/state`: polled by pages whose event stream was refused. Redirects if the user has no cache.
pub(crate) async fn state(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    Ok(match app.store.first_instance_of(&me.user.id).await? {
        Some(instance) => Json(CacheState::new(&instance)).into_response(),
        // After a redirect, the script reloads the page.
        None => Redirect::to("/cache").into_response(),
    })
}

/// The page with a token that was just created.
pub(super) async fn with_new_token(
    app: &AppState,
    me: &SignedIn,
    revealed: &RevealedToken,
) -> Result<Response, PageError> {
    page(app, me, StatusCode::OK, Some(revealed), &NewTokenForm::default()).await
}

/// The page with the form for a new token and its errors.
pub(super) async fn with_rejected_form(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    form: &NewTokenForm,
) -> Result<Response, PageError> {
    page(app, me, status, None, form).await
}

async fn page(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    revealed: Option<&RevealedToken>,
    form: &NewTokenForm,
) -> Result<Response, PageError> {
    let Some(cache) = app.store.first_cache_of(&me.user.id).await? else {
        return no_cache::page(me, status);
    };
    let instance = app.store.instance_of_cache(&cache.id).await?.ok_or(PageError::NotFound)?;
    let leaks = app.store.leaks_of(&me.user.id).await?;
    let events = app.store.instance_events(&instance.id, EVENTS_MAX).await?;
    let events = events.iter().map(|event| (event.text(), ago(now().since(event.last_at)))).collect();
    let listed = app.store.list_tokens(&cache.id, INACTIVE_TOKENS_MAX).await?;
    let denials = recent_denials(app, &cache, &listed).await?;
    let rows = listed.active.into_iter().chain(listed.inactive);
    let tokens = rows.map(|token| TokenView::new(token, &leaks));
    let (active, inactive): (Vec<_>, Vec<_>) = tokens.partition(|token| token.inactive_reason.is_none());
    let credentials =
        revealed.map_or_else(Credentials::placeholders, |revealed| revealed.credentials.clone());
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        state: CacheState::new(&instance),
        endpoint: app.endpoint.to_string(),
        has_tls: app.config.ca_certificate.is_some(),
        suspended: me.user.state == UserState::Suspended,
        active,
        inactive,
        denials,
        events,
        lifetimes: &LIFETIMES,
        revealed,
        form,
        snippets: snippets::all(&app.endpoint, &credentials),
        instance: &instance,
    };
    render(status, &page)
}

async fn recent_denials(
    app: &AppState,
    cache: &Cache,
    listed: &ListedTokens,
) -> Result<Vec<DenialView>, PageError> {
    let mut denials = Vec::new();
    for denial in app.store.denials_of_cache(&cache.id).await?.into_iter().take(DENIALS_MAX) {
        let mut tokens = listed.active.iter().chain(&listed.inactive);
        let name = match (tokens.find(|token| token.id == denial.token_id), TokenId::parse(&denial.token_id))
        {
            (Some(token), _) => token.name.clone(),
            (None, Some(id)) => app.store.token(&id).await?.map_or_else(String::new, |token| token.name),
            (None, None) => String::new(),
        };
        denials.push(DenialView::new(denial, &name));
    }
    Ok(denials)
}

impl Page<'_> {
    /// Whether a page without scripts reloads itself. Never while it shows a token.
    fn reloads(&self) -> bool {
        self.revealed.is_none() && self.state.is_transient()
    }

    fn item_size_max(&self) -> String {
        number::size(self.instance.item_size_max)
    }

    fn connections_max(&self) -> String {
        number::grouped(self.instance.connections)
    }
}

impl TokenView {
    fn new(row: TokenRow, leaks: &[Leak]) -> Self {
        let inactive_reason = inactive_reason(&row, leaks);
        Self {
            last_used: last_used(&row),
            permissions: permissions::summary(&row.permissions),
            can_rotate: row.successor.is_none(),
            id: row.id,
            name: row.name,
            created: day(row.created_at),
            inactive_reason,
        }
    }
}

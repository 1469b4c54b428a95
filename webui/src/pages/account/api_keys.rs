//! API keys of the signed-in user: the list, a form for a new one, which is shown once, and their end.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::{InputError, api_key_name, permissions_text};
use serde::Deserialize;
use store::{
    ApiKey, ApiKeyId, ApiKeyRow, ApiScope, ApiScopes, NewApiKey, StoreError, Timestamp, UserState, now,
};

use super::{has_second_factor, verify_current};
use crate::actions::{self, SUSPENDED};
use crate::forms::permissions::LIFETIMES;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::{ago, day, minute_of};

const PATH: &str = "/account/api-keys";

#[derive(Template)]
#[template(path = "account/api_keys.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    active: Vec<KeyView>,
    ended: Vec<KeyView>,
    lifetimes: &'a [(&'a str, &'a str)],
    form: &'a Form,
    errors: Errors,
    /// Whether the user has a second factor.
    asks_code: bool,
    /// Name and whole key of the one that was just created.
    revealed: Option<(&'a str, String)>,
    /// Whether a key was revoked just now.
    revoked: bool,
}

/// A key in the list.
struct KeyView {
    id: String,
    name: String,
    scopes: String,
    created: String,
    last_used: String,
    /// `expires 7 Mar 2025, 09:05 UTC`, `revoked ...`; empty if it never ends.
    end: String,
}

/// The form for a new key, as it was sent. No `Debug`: that would print the password.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Form {
    name: String,
    expires: String,
    /// Scopes whose box was ticked; a browser sends only those.
    read: Option<String>,
    tokens: Option<String>,
    caches: Option<String>,
    webhooks: Option<String>,
    metrics: Option<String>,
    password: String,
    code: String,
}

/// Error messages by field.
#[derive(Default)]
struct Errors {
    name: Option<String>,
    scopes: Option<String>,
    expires: Option<String>,
    password: Option<String>,
    code: Option<String>,
}

/// What is asked for, once it is valid.
struct Parsed {
    name: String,
    scopes: ApiScopes,
    expires_at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    revoked: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let view = PageState { revoked: params.revoked.is_some(), ..PageState::default() };
    page(&app, &me, StatusCode::OK, &Form::unsent(), view).await
}

/// Creates a key. It outlives the session, so that it takes the password, and a code of the second factor.
pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    CsrfForm { sender: me, fields: form }: CsrfForm<SignedIn, Form>,
) -> Result<Response, PageError> {
    let reject = async |status, errors| {
        page(&app, &me, status, &form, PageState { errors, ..PageState::default() }).await
    };
    let of_name = |error: String| Errors { name: Some(error), ..Errors::default() };
    if me.user.state == UserState::Suspended {
        return reject(StatusCode::FORBIDDEN, of_name(SUSPENDED.into())).await;
    }
    let Parsed { name, scopes, expires_at } = match form.parse(now()) {
        Ok(parsed) => parsed,
        Err(errors) => return reject(StatusCode::UNPROCESSABLE_ENTITY, errors).await,
    };
    let verified = verify_current(&app, &me, client_ip, form.password.clone(), &form.code).await?;
    if let Err(rejection) = verified {
        let (password, code) = rejection.messages();
        let errors = Errors { password, code, ..Errors::default() };
        return Ok(rejection.add_headers(reject(rejection.status(), errors).await?));
    }
    if let Err(refusal) = actions::tokens::acquire_change(&app, &me.user) {
        let mut response = reject(refusal.status(), of_name(refusal.message.clone())).await?;
        refusal.add_to(&mut response);
        return Ok(response);
    }
    let new = NewApiKey { key: ApiKey::generate(), name: &name, scopes, expires_at };
    match me.store(&app).create_api_key(&app.token_key, &me.user.id, &new).await {
        Ok(()) => {
            let view = PageState { revealed: Some((&name, new.key.reveal())), ..PageState::default() };
            page(&app, &me, StatusCode::OK, &Form::unsent(), view).await
        }
        Err(StoreError::LimitReached(_)) => {
            let error = "You have reached the limit of 20 API keys. Revoke one that isn’t in use.";
            reject(StatusCode::CONFLICT, of_name(error.into())).await
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn revoke(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let id = ApiKeyId::parse(&id).ok_or(PageError::NotFound)?;
    let key = app.store.api_key(&id).await?.filter(|key| key.user_id == me.user.id);
    key.ok_or(PageError::NotFound)?;
    me.store(&app).revoke_api_key(&id).await?;
    Ok(Redirect::to(&format!("{PATH}?revoked")).into_response())
}

/// What depends on the request before the page.
#[derive(Default)]
struct PageState<'a> {
    errors: Errors,
    revealed: Option<(&'a str, String)>,
    revoked: bool,
}

async fn page(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    form: &Form,
    view: PageState<'_>,
) -> Result<Response, PageError> {
    let at = now();
    let keys = app.store.api_keys_of(&me.user.id).await?;
    let (active, ended): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.is_active(at));
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        active: active.into_iter().map(|key| KeyView::new(key, at)).collect(),
        ended: ended.into_iter().map(|key| KeyView::new(key, at)).collect(),
        lifetimes: &LIFETIMES,
        form,
        errors: view.errors,
        asks_code: has_second_factor(app, &me.user.id).await?,
        revealed: view.revealed,
        revoked: view.revoked,
    };
    render(status, &page)
}

impl Form {
    /// The form before it is filled in: a key that only reads, for a while.
    fn unsent() -> Self {
        Self { read: Some(String::new()), expires: "90d".to_owned(), ..Self::default() }
    }

    fn scopes(&self) -> ApiScopes {
        ApiScope::ALL.into_iter().filter(|scope| self.has(*scope)).collect()
    }

    fn has(&self, scope: ApiScope) -> bool {
        match scope {
            ApiScope::Read => self.read.is_some(),
            ApiScope::Tokens => self.tokens.is_some(),
            ApiScope::Caches => self.caches.is_some(),
            ApiScope::Webhooks => self.webhooks.is_some(),
            ApiScope::Metrics => self.metrics.is_some(),
        }
    }

    /// The boxes: name, label, and whether it is ticked.
    fn boxes(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        ApiScope::ALL.into_iter().map(|scope| (scope.name(), scope.label(), self.has(scope)))
    }

    fn parse(&self, at: Timestamp) -> Result<Parsed, Errors> {
        let name = api_key_name(&self.name);
        let scopes = self.scopes();
        let expires = match &*self.expires {
            "" => Ok(None),
            text => permissions_text::parse_lifetime(text).map(|span| Some(at.saturating_add(span))),
        };
        match (name, expires, scopes == ApiScopes::NONE) {
            (Ok(name), Ok(expires_at), false) => Ok(Parsed { name, scopes, expires_at }),
            (name, expires, no_scope) => Err(Errors {
                name: name.err().as_ref().map(InputError::to_string),
                scopes: no_scope.then(|| "A key needs at least one scope. Tick one.".to_owned()),
                expires: expires.err().as_ref().map(InputError::to_string),
                ..Errors::default()
            }),
        }
    }
}

impl KeyView {
    fn new(key: ApiKeyRow, at: Timestamp) -> Self {
        let end = match (key.revoked_at, key.expires_at) {
            (Some(revoked), _) => format!("revoked {}", minute_of(revoked)),
            (None, Some(end)) if end <= at => format!("expired {}", minute_of(end)),
            (None, Some(end)) => format!("expires {}", minute_of(end)),
            (None, None) => String::new(),
        };
        let last_used = key.last_used_at.map_or_else(
            || "never used".to_owned(),
            |used| format!("last used {} ({})", ago(at.since(used)), minute_of(used)),
        );
        Self {
            scopes: key.scopes.list(", "),
            created: day(key.created_at),
            last_used,
            end,
            id: key.id,
            name: key.name,
        }
    }
}

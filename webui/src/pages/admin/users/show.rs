//! `GET /admin/users/{user}`: an account with its caches, tokens, API keys, sessions, denials and the newest entries of the audit log.
//! No secret, and nothing of what caches hold.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{ApiKeyRow, TokenRow, User, UserState, now};

use super::OneUser;
use super::actions::UserAction;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::Tab;
use crate::pages::admin::audit::EntryView;
use crate::pages::admin::caches::CacheLine;
use crate::pages::admin::denials::DenialLine;
use crate::state::AppState;
use crate::view::date::{Moment, ago, minute_of};
use crate::view::token::last_used;

/// Caches and active tokens on the page.
const CACHES_MAX: i64 = 50;
const TOKENS_MAX: i64 = 100;
/// Entries of the audit log, and denials.
const ENTRIES_MAX: i64 = 20;

#[derive(Template)]
#[template(path = "admin/users/show.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    user: User,
    created: Moment,
    /// What was just done.
    done: Option<&'static str>,
    actions: Vec<UserAction>,
    caches: Vec<CacheLine>,
    tokens: Vec<TokenLine>,
    api_keys: Vec<KeyLine>,
    sessions: usize,
    /// Since when a second factor is on.
    second_factor: Option<Moment>,
    entries: Vec<EntryView>,
    denials: Vec<DenialLine>,
}

struct TokenLine {
    id: String,
    name: String,
    cache: String,
    scopes: String,
    limits: String,
    last_used: String,
}

/// An API key that hasn't ended.
struct KeyLine {
    id: String,
    name: String,
    scopes: String,
    end: String,
    last_used: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    done: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    OneUser { admin, user, .. }: OneUser,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let store = &app.store;
    let listed = store.listed_caches_of(&user.id, CACHES_MAX).await?;
    let tokens = store.active_tokens_of_user(&user.id, TOKENS_MAX).await?;
    let keys = store.api_keys_of(&user.id).await?.into_iter().filter(|key| key.is_active(now()));
    let factor = store.second_factor(&user.id).await?.and_then(|factor| factor.confirmed_at);
    let (idle, age) = (app.config.session_idle(), app.config.session_age());
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Users,
        created: Moment::new(user.created_at),
        done: params.done.as_deref().and_then(UserAction::parse).map(UserAction::done),
        actions: UserAction::of(&admin, &user),
        caches: listed.into_iter().map(CacheLine::new).collect(),
        tokens: tokens.into_iter().map(TokenLine::new).collect(),
        api_keys: keys.map(KeyLine::new).collect(),
        second_factor: factor.map(Moment::new),
        sessions: store.sessions_of(&user.id, idle, age).await?.len(),
        entries: store.audit_of_user(&user.id, ENTRIES_MAX).await?.into_iter().map(EntryView::new).collect(),
        denials: store
            .denials_of_user(&user.id, ENTRIES_MAX)
            .await?
            .into_iter()
            .map(DenialLine::new)
            .collect(),
        user,
    };
    render(StatusCode::OK, &page)
}

impl Page {
    fn is_suspended(&self) -> bool {
        self.user.state == UserState::Suspended
    }
}

impl TokenLine {
    fn new(token: TokenRow) -> Self {
        let permissions = &token.permissions;
        let mut limits = Vec::new();
        limits.extend(permissions.prefix.as_ref().map(|prefix| format!("keys {}…", prefix.as_str())));
        limits.extend(permissions.expires_at.map(|at| format!("until {}", minute_of(at))));
        Self {
            scopes: permissions.scopes.to_string(),
            limits: limits.join(", "),
            last_used: last_used(&token),
            id: token.id,
            name: token.name,
            cache: token.cache,
        }
    }
}

impl KeyLine {
    fn new(key: ApiKeyRow) -> Self {
        let used = |at| format!("last used {}", ago(now().since(at)));
        Self {
            scopes: key.scopes.list(", "),
            end: key.expires_at.map_or_else(String::new, |at| format!("until {}", minute_of(at))),
            last_used: key.last_used_at.map_or_else(|| "never used".to_owned(), used),
            id: key.id,
            name: key.name,
        }
    }
}

//! `GET /admin/users`: searches users, a page at a time.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{User, UserFilter, UserState};

use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::{Tab, cut_page, plans, rows_to_read, search_text, user_path};
use crate::state::AppState;
use crate::view::date::day;

#[derive(Template)]
#[template(path = "admin/users/list.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    search: Search,
    /// Why nothing was searched for.
    error: Option<String>,
    plans: Vec<String>,
    users: Vec<UserRow>,
    /// The address from which the next page goes on.
    next: Option<String>,
    /// Whether a user was just deleted.
    deleted: bool,
}

struct UserRow {
    path: String,
    email: String,
    plan: String,
    suspended: bool,
    is_admin: bool,
    created: String,
}

/// The form as it was sent.
#[derive(Default, Deserialize)]
pub(crate) struct Search {
    #[serde(default)]
    email: String,
    #[serde(default)]
    plan: String,
    /// `active`, `suspended` or any.
    #[serde(default)]
    state: String,
    /// `yes`, `no` or any.
    #[serde(default)]
    admin: String,
    /// Only users whose address is behind this one.
    #[serde(default)]
    after: String,
    deleted: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    admin: Admin,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(search) = search.unwrap_or_default();
    let (status, error, found) = match search.filter() {
        Ok((filter, after)) => {
            (StatusCode::OK, None, app.store.find_users(&filter, after, rows_to_read()).await?)
        }
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, Some(error), Vec::new()),
    };
    let (users, has_more) = cut_page(found);
    let next = users.last().filter(|_| has_more).map(|user| user.email.clone());
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Users,
        error,
        plans: plans::names(&app).await?,
        users: users.into_iter().map(UserRow::new).collect(),
        next,
        deleted: search.deleted.is_some(),
        search,
    };
    render(status, &page)
}

impl Search {
    /// Which users to list, and behind which address.
    ///
    /// # Errors
    ///
    /// The message, if nothing can be searched for.
    fn filter(&self) -> Result<(UserFilter, &str), String> {
        let (email, plan, after) =
            (search_text(&self.email)?, search_text(&self.plan)?, search_text(&self.after)?);
        let state = match self.state.as_str() {
            "active" => Some(UserState::Active),
            "suspended" => Some(UserState::Suspended),
            _ => None,
        };
        let is_admin = match self.admin.as_str() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        Ok((UserFilter { email: email.to_owned(), plan: plan.to_owned(), state, is_admin }, after))
    }
}

impl UserRow {
    fn new(user: User) -> Self {
        Self {
            path: user_path(&user.id),
            suspended: user.state == UserState::Suspended,
            is_admin: user.is_admin,
            created: day(user.created_at),
            email: user.email,
            plan: user.plan,
        }
    }
}

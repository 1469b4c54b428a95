//! The administrators' area: what is wrong, users, caches, proxies, plans, denials, the audit log and settings of the whole
//! installation. To everybody else its addresses are like addresses that don't exist (`http::admin`).

mod audit;
mod caches;
mod change;
mod denials;
mod overview;
mod plans;
mod proxies;
mod settings;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};

use crate::http::admin;
use crate::http::reject::PageError;
use crate::state::AppState;

/// The address of the area.
const PATH: &str = "/admin";
/// Rows of a list on one page.
const PAGE_ROWS: usize = 50;
/// The longest text that is searched for, in characters: an e-mail address has 254.
const SEARCH_MAX: usize = 254;
/// The longest id that a path may name. Ours have 24 characters.
const ID_MAX: usize = 64;

/// Every route of the area, behind its address. Who isn't let in doesn't reach them: a router that refuses a verb names
/// those that there are, in front of the layers that it has itself.
pub(super) fn routes(app: Arc<AppState>) -> Router<Arc<AppState>> {
    let pages = Router::new()
        .route("/", get(overview::show))
        .route("/users", get(users::list::show))
        .route("/users/{user}", get(users::show::show))
        .route("/users/{user}/{action}", get(users::actions::ask).post(users::actions::submit))
        .route("/caches", get(caches::list::show))
        .route("/caches/{cache}", get(caches::show::show))
        .route("/caches/{cache}/{action}", get(caches::actions::ask).post(caches::actions::submit))
        .route("/proxies", get(proxies::show))
        .route("/plans", get(plans::list::show))
        .route("/plans/new", get(plans::edit::ask_new).post(plans::edit::create))
        .route("/plans/{plan}/edit", get(plans::edit::ask).post(plans::edit::update))
        .route("/plans/{plan}/delete", get(plans::delete::ask).post(plans::delete::submit))
        .route("/denials", get(denials::show))
        .route("/audit", get(audit::show))
        .route("/audit/verify", post(audit::verify))
        .route("/settings", get(settings::show))
        .fallback(|| async { PageError::NotFound })
        .method_not_allowed_fallback(|| async { PageError::MethodNotAllowed })
        .with_state(app.clone());
    Router::new().fallback_service(pages).layer(middleware::from_fn_with_state(app, admin::require_admin))
}

/// A page of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tab {
    Overview,
    Users,
    Caches,
    Proxies,
    Plans,
    Denials,
    Audit,
    Settings,
}

impl Tab {
    const ALL: [Self; 8] = [
        Self::Overview,
        Self::Users,
        Self::Caches,
        Self::Proxies,
        Self::Plans,
        Self::Denials,
        Self::Audit,
        Self::Settings,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Users => "Users",
            Self::Caches => "Caches",
            Self::Proxies => "Proxies",
            Self::Plans => "Plans",
            Self::Denials => "Denials",
            Self::Audit => "Audit log",
            Self::Settings => "Settings",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Overview => PATH,
            Self::Users => "/admin/users",
            Self::Caches => "/admin/caches",
            Self::Proxies => "/admin/proxies",
            Self::Plans => "/admin/plans",
            Self::Denials => "/admin/denials",
            Self::Audit => "/admin/audit",
            Self::Settings => "/admin/settings",
        }
    }

    fn all(self) -> [Self; Self::ALL.len()] {
        Self::ALL
    }
}

/// The address of a user's page.
fn user_path(id: &str) -> String {
    format!("{}/{id}", Tab::Users.path())
}

/// The address of a cache's page.
fn cache_path(id: &str) -> String {
    format!("{}/{id}", Tab::Caches.path())
}

/// An id as a path names it, if there may be such an id.
///
/// # Errors
///
/// [`PageError::NotFound`].
fn plain_id(id: &str) -> Result<&str, PageError> {
    let is_plain = (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain { Ok(id) } else { Err(PageError::NotFound) }
}

/// What was typed to search for, without spaces around it.
///
/// # Errors
///
/// The message, if nothing can have it.
fn search_text(typed: &str) -> Result<&str, String> {
    let text = typed.trim();
    if text.chars().count() > SEARCH_MAX {
        return Err(format!("Search for {SEARCH_MAX} characters or fewer."));
    }
    if text.chars().any(char::is_control) {
        return Err("Search for a text on one line, without control characters.".to_owned());
    }
    Ok(text)
}

/// The rows of a page out of those that were read, one more than it has, and whether there is a page behind it.
fn cut_page<T>(mut rows: Vec<T>) -> (Vec<T>, bool) {
    let has_more = rows.len() > PAGE_ROWS;
    rows.truncate(PAGE_ROWS);
    (rows, has_more)
}

/// How many rows to read for a page, to know whether there are more.
fn rows_to_read() -> i64 {
    i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searched_texts_are_bounded() {
        assert_eq!(search_text("  ada@example "), Ok("ada@example"));
        assert!(search_text(&"x".repeat(254)).is_ok() && search_text(&"x".repeat(255)).is_err());
        assert!(search_text("a\0b").is_err());
    }

    #[test]
    fn ids_are_letters_and_digits() {
        assert!(plain_id("abc123").is_ok());
        for id in ["", "a b", "a%", "a\0", "../x", &"x".repeat(65)] {
            assert!(plain_id(id).is_err(), "{id:?}");
        }
    }
}

//! A user's own page: the cache's state, how to reach it, and its tokens. Where it lives is not on it.

use std::sync::Arc;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use store::{Instance, InstanceState, Leak, Millis, NewToken, TokenRow, UserState};

use super::{Frame, Trouble, render, token};
use crate::date::day;
use crate::denials::RefusalView;
use crate::permissions::{self, LIFETIMES, Limits};
use crate::session::SignedIn;
use crate::snippets::{self, Credentials, Snippet, Tls};
use crate::web::Web;

/// A start that takes longer is said to be slow.
const SLOW_AFTER: Millis = 10_000;
/// How many tokens that are over the page remembers.
const MOST_REVOKED: usize = 20;
/// How many denials the page shows; a token's own page has all that are kept.
const MOST_REFUSALS: usize = 5;
/// The cells of the picture of a memory.
const CELLS: u8 = 32;

#[derive(Template)]
#[template(path = "cache.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    state: StateView,
    endpoint: String,
    /// There are certificates to trust, and so TLS to speak.
    speaks_tls: bool,
    instance: &'a Instance,
    suspended: bool,
    tokens: Vec<TokenView>,
    over: Vec<TokenView>,
    denials: Vec<RefusalView>,
    lifetimes: &'a [(&'a str, &'a str)],
    shown: Option<&'a Shown>,
    typed: &'a Typed,
    snippets: [Snippet; 5],
}

/// A token in a list.
struct TokenView {
    id: String,
    name: String,
    made: String,
    permissions: Vec<String>,
    may_rotate: bool,
    /// How it ended, if it has.
    over: Option<String>,
}

/// A token right after it was made: this once, all of it.
struct Shown {
    name: String,
    token: String,
    credentials: Credentials,
}

/// What is in the form for a new token.
#[derive(Default)]
pub(super) struct Typed {
    pub(super) name: String,
    pub(super) limits: Limits,
    pub(super) wrong: Option<String>,
    pub(super) wrong_limits: Option<String>,
}

/// An instance's state in words; what a page that follows it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StateView {
    /// `pending`, `running`, ...
    state: &'static str,
    title: &'static str,
    detail: String,
    version: Option<String>,
}

pub(crate) async fn show(State(web): State<Arc<Web>>, me: SignedIn) -> Result<Response, Trouble> {
    page(&web, &me, StatusCode::OK, None, &Typed::default()).await
}

/// For pages whose stream was refused.
pub(crate) async fn state(State(web): State<Arc<Web>>, me: SignedIn) -> Result<Json<StateView>, Trouble> {
    let instance = web.store.instance_of(&me.user.id).await?.ok_or(Trouble::NotFound)?;
    Ok(Json(StateView::of(&instance)))
}

/// The page with a token that has just been committed.
pub(super) async fn with_new_token(
    web: &Web,
    me: &SignedIn,
    new: &NewToken,
    name: &str,
) -> Result<Response, Trouble> {
    let credentials =
        Credentials { username: new.token.id().username(), password: new.token.secret().reveal().to_owned() };
    let shown = Shown { name: name.to_owned(), token: new.token.reveal(), credentials };
    page(web, me, StatusCode::OK, Some(&shown), &Typed::default()).await
}

/// The page with what was typed for a new token, and what to change.
pub(super) async fn with_refused_token(
    web: &Web,
    me: &SignedIn,
    status: StatusCode,
    typed: &Typed,
) -> Result<Response, Trouble> {
    page(web, me, status, None, typed).await
}

async fn page(
    web: &Web,
    me: &SignedIn,
    status: StatusCode,
    shown: Option<&Shown>,
    typed: &Typed,
) -> Result<Response, Trouble> {
    let instance = web.store.instance_of(&me.user.id).await?.ok_or(Trouble::NotFound)?;
    let found = web.store.leaks_of(&me.user.id).await?;
    let rows = web.store.tokens_of(&me.user.id).await?;
    let denials = denials(web, me, &rows).await?;
    let (tokens, mut over): (Vec<TokenView>, Vec<TokenView>) =
        rows.into_iter().map(|token| TokenView::of(token, &found)).partition(|token| token.over.is_none());
    over.reverse();
    over.truncate(MOST_REVOKED);
    let as_whom = shown.map_or_else(Credentials::placeholders, |shown| shown.credentials.clone());
    let page = Page {
        frame: Frame::of(me),
        form_token: &me.session.form_token,
        state: StateView::of(&instance),
        endpoint: web.endpoint.to_string(),
        speaks_tls: web.config.ca_certificate.is_some(),
        suspended: me.user.state == UserState::Suspended,
        tokens,
        over,
        denials,
        lifetimes: &LIFETIMES,
        shown,
        typed,
        snippets: snippets::all(&web.endpoint, &as_whom),
        instance: &instance,
    };
    render(status, &page)
}

/// Who was refused lately with any of the tokens.
async fn denials(web: &Web, me: &SignedIn, tokens: &[TokenRow]) -> Result<Vec<RefusalView>, Trouble> {
    let latest = web.store.denials_of_user(&me.user.id).await?.into_iter().take(MOST_REFUSALS);
    let name = |id: &str| tokens.iter().find(|token| token.id == id).map_or("", |token| &token.name);
    Ok(latest
        .map(|denial| {
            let name = name(&denial.token_id);
            RefusalView::of(denial, name)
        })
        .collect())
}

impl Page<'_> {
    /// Whether a page without a script should ask again by itself. Not while a token is on it.
    fn asks_again(&self) -> bool {
        self.shown.is_none() && matches!(self.state.state, "pending" | "restarting")
    }

    fn item_size(&self) -> String {
        in_units(self.instance.item_size_max)
    }

    fn connections(&self) -> String {
        grouped(self.instance.connections)
    }
}

impl TokenView {
    fn of(row: TokenRow, found: &[Leak]) -> Self {
        let over = token::over(&row, found);
        Self {
            permissions: permissions::in_words(&row.permissions),
            may_rotate: row.successor.is_none(),
            id: row.id,
            name: row.name,
            made: day(row.created_at),
            over,
        }
    }
}

impl StateView {
    pub(crate) fn of(instance: &Instance) -> Self {
        let state = instance.state();
        let waiting = store::now().saturating_sub(instance.created_at);
        let message = instance.route.as_ref().and_then(|route| route.message.clone());
        let (title, detail) = words(state, waiting);
        let said =
            matches!(state, InstanceState::Pending | InstanceState::Failed | InstanceState::Restarting);
        Self {
            state: state.as_str(),
            title,
            detail: message.filter(|_| said).unwrap_or_else(|| detail.to_owned()),
            version: instance.route.as_ref().and_then(|route| route.version.clone()),
        }
    }

    fn cells(&self) -> std::ops::Range<u8> {
        0..CELLS
    }
}

fn words(state: InstanceState, waiting: Millis) -> (&'static str, &'static str) {
    match state {
        InstanceState::Pending if waiting > SLOW_AFTER => (
            "Pending",
            "This takes longer than usual. Your account and your tokens are safe; the cache comes up by itself.",
        ),
        InstanceState::Pending => ("Pending", "Your cache is being made. It takes about a second."),
        InstanceState::Running => ("Running", "Ready for your applications."),
        InstanceState::Asleep => ("Asleep", "Nobody used it for a while. It wakes at the next connection."),
        InstanceState::Restarting => {
            ("Restarting", "It is on its way back. Connections stay open meanwhile.")
        }
        InstanceState::Suspended => ("Suspended", "Stopped by the operator of this service."),
        InstanceState::Failed => ("Failed", "It can't be started now. We keep trying."),
        InstanceState::Deleting => ("Deleting", "It is being removed, with everything in it."),
    }
}

/// `1 MB`, `512 KB`, `1,000 bytes`.
fn in_units(bytes: i64) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => format!("{} MB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => format!("{} KB", bytes >> 10),
        _ => format!("{} bytes", grouped(bytes)),
    }
}

/// `20,000`.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(grouped(20_000), "20,000");
        assert_eq!(grouped(999), "999");
        assert_eq!(in_units(1 << 20), "1 MB");
        assert_eq!(in_units(512 << 10), "512 KB");
        assert_eq!(in_units(1000), "1,000 bytes");
    }
}

//! One token: what it may do, and who was refused with it, and why.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use store::{Acknowledged, Leak, Proxy, TokenRow, now};

use super::{Frame, Trouble, leaks, render, tokens};
use crate::date::{ago, day};
use crate::denials::RefusalView;
use crate::permissions;
use crate::session::SignedIn;
use crate::web::Web;

#[derive(Template)]
#[template(path = "token.html")]
struct Page<'a> {
    frame: Frame,
    id: &'a str,
    name: &'a str,
    made: String,
    /// How it ended, if it has.
    over: Option<String>,
    permissions: Vec<String>,
    may_rotate: bool,
    successor: Option<&'a str>,
    denials: Vec<RefusalView>,
    acknowledged: Acknowledged,
}

pub(crate) async fn show(
    State(web): State<Arc<Web>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let (id, token) = tokens::held(&web, &me, &id).await?;
    let denials = web.store.denials_of(&token.id).await?;
    let acknowledged = web.store.acknowledged(&id).await?;
    let over = over(&token, &web.store.leaks_of(&me.user.id).await?);
    let page = Page {
        frame: Frame::of(&me),
        id: &token.id,
        name: &token.name,
        made: day(token.created_at),
        may_rotate: over.is_none() && token.successor.is_none(),
        over,
        permissions: permissions::in_words(&token.permissions),
        successor: token.successor.as_deref(),
        denials: denials.into_iter().map(|it| RefusalView::of(it, &token.name)).collect(),
        acknowledged,
    };
    render(StatusCode::OK, &page)
}

impl Page<'_> {
    fn seen(&self, proxy: &Proxy) -> String {
        ago(now().saturating_sub(proxy.seen_at))
    }
}

/// How a token has ended, if it has; `found` are those of its user that were found in public.
pub(super) fn over(token: &TokenRow, found: &[Leak]) -> Option<String> {
    let leak = found.iter().find(|leak| leak.token_id == token.id);
    match token.revoked_at {
        Some(at) => Some(leak.map_or_else(|| format!("revoked {}", day(at)), leaks::in_words)),
        None if token.is_active(now()) => None,
        None => Some("expired".to_owned()),
    }
}

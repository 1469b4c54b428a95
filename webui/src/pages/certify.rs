//! A token's client certificates: which there are, and one more, shown once.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{CertificateRow, StoreError, TokenId, TokenRow, UserState, now};

use super::{Frame, Trouble, render, retry_after, tokens};
use crate::certificate::{IssueError, Issued};
use crate::csrf::Submitted;
use crate::date::day;
use crate::session::SignedIn;
use crate::web::Web;

#[derive(Template)]
#[template(path = "certify.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    id: &'a str,
    name: &'a str,
    made: String,
    certificates: Vec<View>,
    endpoint: String,
    /// There is a certificate for clients to trust.
    speaks_tls: bool,
    shown: Option<&'a Issued>,
    /// What is in the form, and what to change.
    request: &'a str,
    wrong: Option<String>,
}

/// A certificate in the list.
struct View {
    fingerprint: String,
    made: String,
    end: String,
    is_over: bool,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    request: String,
}

/// What is on the page besides the token.
#[derive(Default)]
struct Content<'a> {
    shown: Option<&'a Issued>,
    request: &'a str,
    wrong: Option<String>,
}

pub(crate) async fn show(
    State(web): State<Arc<Web>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let (id, token) = own(&web, &me, &id).await?;
    page(&web, &me, (id, &token), StatusCode::OK, Content::default()).await
}

pub(crate) async fn submit(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Submitted { sender: me, fields }: Submitted<SignedIn, Fields>,
) -> Result<Response, Trouble> {
    let (id, token) = own(&web, &me, &id).await?;
    let request = fields.request.trim();
    let refuse = async |status, wrong: String| {
        page(&web, &me, (id, &token), status, Content { shown: None, request, wrong: Some(wrong) }).await
    };
    if me.user.state == UserState::Suspended {
        return refuse(StatusCode::FORBIDDEN, tokens::SUSPENDED.into()).await;
    }
    if let Err((wait, wrong)) = tokens::take_one(&web, &me) {
        let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, wrong).await?;
        retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    let issued = match Issued::new(id, token.permissions.expires_at, (!request.is_empty()).then_some(request))
    {
        Ok(issued) => issued,
        Err(IssueError::Request(_)) => {
            let wrong = "That is no certificate request. Paste one in PEM with a new key: RSA from 2048 bits on, \
                         P-256, P-384 or Ed25519.";
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, wrong.into()).await;
        }
        Err(IssueError::Failed(error)) => {
            tracing::error!(%error, "can't make a certificate");
            return Err(Trouble::Internal);
        }
    };
    match me.store(&web).add_certificate(&id, issued.fingerprint, issued.not_after).await {
        Ok(()) => {
            let content = Content { shown: Some(&issued), ..Content::default() };
            page(&web, &me, (id, &token), StatusCode::OK, content).await
        }
        Err(StoreError::LimitReached(_)) => {
            let wrong = "This token has as many certificates as a token may have. Make another token.";
            refuse(StatusCode::CONFLICT, wrong.into()).await
        }
        // It has ended meanwhile.
        Err(StoreError::NotFound(_)) => Err(Trouble::NotFound),
        Err(error) => Err(error.into()),
    }
}

/// A token of this very user that is still good.
async fn own(web: &Web, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), Trouble> {
    let (id, token) = tokens::own(web, me, id).await?;
    if token.is_active(now()) { Ok((id, token)) } else { Err(Trouble::NotFound) }
}

async fn page(
    web: &Web,
    me: &SignedIn,
    (id, token): (TokenId, &TokenRow),
    status: StatusCode,
    content: Content<'_>,
) -> Result<Response, Trouble> {
    let Content { shown, request, wrong } = content;
    let certificates = web.store.certificates_of(&id).await?.into_iter().map(View::of).collect();
    let page = Page {
        frame: Frame::of(me),
        form_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        made: day(token.created_at),
        certificates,
        endpoint: web.endpoint.to_string(),
        speaks_tls: web.config.ca_certificate.is_some(),
        shown,
        request,
        wrong,
    };
    render(status, &page)
}

impl View {
    fn of(row: CertificateRow) -> Self {
        let is_over = !row.is_current(now());
        let (made, end) = (day(row.created_at), day(row.not_after));
        Self { fingerprint: row.fingerprint, made, end, is_over }
    }
}

//! A token's client certificates: the list, and a form that issues one. Its private key is shown once.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use identity::certificate::IssuedCertificate;
use serde::Deserialize;
use store::{CertificateRow, TokenId, TokenRow, now};

use super::find_unrevoked;
use crate::actions::{self, ActionError};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::pages::caches::{Tab, path_of};
use crate::state::AppState;
use crate::view::date::{day, minute_of};

#[derive(Template)]
#[template(path = "tokens/certificates.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    id: &'a str,
    name: &'a str,
    created: String,
    tokens_path: String,
    certificates: Vec<CertificateView>,
    endpoint: String,
    /// Whether the endpoint speaks TLS, with a CA certificate to download.
    has_tls: bool,
    issued: Option<&'a IssuedCertificate>,
    request: &'a str,
    error: Option<String>,
}

/// A certificate in the list.
struct CertificateView {
    fingerprint: String,
    created: String,
    not_after: String,
    is_expired: bool,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    /// Certificate request in PEM; empty to have a key generated.
    #[serde(default)]
    request: String,
}

/// A new certificate, or the form's value with an error.
#[derive(Default)]
struct Content<'a> {
    issued: Option<&'a IssuedCertificate>,
    request: &'a str,
    error: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let (id, token) = find_active(&app, &me, &id).await?;
    page(&app, &me, (id, &token), StatusCode::OK, Content::default()).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let (id, token) = find_active(&app, &me, &id).await?;
    let request = fields.request.trim();
    let reject = async |status, error: String| {
        page(&app, &me, (id, &token), status, Content { issued: None, request, error: Some(error) }).await
    };
    let request_pem = (!request.is_empty()).then_some(request);
    match actions::tokens::certify(&app, &me.user, &token, request_pem).await {
        Ok(issued) => {
            let content = Content { issued: Some(&issued), ..Content::default() };
            page(&app, &me, (id, &token), StatusCode::OK, content).await
        }
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), refusal.message.clone()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// The user's token with this id, if it is active.
async fn find_active(app: &AppState, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), PageError> {
    let (id, token) = find_unrevoked(app, me, id).await?;
    if token.is_active(now()) { Ok((id, token)) } else { Err(PageError::NotFound) }
}

async fn page(
    app: &AppState,
    me: &SignedIn,
    (id, token): (TokenId, &TokenRow),
    status: StatusCode,
    content: Content<'_>,
) -> Result<Response, PageError> {
    let Content { issued, request, error } = content;
    let certificates = app.store.certificates_of(&id).await?.into_iter().map(CertificateView::new).collect();
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        created: day(token.created_at),
        tokens_path: path_of(&token.cache_id, Tab::Tokens),
        certificates,
        endpoint: app.endpoint.to_string(),
        has_tls: app.config.ca_certificate.is_some(),
        issued,
        request,
        error,
    };
    render(status, &page)
}

impl CertificateView {
    fn new(row: CertificateRow) -> Self {
        let is_expired = !row.is_valid_at(now());
        let (created, not_after) = (day(row.created_at), minute_of(row.not_after));
        Self { fingerprint: row.fingerprint, created, not_after, is_expired }
    }
}

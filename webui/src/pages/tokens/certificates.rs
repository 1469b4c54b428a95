//! A token's client certificates: the list, and a form that issues one. Its private key is shown once.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::CertificateName;
use identity::certificate::IssuedCertificate;
use serde::Deserialize;
use store::{CertificateRow, Fingerprint, TokenId, TokenRow, now};

use super::find_unrevoked;
use crate::actions::{self, ActionError, Cause, Refusal};
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
    form: Form<'a>,
    /// After one was revoked.
    revoked: bool,
}

/// A certificate in the list.
struct CertificateView {
    name: String,
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
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
pub(crate) struct RevokeFields {
    #[serde(default)]
    fingerprint: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    revoked: Option<String>,
}

/// The form's values, with an error.
#[derive(Default)]
struct Form<'a> {
    name: &'a str,
    name_error: Option<String>,
    request: &'a str,
    request_error: Option<String>,
    /// About neither.
    error: Option<String>,
}

/// What depends on the request before the page.
#[derive(Default)]
struct Content<'a> {
    issued: Option<&'a IssuedCertificate>,
    form: Form<'a>,
    revoked: bool,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let (id, token) = find_active(&app, &me, &id).await?;
    let revoked = params.is_ok_and(|params| params.revoked.is_some());
    page(&app, &me, (id, &token), StatusCode::OK, Content { revoked, ..Content::default() }).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let (id, token) = find_active(&app, &me, &id).await?;
    let Fields { request, name: typed } = &fields;
    let request = request.trim();
    let answer = async |status, form: Form<'_>| {
        let form = Form { name: typed, request, ..form };
        page(&app, &me, (id, &token), status, Content { form, ..Content::default() }).await
    };
    let reject =
        async |status, error: String| answer(status, Form { error: Some(error), ..Form::default() }).await;
    let name = match CertificateName::parse(typed) {
        Ok(name) => name,
        Err(error) => {
            let form = Form { name_error: Some(error.to_string()), ..Form::default() };
            return answer(StatusCode::UNPROCESSABLE_ENTITY, form).await;
        }
    };
    let request_pem = (!request.is_empty()).then_some(request);
    match actions::tokens::certify(&app, &me.user, &token, request_pem, &name).await {
        Ok(issued) => {
            let content = Content { issued: Some(&issued), ..Content::default() };
            page(&app, &me, (id, &token), StatusCode::OK, content).await
        }
        Err(ActionError::Refused(Refusal { cause: Cause::Invalid(_), message })) => {
            let form = Form { request_error: Some(message), ..Form::default() };
            answer(StatusCode::UNPROCESSABLE_ENTITY, form).await
        }
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), refusal.message.clone()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// Revokes one certificate. The token and its other certificates stay.
pub(crate) async fn revoke(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, RevokeFields>,
) -> Result<Response, PageError> {
    let (id, token) = find_active(&app, &me, &id).await?;
    let fingerprint: Fingerprint = fields.fingerprint.parse().map_err(|_| PageError::NotFound)?;
    actions::tokens::revoke_certificate(&app, &me.user, &id, fingerprint).await?;
    Ok(Redirect::to(&format!("/tokens/{}/certificates?revoked", token.id)).into_response())
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
    let Content { issued, form, revoked } = content;
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
        form,
        revoked,
    };
    render(status, &page)
}

impl CertificateView {
    fn new(row: CertificateRow) -> Self {
        let is_expired = !row.is_valid_at(now());
        let (created, not_after) = (day(row.created_at), minute_of(row.not_after));
        Self { name: row.name, fingerprint: row.fingerprint, created, not_after, is_expired }
    }
}

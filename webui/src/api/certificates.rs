//! Client certificates of a token: list, issue for a new key or for that of a request, revoke.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use identity::CertificateName;
use serde::{Deserialize, Serialize};
use store::{CertificateRow, Fingerprint, now};
use utoipa::ToSchema;

use super::auth::{Principal, Read, Tokens};
use super::body::{Body, Ids, Parameters};
use super::idempotency::{self, CreationStart, repeated};
use super::paging::{Page, PageParameters, key_of};
use super::problem::{BodyErrors, ChangeErrors, Problem, ReadErrors};
use super::tokens::require_active;
use super::value::{DateTime, created};
use crate::actions;
use crate::state::AppState;

/// A client certificate.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Certificate)]
pub(super) struct CertificateView {
    /// SHA-256 of its DER: 64 hexadecimal digits.
    fingerprint: String,
    /// What its user calls it; may be empty.
    name: String,
    /// The token that it stands for.
    token_id: String,
    /// Whether it has expired or was revoked.
    ended: bool,
    created_at: DateTime,
    /// It is refused from this time on.
    not_after: DateTime,
}

/// A certificate that was just issued.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IssuedCertificate)]
pub(super) struct IssuedView {
    #[serde(flatten)]
    row: CertificateView,
    /// PEM, in the first answer only; `null` in an answer to the same request sent again.
    certificate: Option<String>,
    /// The private key in PEM, likewise; `null` if it was issued for a request.
    private_key: Option<String>,
    /// Whether the answer has the certificate. If not, and it was lost, revoke it and have another one issued.
    has_secret: bool,
}

/// A certificate to issue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCertificate)]
pub(super) struct NewCertificateFields {
    /// A certificate request in PEM, whose key it is for: RSA with at least 2048 bits, P-256, P-384 or Ed25519. A key is
    /// made without it.
    #[serde(default)]
    request: Option<String>,
    /// What to call it: at most 60 characters.
    #[serde(default)]
    #[schema(max_length = 60)]
    name: Option<String>,
}

/// Lists the certificates of a token, the oldest first
#[utoipa::path(get, path = "/tokens/{token}/certificates", tag = "Certificates", operation_id = "listCertificates",
    params(("token" = String, Path, description = "The token's id"), PageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of certificates", body = Page<CertificateView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<CertificateView>>, Problem> {
    let position = parameters.position()?;
    let (id, _) = actions::tokens::find(&app, &caller.user, &id).await?;
    let certificates = app.store.certificates_of(&id).await?;
    let key = |it: &CertificateRow| key_of(it.created_at, &it.fingerprint);
    Ok(Json(position.page(certificates, key, CertificateView::new)))
}

/// Issues a certificate for an active token. The answer has it, and its private key, once
#[utoipa::path(post, path = "/tokens/{token}/certificates", tag = "Certificates", operation_id = "createCertificate",
    params(("token" = String, Path, description = "The token's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NewCertificateFields, security(("api_key" = ["tokens"])),
    responses((status = 201, description = "It is issued", body = IssuedView,
            headers(("Location" = String, description = "The certificate"))),
        (status = 200, description = "It was issued before, with the same Idempotency-Key; without certificate and key", body = IssuedView),
        BodyErrors))]
pub(super) async fn create(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids(id): Ids<String>,
    body: Body<NewCertificateFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let (id, token) = actions::tokens::find(&app, user, &id).await?;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(fingerprint) => {
            let row = find(&app, &id, &fingerprint).await?;
            let row = CertificateView::new(row);
            let body = IssuedView { row, certificate: None, private_key: None, has_secret: false };
            return Ok(repeated(Json(body).into_response()));
        }
    };
    let issue = async {
        require_active(&token)?;
        let name = body.fields.name.as_deref().unwrap_or_default();
        let name = CertificateName::parse(name).map_err(|error| Problem::field("name", error.to_string()))?;
        let request = body.fields.request.as_deref().map(str::trim);
        let issued = actions::tokens::certify(&app, user, &token, request, &name).await?;
        Ok((issued.fingerprint.to_string(), issued))
    };
    let issued = issue.await;
    let issued = creation.end(&app, issued).await?;
    let fingerprint = issued.fingerprint.to_string();
    let row = CertificateView::new(find(&app, &id, &fingerprint).await?);
    let body =
        IssuedView { row, certificate: Some(issued.certificate), private_key: issued.key, has_secret: true };
    let path = format!("/tokens/{id}/certificates/{fingerprint}");
    Ok(created(StatusCode::CREATED, &path, &body))
}

/// Shows a certificate
#[utoipa::path(get, path = "/tokens/{token}/certificates/{fingerprint}", tag = "Certificates", operation_id = "getCertificate",
    params(("token" = String, Path, description = "The token's id"),
        ("fingerprint" = String, Path, description = "The certificate's fingerprint")),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "The certificate", body = CertificateView), ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids((token, fingerprint)): Ids<(String, String)>,
) -> Result<Json<CertificateView>, Problem> {
    let (id, _) = actions::tokens::find(&app, &caller.user, &token).await?;
    Ok(Json(CertificateView::new(find(&app, &id, &fingerprint).await?)))
}

/// Revokes a certificate: the connections that it has authenticated are closed within a second
#[utoipa::path(delete, path = "/tokens/{token}/certificates/{fingerprint}", tag = "Certificates", operation_id = "revokeCertificate",
    params(("token" = String, Path, description = "The token's id"),
        ("fingerprint" = String, Path, description = "The certificate's fingerprint")),
    security(("api_key" = ["tokens"])),
    responses((status = 204, description = "It is revoked, now or before"), ChangeErrors))]
pub(super) async fn revoke(
    State(app): State<Arc<AppState>>,
    caller: Principal<Tokens>,
    Ids((token, fingerprint)): Ids<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (id, _) = actions::tokens::find(&app, &caller.user, &token).await?;
    let row = find(&app, &id, &fingerprint).await?;
    let fingerprint: Fingerprint = row.fingerprint.parse().map_err(|_| Problem::not_found())?;
    actions::tokens::revoke_certificate(&app, &caller.user, &id, fingerprint).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &AppState, id: &store::TokenId, fingerprint: &str) -> Result<CertificateRow, Problem> {
    let certificates = app.store.certificates_of(id).await?;
    certificates.into_iter().find(|row| row.fingerprint == fingerprint).ok_or_else(Problem::not_found)
}

impl CertificateView {
    fn new(row: CertificateRow) -> Self {
        Self {
            ended: !row.is_valid_at(now()),
            created_at: DateTime(row.created_at),
            not_after: DateTime(row.not_after),
            fingerprint: row.fingerprint,
            name: row.name,
            token_id: row.token,
        }
    }
}

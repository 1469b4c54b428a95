//! Tokens as commands print them.

use serde::Serialize;
use store::{CertificateRow, DenialRecord, Leak, Propagation, Store, Timestamp, TokenRow, now};

use super::certificate::{self, ShownCertificate};
use super::credentials::Credentials;
use super::{denials, no_such_token, parse_id, permissions, propagation};
use crate::output::CliError;
use crate::output::table::{self, table};
use crate::output::time;

/// A token with everything that the store knows about it.
#[derive(Debug, Serialize)]
pub(super) struct TokenView {
    email: String,
    #[serde(flatten)]
    token: TokenRow,
    certificates: Vec<CertificateRow>,
    /// Recent denied logins and requests.
    denials: Vec<DenialRecord>,
    /// The report of a public leak, if the token was revoked because of it.
    leak: Option<Leak>,
    /// Which proxies have applied the last change.
    propagation: Propagation,
}

/// A new token, and its certificate if one was issued.
#[derive(Serialize)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    pub(super) credentials: Credentials,
    #[serde(flatten)]
    pub(super) certificate: Option<ShownCertificate>,
}

/// A new token and the one that it replaces.
#[derive(Serialize)]
pub(super) struct RotatedToken {
    #[serde(flatten)]
    pub(super) credentials: Credentials,
    pub(super) replaces: TokenRow,
}

/// A revoked token, and the proxies that have closed its connections.
#[derive(Debug, Serialize)]
pub(super) struct RevokedToken {
    #[serde(flatten)]
    pub(super) token: TokenRow,
    pub(super) propagation: Propagation,
}

/// A revoked certificate, and the proxies that have closed its connections.
#[derive(Debug, Serialize)]
pub(super) struct RevokedCertificate {
    /// The token's.
    pub(super) id: String,
    pub(super) fingerprint: String,
    pub(super) propagation: Propagation,
}

impl TokenView {
    pub(super) async fn read(store: &Store, token: TokenRow) -> Result<Self, CliError> {
        let user = store.user(&token.user_id).await?.ok_or_else(no_such_token)?;
        let id = parse_id(&token.id)?;
        let leaks = store.leaks_of(&user.id).await?;
        Ok(Self {
            certificates: store.certificates_of(&id).await?,
            denials: store.denials_of(&token.id).await?,
            leak: leaks.into_iter().find(|leak| leak.token_id == token.id),
            propagation: store.propagation(&id).await?,
            email: user.email,
            token,
        })
    }

    pub(super) fn text(&self) -> String {
        let token = &self.token;
        let mut pairs = vec![
            ("id", token.id.clone()),
            ("name", token.name.clone()),
            ("email", self.email.clone()),
            ("cache", token.cache.clone()),
            ("username", format!("mg_{}", token.id)),
            ("created", time::past(token.created_at)),
            (
                "last used",
                last_use(token).map_or("never".to_owned(), |(at, from)| format!("{}{from}", time::past(at))),
            ),
            ("state", permissions::state_with_moment(token, now())),
        ];
        pairs.extend(permissions::pairs(&token.permissions));
        pairs.extend(self.leak.as_ref().map(|leak| ("leaked", leak_text(leak))));
        pairs.extend(token.successor.as_ref().map(|id| ("successor", format!("mg_{id}"))));
        pairs.extend(certificate::pairs(&self.certificates));
        pairs.push(("applied by", propagation::text(&self.propagation)));
        format!("{}{}", table::pairs(&pairs), denials::text(&self.denials))
    }
}

impl CreatedToken {
    pub(super) fn text(&self) -> String {
        let certificate = self.certificate.as_ref().map(ShownCertificate::text);
        format!("{}{}", secret_text(&self.credentials), certificate.unwrap_or_default())
    }
}

impl RotatedToken {
    pub(super) fn text(&self) -> String {
        let old = &self.replaces;
        let state = permissions::state_with_moment(old, now());
        format!("{}The old token, mg_{}: {state}\n", secret_text(&self.credentials), old.id)
    }
}

impl RevokedToken {
    pub(super) fn text(&self) -> String {
        let proxies = propagation::text(&self.propagation);
        format!("{} is revoked\napplied by {proxies}\n", self.token.id)
    }
}

impl RevokedCertificate {
    pub(super) fn text(&self) -> String {
        let proxies = propagation::text(&self.propagation);
        format!("the certificate {} of mg_{} is revoked\napplied by {proxies}\n", self.fingerprint, self.id)
    }
}

/// Formats tokens as a table.
pub(crate) fn rows(tokens: &[TokenRow]) -> String {
    let row = |token: &TokenRow| {
        let keys = permissions::keys(&token.permissions);
        let (created, state) = (table::time_since(token.created_at), permissions::state(token, now()));
        let (cache, name) = (token.cache.clone(), token.name.clone());
        let used = last_use(token)
            .map_or("never".to_owned(), |(at, from)| format!("{}{from}", table::time_since(at)));
        [token.id.clone(), name, cache, token.permissions.scopes.to_string(), keys, created, used, state]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table(["ID", "NAME", "CACHE", "SCOPES", "KEYS", "CREATED", "LAST USED", "STATE"], &rows)
}

/// When a token was last used, and ` from` which address.
fn last_use(token: &TokenRow) -> Option<(Timestamp, String)> {
    let from = token.last_used_from.as_ref().map(|source| format!(" from {source}"));
    Some((token.last_used_at?, from.unwrap_or_default()))
}

fn secret_text(credentials: &Credentials) -> String {
    format!("{}\nSave the token now: it is not shown again.\n", table::pairs(&credentials.pairs()))
}

fn leak_text(leak: &Leak) -> String {
    let url = if leak.url.is_empty() { "at an unknown place" } else { &leak.url };
    format!("{url}, revoked {}", time::past(leak.at))
}

//! Client certificates of tokens: issues them, and shows them once or writes them to files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use identity::certificate::{IssueError, IssuedCertificate};
use identity::{CertificateName, escape_controls};
use serde::Serialize;
use store::{CertificateRow, Fingerprint, Store, StoreError, Timestamp, TokenId, now};

use crate::output::{CliError, table, time};

/// Bytes. Far more than any certificate request has.
const REQUEST_MAX: u64 = 64 * 1024;

/// Digits of a fingerprint that name a certificate of a token.
const START_LEN_MIN: usize = 6;

/// Options of the commands that issue a certificate.
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// Certify the key of this certificate request (PEM) instead of generating one
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Write mg_ID.pem and mg_ID.key to this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    certificate_out: Option<PathBuf>,
    /// What to call the certificate, such as the machine that uses it
    #[arg(long, value_name = "NAME")]
    certificate_name: Option<String>,
}

/// A new certificate: its PEM text, or the files that contain it. No `Debug`: that would print the
/// private key.
#[derive(Serialize)]
pub(super) struct ShownCertificate {
    fingerprint: String,
    #[serde(rename = "certificate_name", skip_serializing_if = "String::is_empty")]
    name: String,
    certificate_not_after: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    #[serde(skip)]
    parsed_fingerprint: Fingerprint,
}

impl From<IssueError> for CliError {
    fn from(error: IssueError) -> Self {
        Self::from_error(&error)
    }
}

impl IssueArgs {
    /// Whether an option was given.
    pub(super) fn is_given(&self) -> bool {
        self.csr.is_some() || self.certificate_out.is_some() || self.certificate_name.is_some()
    }

    /// Issues the certificate and writes its files, before the store knows about it.
    ///
    /// # Errors
    /// If the request or the name is invalid or a file can't be written.
    pub(super) fn issue(
        &self,
        token: TokenId,
        expires_at: Option<Timestamp>,
    ) -> Result<ShownCertificate, CliError> {
        let name = self.certificate_name.as_deref().map(CertificateName::parse).transpose();
        let name = name.map_err(|error| CliError::from_error(&error))?.unwrap_or_default();
        let request = self.csr.as_deref().map(read_request).transpose()?;
        let issued = IssuedCertificate::new(token, expires_at, request.as_deref())?;
        let mut shown = ShownCertificate {
            fingerprint: issued.fingerprint.to_string(),
            name: name.as_str().to_owned(),
            certificate_not_after: issued.not_after,
            certificate: Some(issued.certificate),
            certificate_key: issued.key,
            certificate_file: None,
            key_file: None,
            parsed_fingerprint: issued.fingerprint,
        };
        if let Some(dir) = &self.certificate_out {
            shown.write(dir, &token.username())?;
        }
        Ok(shown)
    }
}

impl ShownCertificate {
    /// Saves the fingerprint in the store, from where the proxies read it.
    ///
    /// # Errors
    /// If the token is revoked, expired or has too many certificates.
    pub(super) async fn save(&self, store: &Store, token: &TokenId) -> Result<(), CliError> {
        let saved = store
            .add_certificate(token, self.parsed_fingerprint, self.certificate_not_after, &self.name)
            .await;
        if saved.is_err() {
            // The proxies will never accept this certificate.
            for file in self.key_file.iter().chain(&self.certificate_file) {
                let _ = fs::remove_file(file);
            }
        }
        saved.map_err(|error| match error {
            StoreError::LimitReached(_) => CliError::new(
                format!("{} has reached the limit of certificates per token", token.username()),
                "revoke one with `memgate token revoke ID --certificate FINGERPRINT`, or create another token",
            ),
            StoreError::NotFound(_) => CliError::new(
                format!("{} is no longer active", token.username()),
                "create a new token with `memgate token create --certificate`",
            ),
            error => error.into(),
        })
    }

    fn write(&mut self, dir: &Path, name: &str) -> Result<(), CliError> {
        fs::create_dir_all(dir).map_err(|error| write_error(dir, &error))?;
        let path = |suffix: &str| dir.join(format!("{name}.{suffix}"));
        if let Some(key) = self.certificate_key.take() {
            self.key_file = Some(write_new(path("key"), &key, 0o600)?);
        }
        if let Some(certificate) = self.certificate.take() {
            self.certificate_file = Some(write_new(path("pem"), &certificate, 0o644)?);
        }
        Ok(())
    }

    /// Formats the certificate for people.
    pub(super) fn text(&self) -> String {
        let path = |path: &PathBuf| path.display().to_string();
        let mut pairs = vec![
            ("certificate", named(&self.fingerprint, &self.name)),
            ("expires", format!("{}, or with its token", time::future(self.certificate_not_after))),
        ];
        pairs.extend(self.certificate_file.as_ref().map(|file| ("file", path(file))));
        pairs.extend(self.key_file.as_ref().map(|file| ("key", path(file))));
        let pems = self.certificate.iter().chain(&self.certificate_key).map(String::as_str);
        format!("{}{}", table::pairs(&pairs), pems.collect::<String>())
    }
}

/// Revokes the valid certificate of a token whose fingerprint begins with `start`. Returns its fingerprint.
///
/// # Errors
/// If there is none, or more than one.
pub(super) async fn revoke(store: &Store, token: &TokenId, start: &str) -> Result<String, CliError> {
    let start = start.to_ascii_lowercase();
    if start.len() < START_LEN_MIN {
        let fix = format!("give at least the first {START_LEN_MIN} digits");
        return Err(CliError::usage(format!("the fingerprint {start} is too short"), fix));
    }
    let certificates = store.certificates_of(token).await?;
    let is_meant = |row: &&CertificateRow| row.is_valid_at(now()) && row.fingerprint.starts_with(&start);
    let fix = format!("`memgate token show {}` lists them", token.username());
    let meant: Vec<&CertificateRow> = certificates.iter().filter(is_meant).collect();
    let [row] = meant[..] else {
        let what = if meant.is_empty() { "no valid certificate" } else { "more than one certificate" };
        return Err(CliError::new(format!("{} has {what} {start}...", token.username()), fix));
    };
    let fingerprint = row.fingerprint.parse().map_err(|_| StoreError::Corrupt("fingerprint"))?;
    store.revoke_certificate(token, fingerprint).await?;
    Ok(row.fingerprint.clone())
}

/// One line for each certificate of a token.
pub(super) fn pairs(certificates: &[CertificateRow]) -> Vec<(&'static str, String)> {
    let line = |row: &CertificateRow| {
        let expiry = if row.is_valid_at(now()) {
            format!("expires {}", time::future(row.not_after))
        } else {
            format!("expired {}", time::past(row.not_after))
        };
        ("certificate", format!("{} ({expiry})", named(&row.fingerprint, &row.name)))
    };
    certificates.iter().map(line).collect()
}

/// A fingerprint, behind the certificate's name if it has one.
fn named(fingerprint: &str, name: &str) -> String {
    if name.is_empty() { fingerprint.to_owned() } else { format!("{}: {fingerprint}", escape_controls(name)) }
}

fn read_request(file: &Path) -> Result<String, CliError> {
    let fix = "name a file with a certificate request in PEM";
    let read_error = |what: String| CliError::new(format!("can't read {} ({what})", file.display()), fix);
    let length = fs::metadata(file).map_err(|error| read_error(error.to_string()))?.len();
    if length > REQUEST_MAX {
        return Err(read_error(format!("longer than {REQUEST_MAX} bytes")));
    }
    fs::read_to_string(file).map_err(|error| read_error(error.to_string()))
}

/// Writes a new file; never overwrites one.
fn write_new(file: PathBuf, text: &str, mode: u32) -> Result<PathBuf, CliError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(|error| write_error(&file, &error))?;
    Ok(file)
}

fn write_error(path: &Path, error: &std::io::Error) -> CliError {
    let what = format!("can't write {} ({error})", path.display());
    CliError::new(what, "name another directory with --certificate-out DIR")
}

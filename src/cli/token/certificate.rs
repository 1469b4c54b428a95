//! Client certificates on the command line: issued for a token, and shown once or written to files.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use store::{CertificateRow, Fingerprint, Millis, Store, StoreError, TokenId, now};
use webui::certificate::{IssueError, Issued};

use crate::output::CliError;
use crate::output::table;

/// Far above the longest certificate request.
const LONGEST_REQUEST: u64 = 64 * 1024;

/// The options of whatever issues one.
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// For the key of this certificate request (PEM), instead of one that is made here
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// Write mg_ID.pem and mg_ID.key to this folder instead of printing them
    #[arg(long, value_name = "DIR")]
    certificate_out: Option<PathBuf>,
}

/// A certificate on its way to its owner.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    fingerprint: String,
    certificate_not_after: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<PathBuf>,
    #[serde(skip)]
    kept_as: Fingerprint,
}

impl From<IssueError> for CliError {
    fn from(error: IssueError) -> Self {
        Self::from_error(&error)
    }
}

impl IssueArgs {
    /// Whether anything was said.
    pub(super) fn is_wanted(&self) -> bool {
        self.csr.is_some() || self.certificate_out.is_some()
    }

    /// Makes it, and writes it if it is to be written: what can fail does so before the store knows of it.
    pub(super) fn make(&self, token: TokenId, expires_at: Option<Millis>) -> Result<Shown, CliError> {
        let request = self.csr.as_deref().map(read).transpose()?;
        let issued = Issued::new(token, expires_at, request.as_deref())?;
        let mut shown = Shown {
            fingerprint: issued.fingerprint.to_string(),
            certificate_not_after: issued.not_after,
            certificate: Some(issued.certificate),
            certificate_key: issued.key,
            certificate_file: None,
            key_file: None,
            kept_as: issued.fingerprint,
        };
        if let Some(folder) = &self.certificate_out {
            shown.write(folder, &token.username())?;
        }
        Ok(shown)
    }
}

impl Shown {
    /// Tells the store, and so the proxies.
    pub(super) async fn keep(&self, store: &Store, token: &TokenId) -> Result<(), CliError> {
        let kept = store.add_certificate(token, self.kept_as, self.certificate_not_after).await;
        if kept.is_err() {
            // Nobody knows it: it would only mislead.
            for file in self.key_file.iter().chain(&self.certificate_file) {
                let _ = fs::remove_file(file);
            }
        }
        kept.map_err(|error| match error {
            StoreError::LimitReached(_) => CliError::new(
                format!("{} has as many certificates as a token may have", token.username()),
                "make another token with memgate token create --certificate",
            ),
            StoreError::NotFound(_) => CliError::new(
                format!("{} is over", token.username()),
                "make a new token with memgate token create --certificate",
            ),
            error => error.into(),
        })
    }

    fn write(&mut self, folder: &Path, name: &str) -> Result<(), CliError> {
        fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        let place = |end: &str| folder.join(format!("{name}.{end}"));
        if let Some(key) = self.certificate_key.take() {
            self.key_file = Some(write(place("key"), &key, 0o600)?);
        }
        if let Some(certificate) = self.certificate.take() {
            self.certificate_file = Some(write(place("pem"), &certificate, 0o644)?);
        }
        Ok(())
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let path = |path: &PathBuf| path.display().to_string();
        let mut pairs = vec![
            ("certificate", self.fingerprint.clone()),
            ("good", format!("it ends {}, or with its token", table::ahead(self.certificate_not_after))),
        ];
        pairs.extend(self.certificate_file.as_ref().map(|file| ("file", path(file))));
        pairs.extend(self.key_file.as_ref().map(|file| ("key", path(file))));
        let pems = self.certificate.iter().chain(&self.certificate_key).map(String::as_str);
        format!("{}{}", table::pairs(&pairs), pems.collect::<String>())
    }
}

/// A line for each certificate of a token.
pub(super) fn pairs(certificates: &[CertificateRow]) -> Vec<(&'static str, String)> {
    let line = |row: &CertificateRow| {
        let end = if row.is_current(now()) {
            format!("ends {}", table::ahead(row.not_after))
        } else {
            format!("expired {}", table::ago(row.not_after))
        };
        ("certificate", format!("{} ({end})", row.fingerprint))
    };
    certificates.iter().map(line).collect()
}

fn read(file: &Path) -> Result<String, CliError> {
    let fix = "name a file that holds a certificate request in PEM";
    let refused = |what: String| CliError::new(format!("can't read {} ({what})", file.display()), fix);
    let length = fs::metadata(file).map_err(|error| refused(error.to_string()))?.len();
    if length > LONGEST_REQUEST {
        return Err(refused("it is too long".to_owned()));
    }
    fs::read_to_string(file).map_err(|error| refused(error.to_string()))
}

/// Never over something that is there.
fn write(file: PathBuf, text: &str, mode: u32) -> Result<PathBuf, CliError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(|error| unwritable(&file, &error))?;
    Ok(file)
}

fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    let what = format!("can't write {} ({error})", path.display());
    CliError::new(what, "name another folder with --certificate-out DIR")
}

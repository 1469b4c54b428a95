//! The installation's certificate authority and the proxy's server certificate.
//!
//! `memgate up` creates both unless the settings name another certificate. Clients trust `ca.pem` once; the
//! server certificate is issued at every start and renewed long before it expires. The authority vouches for the
//! names of this installation only (`ca/constraints.rs`).

mod constraints;

use std::convert::Infallible;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use time::OffsetDateTime;

use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::SystemUsers;
use crate::system_users::set_owner;
use constraints::{PermittedNames, is_well_formed};

pub(crate) const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
pub(crate) const SERVER: &str = "server.pem";
pub(crate) const SERVER_KEY: &str = "server.key";
/// All files of this module in the data directory.
pub(crate) const FILES: [&str; 4] = [CA, CA_KEY, SERVER, SERVER_KEY];

const CA_DAYS: i64 = 3650;
const SERVER_DAYS: i64 = 397;
/// Between two renewals of the server certificate. The proxy reloads it by itself.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Certificates are valid from this long before their creation: clocks differ.
const CLOCK_SKEW: time::Duration = time::Duration::days(1);

/// Whether the proxy needs a certificate from this authority: the settings name no other.
pub(crate) fn is_needed(settings: &Settings) -> bool {
    settings.proxy.tls_certificate.is_none() && settings.proxy.tls_key.is_none()
}

/// Creates the authority if it doesn't exist, and issues a new server certificate.
///
/// # Errors
/// If a key or certificate can't be read, created or written.
pub(crate) fn issue_server_certificate(
    data_dir: &Path,
    settings: &Settings,
    system_users: Option<&SystemUsers>,
) -> Result<(), CliError> {
    let (authority, permitted) = load_or_create_authority(data_dir, settings)?;
    let key = KeyPair::generate().map_err(certificate_error)?;
    let (names, others): (Vec<_>, Vec<_>) =
        subject_names(settings).into_iter().partition(|name| permitted.contains(name));
    if !others.is_empty() {
        let names = others.join(", ");
        tracing::warn!(
            names,
            "not in the server certificate: ca.pem doesn't permit it. To add it, delete ca.pem, start again and let clients trust the new ca.pem"
        );
    }
    let mut params = CertificateParams::new(names).map_err(certificate_error)?;
    params.distinguished_name.push(DnType::CommonName, "memgate");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, SERVER_DAYS);
    let certificate = params.signed_by(&key, &authority).map_err(certificate_error)?;
    // The key first: the proxy keeps its old pair until both files match.
    let (owner, group) = (system_users.map(|users| users.proxy), system_users.map(|users| users.group));
    let key_file = write(data_dir, SERVER_KEY, &key.serialize_pem())?;
    set_owner(&key_file, owner, group, 0o400)?;
    publish(&key_file)?;
    let file = write(data_dir, SERVER, &certificate.pem())?;
    set_owner(&file, owner, group, 0o444)?;
    publish(&file)
}

/// Renews the server certificate at intervals.
pub(crate) async fn renew(
    data_dir: &Path,
    settings: &Settings,
    system_users: Option<&SystemUsers>,
) -> Infallible {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        if let Err(error) = issue_server_certificate(data_dir, settings, system_users) {
            tracing::error!(%error, "failed to renew the server certificate");
        }
    }
}

/// The authority, and the names that its certificate permits.
fn load_or_create_authority(
    data_dir: &Path,
    settings: &Settings,
) -> Result<(Issuer<'static, KeyPair>, PermittedNames), CliError> {
    let file = data_dir.join(CA_KEY);
    let key = match fs::read_to_string(&file) {
        Ok(text) => KeyPair::from_pem(&text).map_err(|error| {
            let what = format!("{} contains no key ({error})", file.display());
            CliError::new(what, "restore it from a backup, or delete it and ca.pem to create a new authority")
        })?,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(certificate_error)?;
            let permitted = issue_authority(data_dir, settings, &key)?;
            let file = write(data_dir, CA_KEY, &key.serialize_pem())?;
            publish(&file)?;
            return Ok((Issuer::new(authority_params(&key, &permitted), key), permitted));
        }
        Err(error) => {
            return Err(CliError::new(
                format!("can't read {} ({error})", file.display()),
                "run this as root, or as the user that owns the data",
            ));
        }
    };
    let current = fs::read_to_string(data_dir.join(CA)).ok();
    let current =
        current.and_then(|pem| PermittedNames::of_certificate(&pem, &key.subject_public_key_info()));
    let permitted = match current {
        Some(permitted) if required_names(settings).iter().all(|name| permitted.contains(name)) => permitted,
        current => {
            let permitted = issue_authority(data_dir, settings, &key)?;
            if current.is_some() {
                tracing::warn!(
                    "ca.pem was issued again, for the new webui.endpoint: clients that trust the earlier file refuse the proxy until they trust the new one"
                );
            }
            permitted
        }
    };
    Ok((Issuer::new(authority_params(&key, &permitted), key), permitted))
}

/// Writes `ca.pem` for the names of this installation. With the same key as before, clients that trust the earlier
/// file accept the names that it permits.
fn issue_authority(data_dir: &Path, settings: &Settings, key: &KeyPair) -> Result<PermittedNames, CliError> {
    let permitted = PermittedNames::new(subject_names(settings));
    let certificate = authority_params(key, &permitted).self_signed(key).map_err(certificate_error)?;
    let file = write(data_dir, CA, &certificate.pem())?;
    set_owner(&file, None, None, 0o444)?;
    publish(&file)?;
    Ok(permitted)
}

/// The authority's certificate: it issues server certificates for `permitted` only, and no further authority. Its
/// own name depends on the key alone, and contains part of it, to tell installations apart.
fn authority_params(key: &KeyPair, permitted: &PermittedNames) -> CertificateParams {
    let mut params = CertificateParams::default();
    let tail: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("memgate authority {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(permitted.to_extension());
    set_validity(&mut params, CA_DAYS);
    params
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + time::Duration::days(days);
}

/// Host names and addresses of the server certificate: those that it needs, and this machine's.
fn subject_names(settings: &Settings) -> Vec<String> {
    let mut names = required_names(settings);
    names.push(rustix::system::uname().nodename().to_string_lossy().into_owned());
    names.retain(|name| is_well_formed(name));
    names.sort();
    names.dedup();
    names
}

/// Names without which clients can't connect: loopback, and the endpoint that users see.
fn required_names(settings: &Settings) -> Vec<String> {
    let endpoint = &settings.webui.endpoint;
    let host = match endpoint.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => endpoint.rsplit_once(':').map_or(endpoint.as_str(), |(host, _)| host).to_owned(),
    };
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(Into::into).into();
    names.push(host);
    names.retain(|name| is_well_formed(name));
    names
}

/// Writes `name.new`, readable by its owner only. [`publish`] gives it its name.
fn write(data_dir: &Path, name: &str, text: &str) -> Result<PathBuf, CliError> {
    let path = data_dir.join(format!("{name}.new"));
    let mut options = fs::OpenOptions::new();
    let _ = fs::remove_file(&path);
    let written = options.write(true).create_new(true).mode(0o600).open(&path);
    written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(
        |error| {
            CliError::new(
                format!("can't write {} ({error})", path.display()),
                "check the data directory and the disk",
            )
        },
    )?;
    Ok(path)
}

/// Renames a written file to its final name, without `.new`.
fn publish(path: &Path) -> Result<(), CliError> {
    let target = path.with_extension("");
    fs::rename(path, &target).map_err(|error| {
        CliError::new(
            format!("can't write {} ({error})", target.display()),
            "check the data directory and the disk",
        )
    })
}

fn certificate_error(error: rcgen::Error) -> CliError {
    CliError::new(
        format!("can't create a certificate ({error})"),
        "name one with proxy.tls_certificate and proxy.tls_key",
    )
}

#[cfg(test)]
mod tests;

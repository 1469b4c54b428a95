//! The installation's certificate authority and the proxy's server certificate.
//!
//! `memgate up` creates both unless the settings name another certificate. Clients trust `ca.pem` once; the
//! server certificate is issued at every start and renewed long before it expires. The authority vouches for the
//! names of this installation only (`ca/constraints.rs`).

mod constraints;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use store::private_file::{self, Access};
use time::OffsetDateTime;

use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::SystemUsers;
use constraints::{PermittedNames, is_well_formed};

pub(crate) const CA: &str = "ca.pem";
pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const SERVER: &str = "server.pem";
pub(crate) const SERVER_KEY: &str = "server.key";
/// All files of this module in the data directory.
pub(crate) const FILES: [&str; 4] = [CA, CA_KEY, SERVER, SERVER_KEY];

/// For every user of the machine to read.
const PUBLIC: Access = Access { owner: None, group: None, mode: 0o444 };
/// Bytes that are read of a key file, which is shorter.
const KEY_LENGTH_MAX: u64 = 16 << 10;
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
    let group = system_users.map(|users| users.proxy_group.as_raw());
    let mode = if group.is_some() { 0o440 } else { 0o400 };
    write(data_dir, SERVER_KEY, Access { owner: None, group, mode }, &key.serialize_pem())?;
    write(data_dir, SERVER, PUBLIC, &certificate.pem())
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
    let key = match private_file::read_secret(&file, KEY_LENGTH_MAX) {
        Ok(text) => KeyPair::from_pem(&String::from_utf8_lossy(&text)).map_err(|error| {
            let what = format!("{} contains no key ({error})", file.display());
            CliError::new(what, "restore it from a backup, or delete it and ca.pem to create a new authority")
        })?,
        Err(error) if error.is_not_found() => {
            let key = KeyPair::generate().map_err(certificate_error)?;
            let permitted = issue_authority(data_dir, settings, &key)?;
            write(data_dir, CA_KEY, Access::PRIVATE, &key.serialize_pem())?;
            return Ok((Issuer::new(authority_params(&key, &permitted), key), permitted));
        }
        Err(error) => return Err(error.into()),
    };
    let current = private_file::read(&data_dir.join(CA), KEY_LENGTH_MAX, None).ok();
    let current = current.and_then(|pem| {
        PermittedNames::of_certificate(&String::from_utf8_lossy(&pem.bytes), &key.subject_public_key_info())
    });
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
    write(data_dir, CA, PUBLIC, &certificate.pem())?;
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

/// Writes a file, whatever is in its place: what other processes read is the old file or the new one.
fn write(data_dir: &Path, name: &str, access: Access, text: &str) -> Result<(), CliError> {
    let path = data_dir.join(name);
    private_file::replace(&path, access, text.as_bytes()).map_err(|error| {
        CliError::new(
            format!("can't write {} ({error})", path.display()),
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

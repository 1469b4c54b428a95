//! The certificate authority of one installation, and the certificate that its proxy shows: made by `memgate
//! up` unless the settings name another certificate. Clients trust `ca.pem` once; what the proxy shows is
//! signed anew at every start, and long before it ends.

use std::convert::Infallible;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;

use crate::output::CliError;
use crate::settings::Settings;
use crate::system_users::SystemUsers;
use crate::system_users::set_owner;

pub(crate) const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
pub(crate) const SERVER: &str = "server.pem";
pub(crate) const SERVER_KEY: &str = "server.key";
/// All files of ours in the data folder.
pub(crate) const FILES: [&str; 4] = [CA, CA_KEY, SERVER, SERVER_KEY];

const CA_DAYS: i64 = 3650;
const SERVER_DAYS: i64 = 397;
/// How often the proxy's is made anew: it takes the new one by itself.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks differ.
const EARLIER: time::Duration = time::Duration::days(1);

/// Whether the proxy is to show a certificate of ours.
pub(crate) fn is_wanted(settings: &Settings) -> bool {
    settings.proxy.tls_certificate.is_none() && settings.proxy.tls_key.is_none()
}

/// Makes the authority if there is none, and a new certificate for the proxy.
pub(crate) fn certify(
    folder: &Path,
    settings: &Settings,
    accounts: Option<&SystemUsers>,
) -> Result<(), CliError> {
    let authority = authority(folder)?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names(settings)).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "memgate");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    lasts(&mut params, SERVER_DAYS);
    let certificate = params.signed_by(&key, &authority).map_err(failed)?;
    // The key first: until both are there the proxy keeps the old ones.
    let (owner, group) = (accounts.map(|them| them.proxy), accounts.map(|them| them.group));
    let key_file = write(folder, SERVER_KEY, &key.serialize_pem())?;
    set_owner(&key_file, owner, group, 0o400)?;
    publish(&key_file)?;
    let file = write(folder, SERVER, &certificate.pem())?;
    set_owner(&file, owner, group, 0o444)?;
    publish(&file)
}

/// Certifies the proxy again and again.
pub(crate) async fn renew(folder: &Path, settings: &Settings, accounts: Option<&SystemUsers>) -> Infallible {
    loop {
        tokio::time::sleep(RENEWAL).await;
        if let Err(failure) = certify(folder, settings, accounts) {
            tracing::error!(%failure, "the certificate can't be renewed");
        }
    }
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, CliError> {
    let file = folder.join(CA_KEY);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let key = KeyPair::from_pem(&text).map_err(|error| {
                let what = format!("{} holds no key ({error})", file.display());
                CliError::new(
                    what,
                    "bring it back from a backup, or remove it and ca.pem for a new authority",
                )
            })?;
            Ok(Issuer::new(authority_params(&key), key))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(failed)?;
            let params = authority_params(&key);
            let certificate = params.self_signed(&key).map_err(failed)?;
            let file = write(folder, CA, &certificate.pem())?;
            set_owner(&file, None, None, 0o444)?;
            publish(&file)?;
            let file = write(folder, CA_KEY, &key.serialize_pem())?;
            publish(&file)?;
            Ok(Issuer::new(params, key))
        }
        Err(error) => Err(CliError::new(
            format!("can't read {} ({error})", file.display()),
            "run this as root, or as the user that the data belongs to",
        )),
    }
}

/// The same whenever the key is: its name tells one installation's from another's.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let tail: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("memgate authority {tail}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, CA_DAYS);
    params
}

fn lasts(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - EARLIER;
    params.not_after = now + time::Duration::days(days);
}

/// What clients may call the door: this machine, and what users are shown.
fn names(settings: &Settings) -> Vec<String> {
    let endpoint = &settings.webui.endpoint;
    let host = match endpoint.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => endpoint.rsplit_once(':').map_or(endpoint.as_str(), |(host, _)| host).to_owned(),
    };
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(Into::into).into();
    names.extend([machine, host]);
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

/// Writes beside the place where it will be, for us alone.
fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, CliError> {
    let path = folder.join(format!("{name}.new"));
    let mut options = fs::OpenOptions::new();
    let _ = fs::remove_file(&path);
    let written = options.write(true).create_new(true).mode(0o600).open(&path);
    written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(
        |error| {
            CliError::new(
                format!("can't write {} ({error})", path.display()),
                "check the folder and the disk",
            )
        },
    )?;
    Ok(path)
}

/// Puts what was written in its place.
fn publish(path: &Path) -> Result<(), CliError> {
    let place = path.with_extension("");
    fs::rename(path, &place).map_err(|error| {
        CliError::new(format!("can't write {} ({error})", place.display()), "check the folder and the disk")
    })
}

fn failed(error: rcgen::Error) -> CliError {
    CliError::new(
        format!("can't make a certificate ({error})"),
        "name one with proxy.tls_certificate and proxy.tls_key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_certificate_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        let mut settings = Settings::default();
        settings.webui.endpoint = "cache.example.org:11211".into();
        certify(folder.path(), &settings, None).unwrap();
        let (ca, server) = (read(CA), read(SERVER));
        certify(folder.path(), &settings, None).unwrap();
        assert_eq!(read(CA), ca);
        assert_ne!(read(SERVER), server);
        assert!(names(&settings).contains(&"cache.example.org".to_owned()));
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, FILES.len());
    }
}

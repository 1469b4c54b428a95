//! Certificates for the proxy, made with OpenSSL.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::LoadError;

/// The certificate and the key that the proxy is told to use.
pub(super) fn certificate_paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("tls/proxy.pem"), folder.join("tls/proxy.key"))
}

/// Makes a certificate and a key that the proxy can read.
pub(super) fn issue(folder: &Path, days: u32) -> Result<(), LoadError> {
    let (certificate, key) = certificate_paths(folder);
    let parent = folder.join("tls");
    fs::create_dir_all(&parent)?;
    fs::set_permissions(&parent, Permissions::from_mode(0o755))?;
    // The proxy's user passes through; it sees no names.
    fs::set_permissions(folder, Permissions::from_mode(0o711))?;
    make(&certificate.to_string_lossy(), &key.to_string_lossy(), &["-days", &days.to_string()])
}

fn make(certificate: &str, key: &str, validity: &[&str]) -> Result<(), LoadError> {
    let request = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
    ];
    // Files beside them, moved over them: never a half-written one.
    let (new_certificate, new_key) = (format!("{certificate}.new"), format!("{key}.new"));
    run("openssl", &[&request[..], &[&new_key, "-out", &new_certificate], validity].concat())?;
    fs::set_permissions(&new_key, Permissions::from_mode(0o444))?;
    fs::rename(new_key, key)?;
    Ok(fs::rename(new_certificate, certificate)?)
}

/// `openssl req` makes no certificate that has ended.
pub(super) fn make_expired(certificate: &str, key: &str) -> Result<(), LoadError> {
    let [request, new, names] = ["request", "new", "names"].map(|ending| format!("{certificate}.{ending}"));
    fs::write(&names, "subjectAltName=DNS:localhost")?;
    run("openssl", &["req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", &request])?;
    let options = ["-signkey", key, "-days", "-1", "-extfile", &names, "-out", &new];
    run("openssl", &[&["x509", "-req", "-in", &request], &options[..]].concat())?;
    Ok(fs::rename(new, certificate)?)
}

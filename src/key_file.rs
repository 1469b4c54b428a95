//! The key file of further proxies: one PEM file with all that a proxy needs of its installation, and nothing that
//! only the web UI or the provisioner needs. `memgate key export` writes it, `memgate proxy --keys FILE` reads it.
//!
//! Certificate and key of TLS are blocks of their own, so that the proxy's settings name this file for both, and the proxy
//! reloads them when the file is replaced.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use store::private_file::{self, Access};
use store::{Database, LaneKey, Store, TokenKey};

use crate::data_dir::{self, store_options};
use crate::output::CliError;
use crate::settings::Settings;

const BEGIN: &str = "-----BEGIN MEMGATE PROXY-----";
const END: &str = "-----END MEMGATE PROXY-----";
/// What a block of a certificate begins with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// Bytes that are read of the file, which is shorter.
const LENGTH_MAX: u64 = 1 << 20;
/// Characters of a line of the block.
const LINE: usize = 64;

/// What a proxy needs of its installation. No `Debug`: that would print the keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    /// The installation's id.
    pub(crate) installation: String,
    /// 64 hexadecimal digits.
    token_key: String,
    /// The same.
    lane_key: String,
    /// The networks of instances, to which alone a proxy connects.
    pub(crate) subnets: String,
    /// The database's address for proxies, unless the settings name one.
    store_url: String,
    /// The chain and the private key of TLS, in PEM; `None` without TLS.
    #[serde(skip)]
    tls: Option<String>,
    /// Where it was read.
    #[serde(skip)]
    path: PathBuf,
}

impl KeyFile {
    /// One with these keys and this address of the database.
    pub(crate) fn new(
        installation: String,
        keys: (&TokenKey, &LaneKey),
        subnets: String,
        store_url: String,
        tls: Option<String>,
    ) -> Self {
        let (token_key, lane_key) = (keys.0.reveal(), keys.1.reveal());
        Self { installation, token_key, lane_key, subnets, store_url, tls, path: PathBuf::new() }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it can't be read or trusted, others may read it, or it is no key file.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let path = std::path::absolute(path).map_err(|error| not_a_key_file(path, &error.to_string()))?;
        let bytes = private_file::read_secret(&path, LENGTH_MAX).map_err(|error| {
            if error.is_not_found() {
                let fix = "make one with `memgate key export FILE` and the data directory, and copy it here";
                return CliError::new(format!("there is no key file {}", path.display()), fix);
            }
            error.into()
        })?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(&text)
            .map(|file| Self { path: path.clone(), ..file })
            .map_err(|why| not_a_key_file(&path, why))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (_, rest) = text.split_once(BEGIN).ok_or("it has no block MEMGATE PROXY")?;
        let (block, rest) = rest.split_once(END).ok_or("its block MEMGATE PROXY has no end")?;
        let block: String = block.split_whitespace().collect();
        let json = BASE64_STANDARD.decode(block).map_err(|_| "its block MEMGATE PROXY isn't Base64")?;
        let file: Self =
            serde_json::from_slice(&json).map_err(|_| "its block MEMGATE PROXY is of another version")?;
        if TokenKey::parse(&file.token_key).is_none() || LaneKey::parse(&file.lane_key).is_none() {
            return Err("a key in it isn't 64 hexadecimal digits");
        }
        let tls = rest.contains(CERTIFICATE).then(|| rest.trim().to_owned());
        Ok(Self { tls, ..file })
    }

    /// Writes it to a file that only this user may read. An existing one is replaced.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        private_file::replace(path, Access::PRIVATE, self.to_text().as_bytes()).map_err(|error| {
            CliError::new(
                format!("can't write {} ({error})", path.display()),
                "name a file in an existing folder",
            )
        })
    }

    fn to_text(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        let block = BASE64_STANDARD.encode(json);
        let mut text = format!(
            "Key file for proxies of the memgate installation {}: its reader can act as one of its proxies.\n{BEGIN}\n",
            self.installation
        );
        for line in block.as_bytes().chunks(LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str(END);
        text.push('\n');
        text.push_str(self.tls.as_deref().unwrap_or_default());
        text
    }

    /// Whether the keys are those of another key file, also if that has another certificate.
    pub(crate) fn has_same_keys(&self, other: &Self) -> bool {
        let keys = |file: &Self| [&file.installation, &file.token_key, &file.lane_key].map(String::clone);
        keys(self) == keys(other)
    }

    /// Whether it has a certificate of TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Fills in the settings what they leave open: the database and the certificate; and sets the instances' networks, which are
    /// the installation's.
    pub(crate) fn complete(&self, settings: &mut Settings) {
        settings.store.url.get_or_insert_with(|| self.store_url.clone());
        settings.provisioner.subnets.clone_from(&self.subnets);
        let proxy = &mut settings.proxy;
        if self.has_tls() && proxy.tls_certificate.is_none() && proxy.tls_key.is_none() {
            proxy.tls_certificate = Some(self.path.clone());
            proxy.tls_key = Some(self.path.clone());
        }
    }

    /// Opens the store for a role.
    ///
    /// # Errors
    /// If it can't be opened, or belongs to another installation.
    pub(crate) async fn open_store(&self, settings: &Settings, role: &str) -> Result<Store, CliError> {
        let database = settings.store.url.clone().map(Database::Postgres).ok_or_else(|| {
            CliError::new("the key file names no database", "set store.url, or export the key file again")
        })?;
        let store = Store::open_existing(&database, &store_options::of_role(settings, role)).await?;
        let recorded = store.installation_id().await?;
        if recorded.as_deref() == Some(self.installation.as_str()) {
            return Ok(store);
        }
        let recorded = recorded.unwrap_or_default();
        Err(CliError::new(
            format!(
                "{} is of installation {}, but the database belongs to {}",
                self.path.display(),
                self.installation.escape_default(),
                recorded.escape_default()
            ),
            "use the key file and the database of one installation",
        ))
    }

    /// The keys of token hashes and of lanes.
    ///
    /// # Errors
    /// If they aren't the installation's any more.
    pub(crate) async fn keys(&self, store: &Store) -> Result<(TokenKey, LaneKey), CliError> {
        let keys = TokenKey::parse(&self.token_key).zip(LaneKey::parse(&self.lane_key));
        let (token_key, lane_key) = keys.ok_or_else(|| not_a_key_file(&self.path, "it has no keys"))?;
        let recorded = store.key_fingerprints().await?;
        data_dir::compare_fingerprints(
            &self.path,
            "token.key",
            &token_key.fingerprint(),
            recorded.token_key.as_ref(),
        )?;
        data_dir::compare_fingerprints(
            &self.path,
            "lane.key",
            &lane_key.fingerprint(),
            recorded.lane_key.as_ref(),
        )?;
        Ok((token_key, lane_key))
    }
}

fn not_a_key_file(path: &Path, why: &str) -> CliError {
    CliError::new(
        format!("{} is no key file of memgate ({why})", path.display()),
        "make one with `memgate key export FILE`",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key_file(tls: Option<&str>) -> KeyFile {
        let keys = ("ab".repeat(32), "cd".repeat(32));
        KeyFile::new(
            "3irpac".to_owned(),
            (&TokenKey::parse(&keys.0).unwrap(), &LaneKey::parse(&keys.1).unwrap()),
            "10.213.0.0/16".to_owned(),
            "postgres://a:b@h/d".to_owned(),
            tls.map(str::to_owned),
        )
    }

    #[test]
    fn key_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.keys");
        for tls in [None, Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----")] {
            key_file(tls).write(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let read = KeyFile::read(&path).unwrap();
            assert_eq!((read.installation.as_str(), read.token_key), ("3irpac", "ab".repeat(32)));
            assert_eq!(read.lane_key, "cd".repeat(32));
            assert_eq!(read.tls.as_deref(), tls);
        }
    }

    // F-38.
    #[test]
    fn keys_are_compared_without_the_certificate() {
        let renewed = key_file(Some("-----BEGIN CERTIFICATE-----"));
        assert!(key_file(None).has_same_keys(&renewed));
        let other = KeyFile { lane_key: "ef".repeat(32), ..key_file(None) };
        assert!(!key_file(None).has_same_keys(&other));
    }

    #[test]
    fn settings_are_completed_not_overridden() {
        let file = KeyFile { path: "/keys".into(), ..key_file(Some("-----BEGIN CERTIFICATE-----")) };
        let mut settings = Settings::default();
        file.complete(&mut settings);
        assert_eq!(settings.store.url.as_deref(), Some("postgres://a:b@h/d"));
        assert_eq!(settings.proxy.tls_key, Some("/keys".into()));
        let mut own = Settings::default();
        own.store.url = Some("postgres://other/d".to_owned());
        (own.proxy.tls_certificate, own.proxy.tls_key) = (Some("/c".into()), Some("/k".into()));
        file.complete(&mut own);
        assert_eq!(own.store.url.as_deref(), Some("postgres://other/d"));
        assert_eq!(own.proxy.tls_certificate, Some("/c".into()));
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        let text = key_file(None).to_text();
        for (text, why) in [
            (String::new(), "no block"),
            (text.replace(END, ""), "no end"),
            (text.replace(END, &format!("!{END}")), "Base64"),
            (format!("{BEGIN}\n{}\n{END}", BASE64_STANDARD.encode("{}")), "another version"),
        ] {
            let error = KeyFile::parse(&text).map(|_| ()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.keys");
        let missing = KeyFile::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(missing.contains("no key file") && missing.contains("key export"), "{missing}");
        key_file(None).write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let readable = KeyFile::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(readable.contains("chmod"), "{readable}");
    }
}

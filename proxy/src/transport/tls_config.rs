//! The proxy's TLS certificate: loaded at start and reloaded when its files change. Open connections keep the certificate
//! of their handshake; if the new files can't be used, the old certificate stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use daemon::health::Readiness;
use daemon::{Shutdown, Ticks};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;

use super::client_verifier;
use crate::{Config, Error};

/// Interval between checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The current certificate, if TLS is configured.
pub(crate) struct Certificate {
    files: Option<Files>,
    current: Mutex<Option<Arc<ServerConfig>>>,
}

struct Files {
    chain: PathBuf,
    key: PathBuf,
    /// Shared by all certificates and workers, so that sessions resume anywhere.
    ticketer: Arc<dyn ProducesTickets>,
}

/// Modification time and length of each file.
type FileStamps = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// Loads the certificate.
    ///
    /// # Errors
    ///
    /// If only one of the two files is set, or they can't be used: a proxy that is to offer TLS must not start without.
    pub(crate) fn load(config: &Config) -> Result<Self, Error> {
        let (Some(chain), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
            return match (&config.tls_certificate, &config.tls_key) {
                (None, None) => Ok(Self { files: None, current: Mutex::new(None) }),
                _ => Err(Error::Certificate(
                    "proxy.tls_certificate and proxy.tls_key must be set together".into(),
                )),
            };
        };
        let ticketer = ring::Ticketer::new().map_err(|error| Error::Certificate(error.to_string()))?;
        let files = Files { chain: chain.clone(), key: key.clone(), ticketer };
        let current = files.read().map_err(Error::Certificate)?;
        Ok(Self { files: Some(files), current: Mutex::new(Some(current)) })
    }

    /// The configuration for the next handshake; `None` without TLS.
    pub(crate) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Spawns the task that reloads changed files until shutdown.
    pub(crate) fn follow(self: &Arc<Self>, readiness: Readiness, shutdown: &Shutdown) {
        let (this, ticks) = (self.clone(), shutdown.every(CHECK_INTERVAL));
        shutdown.spawn(async move { this.reload_changed(ticks, &readiness).await });
    }

    /// Checks the files at every tick and reloads them if they have changed.
    async fn reload_changed(&self, mut ticks: Ticks, readiness: &Readiness) {
        let Some(files) = &self.files else { return };
        let mut seen = files.stamp();
        while ticks.next().await {
            let stamp = files.stamp();
            if stamp == seen {
                continue;
            }
            seen = stamp;
            match files.read() {
                Ok(fresh) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
                    readiness.warn(None);
                    tracing::info!(file = %files.chain.display(), "certificate reloaded");
                }
                Err(why) => {
                    tracing::error!(why, "failed to reload the certificate: keeping the old one");
                    readiness
                        .warn(Some(format!("failed to reload the certificate, keeping the old one: {why}")));
                }
            }
        }
    }
}

impl Files {
    fn stamp(&self) -> FileStamps {
        [&self.chain, &self.key].map(|file| {
            let meta = fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    /// Reads both files; the error says what is wrong and how to fix it.
    fn read(&self) -> Result<Arc<ServerConfig>, String> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable("certificate", &self.chain, &error))?;
        if chain.is_empty() {
            return Err(format!("{} holds no certificate: write it in PEM", self.chain.display()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| unreadable("private key", &self.key, &error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|builder| {
                builder.with_client_cert_verifier(Arc::new(client_verifier::AnyCertificateVerifier::new()))
            })
            .and_then(|builder| builder.with_single_cert(chain, key))
            .map_err(|error| {
                format!("{} and {} don't belong together ({error})", self.chain.display(), self.key.display())
            })?;
        config.ticketer = self.ticketer.clone();
        Ok(Arc::new(config))
    }
}

fn unreadable(what: &str, file: &Path, error: &rustls::pki_types::pem::Error) -> String {
    let fix = match error {
        rustls::pki_types::pem::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "let the proxy's user read it"
        }
        rustls::pki_types::pem::Error::Io(_) => "name an existing file",
        _ => "write it in PEM",
    };
    format!("can't read the {what} {} ({error}): {fix}", file.display())
}

//! The door's certificate: read at the start, and again whenever its files change. Connections keep the one
//! that they began with; a broken file keeps the old one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use daemon::Shutdown;
use daemon::health::Readiness;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;
use tokio::time::{MissedTickBehavior, interval};

use super::client_verifier;
use crate::{Config, Error};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What handshakes are made with, if with anything.
pub(crate) struct Certificate {
    files: Option<Files>,
    current: Mutex<Option<Arc<ServerConfig>>>,
}

struct Files {
    chain: PathBuf,
    key: PathBuf,
    /// The same for all certificates and workers: who comes back needn't begin anew.
    ticketer: Arc<dyn ProducesTickets>,
}

/// When each file was last written, and how long it was.
type ItemMeta = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// Reads it. That it can't be read stops the start: a door that was to speak TLS would not.
    pub(crate) fn load(config: &Config) -> Result<Self, Error> {
        let (Some(chain), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
            return match (&config.tls_certificate, &config.tls_key) {
                (None, None) => Ok(Self { files: None, current: Mutex::new(None) }),
                _ => Err(Error::Certificate("proxy.tls_certificate and proxy.tls_key go together".into())),
            };
        };
        let ticketer = ring::Ticketer::new().map_err(|error| Error::Certificate(error.to_string()))?;
        let files = Files { chain: chain.clone(), key: key.clone(), ticketer };
        let current = files.read().map_err(Error::Certificate)?;
        Ok(Self { files: Some(files), current: Mutex::new(Some(current)) })
    }

    /// What the next handshake is to be made with.
    pub(crate) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the files until shutdown, in a task of `shutdown`.
    pub(crate) fn follow(self: &Arc<Self>, readiness: Readiness, shutdown: &Shutdown) {
        let (this, stop) = (self.clone(), shutdown.clone());
        shutdown.spawn(async move {
            tokio::select! {
                () = stop.begun() => {}
                () = this.keep_following(&readiness) => {}
            }
        });
    }

    async fn keep_following(&self, readiness: &Readiness) {
        let Some(files) = &self.files else { return };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = files.stamp();
        loop {
            tick.tick().await;
            let stamp = files.stamp();
            if stamp == seen {
                continue;
            }
            seen = stamp;
            match files.read() {
                Ok(fresh) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
                    readiness.warn(None);
                    tracing::info!(file = %files.chain.display(), "a new certificate is in use");
                }
                Err(why) => {
                    tracing::error!(why, "the certificate can't be used: the old one stays in use");
                    readiness.warn(Some(format!("the old certificate stays in use: {why}")));
                }
            }
        }
    }
}

impl Files {
    fn stamp(&self) -> ItemMeta {
        [&self.chain, &self.key].map(|file| {
            let meta = fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    /// What both files come to, or what is wrong with them and how to mend it.
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
                format!("{} and {} don't fit ({error})", self.chain.display(), self.key.display())
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

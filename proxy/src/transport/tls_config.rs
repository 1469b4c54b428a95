//! The proxy's TLS certificate: loaded at start and reloaded when its files change. Open connections keep the certificate
//! of their handshake; if the new files can't be used, or clients would refuse the new certificate, the old one stays while
//! it is valid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use daemon::health::Health;
use daemon::{Reload, Shutdown};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;

use super::client_verifier;
use super::validity::{self, Outlook, Validity};
use crate::metrics::CertificateEnd;
use crate::{Config, Error};

/// Interval between checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two log lines that the certificate ends soon, or has ended.
const WARN_INTERVAL: Duration = Duration::from_hours(24);
/// Parts of the health report: a file that isn't used, and the end of the certificate in use.
const FILE_PART: &str = "certificate";
const END_PART: &str = "certificate_end";

/// The current certificate, if TLS is configured.
pub(crate) struct Certificate {
    files: Option<Files>,
    current: Mutex<Option<Loaded>>,
    end: CertificateEnd,
}

/// A certificate that can be used.
#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// `None` if it isn't known.
    validity: Option<Validity>,
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
    pub(crate) fn load(config: &Config, registry: &mut Registry) -> Result<Self, Error> {
        let (Some(chain), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
            return match (&config.tls_certificate, &config.tls_key) {
                (None, None) => {
                    Ok(Self { files: None, current: Mutex::new(None), end: CertificateEnd::default() })
                }
                _ => Err(Error::Certificate(
                    "proxy.tls_certificate and proxy.tls_key must be set together".into(),
                )),
            };
        };
        let ticketer = ring::Ticketer::new().map_err(|error| Error::Certificate(error.to_string()))?;
        let files = Files { chain: chain.clone(), key: key.clone(), ticketer };
        let current = files.read().map_err(Error::Certificate)?;
        let end = CertificateEnd::register(registry);
        Ok(Self { files: Some(files), current: Mutex::new(Some(current)), end })
    }

    /// The configuration for the next handshake; `None` without TLS.
    pub(crate) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.loaded().map(|loaded| loaded.config)
    }

    fn loaded(&self) -> Option<Loaded> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Spawns the task that reloads changed files until shutdown, and all files when `reload` is requested.
    pub(crate) fn follow(self: &Arc<Self>, health: Health, reload: Reload, shutdown: &Shutdown) {
        let this = self.clone();
        shutdown.spawn_until_stopped(async move { this.keep_current(reload, &health).await });
    }

    async fn keep_current(&self, mut reload: Reload, health: &Health) {
        let Some(files) = &self.files else { return };
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        let mut seen = files.stamp();
        // When a certificate is valid that was refused, because it isn't yet.
        let mut valid_at: Option<i64> = None;
        let mut warned: Option<(Outlook, Instant)> = None;
        loop {
            self.warn_of_end(files, health, &mut warned);
            let is_requested = tokio::select! {
                _ = ticks.tick() => false,
                () = reload.requested() => true,
            };
            let stamp = files.stamp();
            let is_valid_now = valid_at.is_some_and(|at| at <= validity::now());
            if is_requested || is_valid_now || stamp != seen {
                seen = stamp;
                valid_at = self.reload(files, health);
            }
        }
    }

    /// Reads the files, and takes what they hold if that is no worse than the current certificate. Returns when to try again
    /// without a change of the files.
    fn reload(&self, files: &Files, health: &Health) -> Option<i64> {
        let now = validity::now();
        let fresh = match files.read() {
            Ok(fresh) => fresh,
            Err(why) => {
                keep_old(health, &why);
                return None;
            }
        };
        let refusal = |loaded: &Loaded| loaded.validity.as_ref().and_then(|validity| validity.refusal(now));
        if let Some(why) = refusal(&fresh)
            && self.loaded().is_some_and(|current| refusal(&current).is_none())
        {
            let file = files.chain.display();
            keep_old(health, &format!("clients would refuse {file}: {why}: put a valid one there"));
            return fresh.validity.and_then(|validity| validity.begins_after(now));
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        health.set_notice(FILE_PART, None);
        tracing::info!(file = %files.chain.display(), "certificate reloaded");
        None
    }

    /// Reports that the current certificate ends soon, or has ended: to the health endpoint always, to the log once a day.
    fn warn_of_end(&self, files: &Files, health: &Health, warned: &mut Option<(Outlook, Instant)>) {
        let Some(validity) = self.loaded().and_then(|loaded| loaded.validity) else { return };
        self.end.set(validity.end());
        let outlook = validity.outlook(validity::now());
        let file = files.chain.display();
        let (notice, problem) = match &outlook {
            Outlook::Good => (None, None),
            Outlook::Ending(text) => (Some(format!("the certificate {file}: {text}: renew it")), None),
            Outlook::Invalid(text) => {
                (None, Some(format!("clients refuse the certificate {file}: {text}: put a valid one there")))
            }
        };
        let is_new =
            warned.as_ref().is_none_or(|(last, at)| *last != outlook || at.elapsed() > WARN_INTERVAL);
        if is_new {
            if let Some(text) = &notice {
                tracing::warn!("{text}");
            }
            if let Some(text) = &problem {
                tracing::error!("{text}");
            }
            *warned = Some((outlook, Instant::now()));
        }
        health.set_notice(END_PART, notice);
        health.set_problem(END_PART, problem);
    }
}

/// Reports that a new certificate can't be used.
fn keep_old(health: &Health, why: &str) {
    tracing::error!(why, "failed to reload the certificate: keeping the old one");
    let notice = format!("failed to reload the certificate, keeping the old one: {why}");
    health.set_notice(FILE_PART, Some(notice));
}

impl Files {
    fn stamp(&self) -> FileStamps {
        [&self.chain, &self.key].map(|file| {
            let meta = fs::metadata(file).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    /// Reads both files; the error says what is wrong and how to fix it.
    fn read(&self) -> Result<Loaded, String> {
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable("certificate", &self.chain, &error))?;
        if chain.is_empty() {
            return Err(format!("{} holds no certificate: write it in PEM", self.chain.display()));
        }
        let validity = chain.first().and_then(Validity::of);
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
        Ok(Loaded { config: Arc::new(config), validity })
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

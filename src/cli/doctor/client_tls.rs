//! A client's connection, and its TLS handshake, with what is wrong with a certificate in words.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::certificates::Certificate;
use super::report::Report;

const TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Makes a TLS connection; `None` if the certificate isn't one that clients accept.
pub(super) async fn connect(
    tcp: TcpStream,
    host: &str,
    ca: Option<&Path>,
    report: &mut Report,
) -> Option<Box<dyn Stream>> {
    let roots = match roots(ca) {
        Ok(roots) => roots,
        Err(why) => {
            report.problem(
                "TLS",
                why,
                "name a file with the authority's certificate, such as memgate's ca.pem",
            );
            return None;
        }
    };
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        report.problem(
            "TLS",
            format!("{host} is no name that a certificate can have"),
            "connect to a name or an address",
        );
        return None;
    };
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let started = Instant::now();
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let stream = match timeout(TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let (found, fix) = explain(&error, host, ca.is_some());
            report.problem("TLS", found, fix);
            return None;
        }
        Err(_) => {
            report.problem(
                "TLS",
                format!("no handshake within {TIMEOUT:?}"),
                "check that the endpoint is memgate's proxy",
            );
            return None;
        }
    };
    report
        .ok("TLS", format!("the certificate is trusted and for {host}, after {}", millis(started.elapsed())));
    let own = stream.get_ref().1.peer_certificates().and_then(|chain| Certificate::parse(chain.first()?));
    if let Some(certificate) = own {
        certificate.check_validity("certificate", "tell the operator to renew it", report);
    }
    Some(Box::new(stream))
}

/// The authorities to trust: those of a file, or Mozilla's.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let failed = |why: String| format!("can't use {} ({why})", file.display());
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| failed(error.to_string()))? {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() { Err(failed("it has no certificate".to_owned())) } else { Ok(roots) }
}

/// What is wrong, and how to fix it.
fn explain(error: &io::Error, host: &str, has_ca: bool) -> (String, &'static str) {
    use CertificateError as Bad;
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer)) if has_ca => (
            "the certificate is another authority's".to_owned(),
            "get the current ca.pem from the web UI (/ca.pem)",
        ),
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer)) => (
            "the certificate's authority isn't one that browsers trust".to_owned(),
            "get ca.pem from the web UI (/ca.pem), and name it with --ca; let the application trust it, too",
        ),
        Some(rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        )) => (
            format!("the certificate isn't for {host}"),
            "connect to the endpoint that the cache's page shows, or let the operator set webui.endpoint",
        ),
        Some(rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => (
            "the certificate has expired".to_owned(),
            "tell the operator to renew it, and check this machine's clock",
        ),
        Some(rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            ("the certificate isn't valid yet".to_owned(), "check this machine's clock")
        }
        Some(rustls::Error::InvalidMessage(_)) => (
            "the server doesn't speak TLS".to_owned(),
            "check host and port; a proxy without a certificate takes --plaintext from private addresses only",
        ),
        _ => (
            format!("the handshake failed ({error})"),
            "check that the endpoint is memgate's proxy, and nothing in between changes it",
        ),
    }
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

//! One request to a receiver: resolved, checked, connected and sent within a time limit. The address that was checked is the one
//! that is connected to, so a name that leads elsewhere the next moment changes nothing. No redirect is followed, no proxy used, and
//! of the reply only the status counts.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Destinations, Signed, WebhookUrl};
use crate::Error;
use crate::config::Webhooks;

/// Time limit of a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of a connection attempt to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Time for the rest of a reply, of which nothing is kept.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a reply's body that are read, so that a receiver that sends little sees its reply taken.
const BODY_MAX: usize = 4 * 1024;
/// Bytes of a reply's head.
const HEAD_MAX: usize = 16 * 1024;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Bytes that are read of CA certificates.
const CERTIFICATE_FILE_MAX: u64 = 1 << 20;

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
/// Finds the addresses of a name and a port.
type Resolver = Arc<dyn Fn(String, u16) -> Resolving + Send + Sync>;

/// Sends to receivers.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
    resolver: Resolver,
    /// Time limit of a whole request.
    request_timeout: Duration,
}

/// Why a request wasn't answered. The words are ours alone: what a receiver says is neither kept nor shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("the URL is no longer allowed")]
    Url,
    // The same words as for an address that isn't allowed: a user doesn't learn which names the operator's own servers know.
    #[error("the name leads to no address that webhooks may go to")]
    Unresolved,
    #[error("the name leads to no address that webhooks may go to")]
    NotAllowed,
    #[error("no connection")]
    Unreachable,
    #[error("no TLS connection: the certificate must be valid for the name")]
    Tls,
    #[error("no HTTP reply")]
    Protocol,
    #[error("no reply within 10 s")]
    Timeout,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// # Errors
    ///
    /// [`Error`] if a file can't be used.
    pub(crate) fn new(config: &Webhooks) -> Result<Self, Error> {
        let failed = |error: rustls::Error| Error::WebhookTls(error.to_string());
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = &config.ca_certificate {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(failed)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            resolver: Arc::new(|host, port| Box::pin(resolve(host, port))),
            request_timeout: REQUEST_TIMEOUT,
        })
    }

    /// Sends a body. Returns the status of the reply.
    ///
    /// # Errors
    ///
    /// [`SendError`] if there is none within 10 s.
    pub(crate) async fn send(
        &self,
        url: &WebhookUrl,
        destinations: &Destinations,
        signed: &Signed,
        body: String,
    ) -> Result<u16, SendError> {
        let request = request(url, signed, body)?;
        let send = async {
            let stream = self.connect(url, destinations).await?;
            if !url.is_https() {
                return exchange(stream, request).await;
            }
            let name = ServerName::try_from(url.host().to_owned()).map_err(|_| SendError::Tls)?;
            let stream = self.tls.connect(name, stream).await.map_err(|_| SendError::Tls)?;
            exchange(stream, request).await
        };
        timeout(self.request_timeout, send).await.unwrap_or(Err(SendError::Timeout))
    }

    /// Connects to an address of the URL's name, if all of them are admitted.
    async fn connect(&self, url: &WebhookUrl, destinations: &Destinations) -> Result<TcpStream, SendError> {
        let found = (self.resolver)(url.host().to_owned(), url.port()).await;
        let addresses = found.map_err(|_| SendError::Unresolved)?;
        if addresses.is_empty() {
            return Err(SendError::Unresolved);
        }
        let is_admitted = |address: &SocketAddr| {
            destinations.admits(*address) && (url.is_https() || destinations.allows_private(address.ip()))
        };
        if !addresses.iter().all(is_admitted) {
            return Err(SendError::NotAllowed);
        }
        for address in addresses.iter().take(ADDRESSES_MAX) {
            if let Ok(Ok(stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                return Ok(stream);
            }
        }
        Err(SendError::Unreachable)
    }
}

async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

fn request(url: &WebhookUrl, signed: &Signed, body: String) -> Result<Request<Body>, SendError> {
    Request::post(url.target())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, "memgate")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, body.len())
        .header(header::CONNECTION, "close")
        .header("webhook-id", &signed.id)
        .header("webhook-timestamp", signed.timestamp)
        .header("webhook-signature", &signed.signatures)
        .body(Body::from(body))
        .map_err(|_| SendError::Url)
}

/// Sends the request, and reads the status of the reply. The connection ends with this call.
async fn exchange<S>(stream: S, request: Request<Body>) -> Result<u16, SendError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder.max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| SendError::Protocol)?;
    // Dropped at the end, with the connection.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let reply = sender.send_request(request).await.map_err(|_| SendError::Protocol)?;
    let (head, body) = reply.into_parts();
    let _ = timeout(BODY_TIMEOUT, to_bytes(Body::new(body), BODY_MAX)).await;
    Ok(head.status.as_u16())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable = |why: String| {
        let file = file.display();
        Error::WebhookFile(format!(
            "webui.webhooks.ca_certificate: can't use {file} ({why}): name a file with certificates in PEM"
        ))
    };
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(CERTIFICATE_FILE_MAX).read_to_end(&mut bytes));
    read.map_err(|error| unusable(error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() { Err(unusable("it has none".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;

//! A mail server for tests: takes mail over plain text, TLS or STARTTLS, with or without a login, and can refuse it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use webui::Config;

use crate::harness::{DEADLINE, eventually_within};

/// The login that [`Security::StartTls`] and [`Security::Tls`] ask for: `mailer` and `hunter2 hunter2`, as PLAIN writes them.
const LOGIN: &str = "AUTH PLAIN AG1haWxlcgBodW50ZXIyIGh1bnRlcjI=";
pub(crate) const PASSWORD: &str = "hunter2 hunter2";

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) recipient: String,
    /// Head and body.
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    Plain,
    StartTls,
    Tls,
}

pub(crate) struct MailServer {
    pub(crate) address: SocketAddr,
    /// The authority that has signed the server's certificate, in PEM.
    pub(crate) authority: String,
    security: Security,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    received: Mutex<Vec<Received>>,
    /// The reply to each recipient.
    recipient_reply: Mutex<&'static str>,
    /// The reply to some, instead.
    replies: Mutex<BTreeMap<String, &'static str>>,
    tls: TlsAcceptor,
    /// Whether it closes each connection at once.
    is_away: AtomicBool,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(Security::Plain).await
    }

    pub(crate) async fn start_with(security: Security) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (authority, tls) = certificate();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            recipient_reply: Mutex::new("250 ok"),
            replies: Mutex::default(),
            tls: TlsAcceptor::from(Arc::new(tls)),
            is_away: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        let serves = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                if serves.is_away.load(Ordering::Relaxed) {
                    continue;
                }
                let shared = serves.clone();
                connections.spawn(async move {
                    let _ = serve(stream, security, &shared).await;
                });
            }
        });
        Self { address, authority, security, shared, _tasks: tasks }
    }

    /// Makes a web UI use this server.
    pub(crate) fn configure(&self, config: &mut Config) {
        let port = self.address.port();
        config.base_url = Some("http://memgate.test".into());
        config.mail.from = Some("memgate <noreply@memgate.test>".into());
        config.mail.server = Some(match self.security {
            Security::Plain => format!("smtp://127.0.0.1:{port}"),
            Security::StartTls => format!("smtp://mailer@localhost:{port}"),
            Security::Tls => format!("smtps://mailer@localhost:{port}"),
        });
    }

    /// Answers each recipient with `reply` from now on.
    pub(crate) fn answer_recipients(&self, reply: &'static str) {
        *self.shared.recipient_reply.lock().unwrap() = reply;
    }

    /// Whether it closes each connection at once from now on. It keeps its port, which another test could get otherwise.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.shared.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Answers this recipient with `reply` from now on.
    pub(crate) fn answer_recipient(&self, recipient: &str, reply: &'static str) {
        self.shared.replies.lock().unwrap().insert(recipient.to_owned(), reply);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits for the `count`th mail to an address and returns it.
    pub(crate) async fn mail_to(&self, recipient: &str, count: usize) -> Received {
        self.mail_within(DEADLINE, recipient, count).await
    }

    /// The same, with a time limit of its own.
    pub(crate) async fn mail_within(&self, limit: Duration, recipient: &str, count: usize) -> Received {
        let all =
            || self.received().into_iter().filter(|mail| mail.recipient == recipient).collect::<Vec<_>>();
        let what = format!("mail {count} to {recipient}");
        eventually_within(limit, &what, async || all().len() >= count).await;
        all()[count - 1].clone()
    }
}

impl Received {
    pub(crate) fn subject(&self) -> &str {
        self.text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default()
    }

    /// The path of the link in it.
    pub(crate) fn link(&self) -> &str {
        let link = self.text.lines().find_map(|line| line.strip_prefix("http://memgate.test/links/"));
        assert!(link.is_some(), "{}", self.text);
        let line = self.text.lines().find(|line| line.contains("/links/")).unwrap();
        line.strip_prefix("http://memgate.test").unwrap()
    }
}

/// An authority in PEM, and a certificate of `localhost` that it has signed.
pub(crate) fn certificate() -> (String, ServerConfig) {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (authority.pem(), tls)
}

async fn serve(mut stream: TcpStream, security: Security, shared: &Shared) -> std::io::Result<()> {
    if security == Security::Tls {
        let mut stream = shared.tls.accept(stream).await?;
        stream.write_all(b"220 mail\r\n").await?;
        return talk(&mut stream, true, shared).await.map(drop);
    }
    stream.write_all(b"220 mail\r\n").await?;
    if talk(&mut stream, false, shared).await? == End::StartTls {
        let mut stream = shared.tls.accept(stream).await?;
        talk(&mut stream, true, shared).await?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    StartTls,
}

/// Answers commands. With TLS it takes nothing before the login; without it offers STARTTLS.
async fn talk(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    is_tls: bool,
    shared: &Shared,
) -> std::io::Result<End> {
    let mut stream = BufReader::new(stream);
    let (mut recipient, mut has_login) = (String::new(), !is_tls);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(End::Closed);
        }
        let line = line.trim_end();
        let reply = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if is_tls => "250-mail\r\n250 AUTH PLAIN".to_owned(),
            "EHLO" => "250-mail\r\n250 STARTTLS".to_owned(),
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await?;
                return Ok(End::StartTls);
            }
            "AUTH" => {
                has_login = line == LOGIN;
                if has_login { "235 ok" } else { "535 wrong password" }.to_owned()
            }
            "MAIL" if !has_login => "530 log in first".to_owned(),
            "RCPT" => {
                recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                let reply = shared.replies.lock().unwrap().get(&recipient).copied();
                reply.unwrap_or(*shared.recipient_reply.lock().unwrap()).to_owned()
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut text).await? == 0 {
                        return Ok(End::Closed);
                    }
                }
                let mail = Received { recipient: recipient.clone(), text };
                shared.received.lock().unwrap().push(mail);
                "250 taken".to_owned()
            }
            _ => "250 ok".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

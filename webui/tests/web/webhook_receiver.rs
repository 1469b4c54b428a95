//! A receiver of webhooks for tests: HTTPS with a certificate of its own authority, answers as told, keeps what it got.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use webui::Config;

use crate::harness::eventually;
use crate::mail_server;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) target: String,
    /// By name, in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    /// Nothing, for as long as the other side waits.
    Hang,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    authority: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    connections: Mutex<usize>,
    /// The next answers; 204 behind them.
    answers: Mutex<VecDeque<Answer>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (authority, tls) = mail_server::certificate();
        let (shared, acceptor) = (Arc::new(Shared::default()), TlsAcceptor::from(Arc::new(tls)));
        let mut tasks = JoinSet::new();
        let serves = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *serves.connections.lock().unwrap() += 1;
                let (shared, acceptor) = (serves.clone(), acceptor.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = serve(stream, &shared).await;
                    }
                });
            }
        });
        Self { address, authority, shared, _tasks: tasks }
    }

    /// Makes a web UI trust this receiver's authority, and allow this machine. Returns the folder that has to stay.
    pub(crate) fn configure(&self, config: &mut Config) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("authority.pem");
        std::fs::write(&path, &self.authority).unwrap();
        config.webhooks.ca_certificate = Some(path);
        config.webhooks.allow_networks = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        folder
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/hooks?from=memgate", self.address.port())
    }

    /// Answers the next requests so, in order.
    pub(crate) fn answer(&self, answers: &[Answer]) {
        self.shared.answers.lock().unwrap().extend(answers);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }

    /// Waits for the `count`th request and returns it.
    pub(crate) async fn request(&self, count: usize) -> Received {
        let what = format!("request {count}");
        eventually(&what, async || self.received().len() >= count).await;
        self.received()[count - 1].clone()
    }
}

impl Received {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn serve(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let received = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(received) = parse(&bytes) {
            break received;
        }
    };
    shared.received.lock().unwrap().push(received);
    let answer = shared.answers.lock().unwrap().pop_front().unwrap_or(Answer::Status(204));
    match answer {
        Answer::Status(status) => {
            let reply = format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\n<secret>\n");
            stream.write_all(reply.as_bytes()).await
        }
        Answer::Hang => stream.read_to_end(&mut bytes).await.map(drop),
    }
}

/// A whole request; `None` if more has to come.
fn parse(bytes: &[u8]) -> Option<Received> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    (body.len() >= length).then(|| Received { target, headers, body: body.to_owned() })
}

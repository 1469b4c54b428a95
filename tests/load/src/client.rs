//! A client of the text and the binary protocol that reads one reply at a time. Errors are short texts to be counted.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::login::{Login, LoginForm};

/// The error of what isn't answered in time.
pub(crate) const TIMED_OUT: &str = "timed out";

const HEADER_BYTES: usize = 24;
const GET: u8 = 0x00;
const SET: u8 = 0x01;
const SUCCESS: u16 = 0;
const NOT_FOUND: u16 = 1;
/// Characters of an unexpected reply that are shown.
const SHOWN: usize = 60;

/// How a client logs in; it goes on in the same protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Sasl,
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An error was replied: the connection can be used further.
    Replied(String),
    /// The connection can't be used any more.
    Broken(String),
}

/// A connection that is logged in.
pub(crate) struct Client {
    stream: TcpStream,
    form: Form,
    /// An answer that takes longer is an error.
    answer_timeout: Duration,
    input: Vec<u8>,
    inspector: Option<Inspector>,
}

type Inspector = Box<dyn FnMut(&[u8]) + Send>;

/// A request that can be sent with others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    /// Of a key.
    Get(&'a str),
    /// Key and value.
    Set(&'a str, &'a [u8]),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Replied(text) | Self::Broken(text)) = self;
        f.write_str(text)
    }
}

impl Request<'_> {
    fn encode(&self, form: Form) -> Vec<u8> {
        match (form, *self) {
            (Form::Text, Self::Get(key)) => format!("get {key}\r\n").into_bytes(),
            (Form::Text, Self::Set(key, value)) => {
                let head = format!("set {key} 0 0 {}\r\n", value.len());
                [head.as_bytes(), value, b"\r\n"].concat()
            }
            (Form::Sasl, Self::Get(key)) => binary_request(GET, &[], key, &[]),
            (Form::Sasl, Self::Set(key, value)) => binary_request(SET, &[0; 8], key, value),
        }
    }
}

impl Client {
    /// Logs in over a new connection.
    pub(crate) async fn log_in(
        stream: TcpStream,
        form: Form,
        (username, password): (&str, &str),
        answer_timeout: Duration,
    ) -> Result<Self, Failure> {
        let mut client = Self { stream, form, answer_timeout, input: Vec::new(), inspector: None };
        let login_form = if form == Form::Text { LoginForm::Text } else { LoginForm::Sasl };
        let login = Login::new(login_form, username, password);
        within(answer_timeout, async {
            client.send(login.request()).await?;
            match form {
                Form::Text => client.expect_line("STORED").await,
                Form::Sasl => client.expect_success().await,
            }
        })
        .await?;
        Ok(client)
    }

    /// Calls a function with all bytes that are received from now on.
    pub(crate) fn inspect(&mut self, inspector: impl FnMut(&[u8]) + Send + 'static) {
        self.inspector = Some(Box::new(inspector));
    }

    /// The value of a key; `None` if there is none.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.send_all(&[Request::Get(key)]).await?;
        self.receive_value(key).await
    }

    /// Stores a value.
    pub(crate) async fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Failure> {
        self.send_all(&[Request::Set(key, value)]).await?;
        self.receive_stored().await
    }

    /// Sends some requests at once. Their replies have to be received one by one.
    pub(crate) async fn send_all(&mut self, requests: &[Request<'_>]) -> Result<(), Failure> {
        let bytes: Vec<u8> = requests.iter().flat_map(|request| request.encode(self.form)).collect();
        within(self.answer_timeout, self.send(&bytes)).await
    }

    /// The reply to a set.
    pub(crate) async fn receive_stored(&mut self) -> Result<(), Failure> {
        within(self.answer_timeout, async {
            match self.form {
                Form::Text => self.expect_line("STORED").await,
                Form::Sasl => self.expect_success().await,
            }
        })
        .await
    }

    /// The reply to a get of this key.
    pub(crate) async fn receive_value(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        within(self.answer_timeout, async {
            match self.form {
                Form::Text => self.text_value(key).await,
                Form::Sasl => self.binary_value().await,
            }
        })
        .await
    }

    async fn text_value(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let head = self.line().await?;
        if head == "END" {
            return Ok(None);
        }
        let length = head.strip_prefix(&format!("VALUE {key} 0 ")).and_then(|length| length.parse().ok());
        let Some(length) = length else { return Err(unexpected(&head)) };
        let value = self.take(length).await?;
        for expected in ["", "END"] {
            self.expect_line(expected).await?;
        }
        Ok(Some(value))
    }

    async fn binary_value(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.read_binary().await? {
            // The first four bytes are the flags.
            (SUCCESS, mut body) => Ok(Some(body.split_off(body.len().min(4)))),
            (NOT_FOUND, _) => Ok(None),
            (status, body) => Err(Failure::Replied(denied(status, &body))),
        }
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(request).await.map_err(broken)
    }

    async fn expect_line(&mut self, expected: &str) -> Result<(), Failure> {
        let line = self.line().await?;
        if line == expected { Ok(()) } else { Err(unexpected(&line)) }
    }

    async fn expect_success(&mut self) -> Result<(), Failure> {
        match self.read_binary().await? {
            (SUCCESS, _) => Ok(()),
            (status, body) => Err(Failure::Replied(denied(status, &body))),
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.input.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.input.len() < length {
            self.fill().await?;
        }
        Ok(self.input.drain(..length).collect())
    }

    /// Status and body of a reply.
    async fn read_binary(&mut self) -> Result<(u16, Vec<u8>), Failure> {
        let header = self.take(HEADER_BYTES).await?;
        let length = [8, 9, 10, 11].map(|at| header[at]);
        let body = self.take(u32::from_be_bytes(length) as usize).await?;
        Ok((u16::from_be_bytes([header[6], header[7]]), body))
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        match self.stream.read_buf(&mut self.input).await.map_err(broken)? {
            0 => Err(Failure::Broken("closed by memgate".into())),
            read => {
                if let Some(inspector) = &mut self.inspector {
                    inspector(&self.input[self.input.len() - read..]);
                }
                Ok(())
            }
        }
    }
}

fn binary_request(opcode: u8, extras: &[u8], key: &str, value: &[u8]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let key_length = u8::try_from(key.len()).unwrap_or(u8::MAX);
    let mut request = vec![0x80, opcode, 0, key_length, u8::try_from(extras.len()).unwrap_or(0), 0, 0, 0];
    request.extend_from_slice(&number(extras.len() + key.len() + value.len()));
    request.resize(HEADER_BYTES, 0);
    [&request, extras, key.as_bytes(), value].concat()
}

/// Waits for a result for a limited time.
pub(crate) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = || Err(Failure::Broken(TIMED_OUT.into()));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| late())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn broken(error: io::Error) -> Failure {
    Failure::Broken(error.kind().to_string())
}

/// An error line leaves the connection usable; after anything else the next bytes mean nothing.
fn unexpected(line: &str) -> Failure {
    let is_error = ["ERROR", "CLIENT_ERROR", "SERVER_ERROR"].iter().any(|word| line.starts_with(word));
    if is_error {
        Failure::Replied(shown(line))
    } else {
        Failure::Broken(format!("unexpected: {}", shown(line)))
    }
}

fn denied(status: u16, body: &[u8]) -> String {
    format!("0x{status:02x} {}", shown(&String::from_utf8_lossy(body)))
}

fn shown(reply: &str) -> String {
    reply.chars().take(SHOWN).collect()
}

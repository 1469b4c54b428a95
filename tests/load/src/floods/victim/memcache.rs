//! A client of the text and the binary protocol that reads one reply at a time. Errors are short texts to be counted.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{ANSWER_TIMEOUT, SOURCE, TIMED_OUT, Victim, connect};
use crate::login::{Login, LoginForm};

const HEADER_BYTES: usize = 24;
const SUCCESS: u16 = 0;
const NOT_FOUND: u16 = 1;
/// Characters of an unexpected reply that are shown.
const SHOWN: usize = 60;

/// How a client logs in; it goes on in the same protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::floods) enum Form {
    Text,
    Sasl,
}

/// A connection that is logged in.
pub(in crate::floods) struct Client {
    stream: TcpStream,
    form: Form,
    input: Vec<u8>,
}

impl Client {
    /// Connects from the victim's address and logs in.
    pub(in crate::floods) async fn log_in(victim: &Victim, form: Form) -> Result<Self, String> {
        in_time(async {
            let stream = connect(victim.proxy, SOURCE).await.map_err(words)?;
            let mut client = Self { stream, form, input: Vec::new() };
            let login_form = if form == Form::Text { LoginForm::Text } else { LoginForm::Sasl };
            let login = Login::new(login_form, &victim.username, &victim.password);
            client.stream.write_all(login.request()).await.map_err(words)?;
            match form {
                Form::Text => client.expect_line("STORED").await?,
                Form::Sasl => match client.read_binary().await? {
                    (SUCCESS, _) => {}
                    (_, body) => return Err(shown(&String::from_utf8_lossy(&body))),
                },
            }
            Ok(client)
        })
        .await
    }

    /// The value of a key; `None` if there is none.
    pub(in crate::floods) async fn get(&mut self, key: &str) -> Result<Option<String>, String> {
        in_time(async {
            match self.form {
                Form::Text => self.get_text(key).await,
                Form::Sasl => self.get_binary(key).await,
            }
        })
        .await
    }

    /// Stores a value. Only in the text protocol.
    pub(in crate::floods) async fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        in_time(async {
            let request = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
            self.stream.write_all(request.as_bytes()).await.map_err(words)?;
            self.expect_line("STORED").await
        })
        .await
    }

    async fn get_text(&mut self, key: &str) -> Result<Option<String>, String> {
        self.stream.write_all(format!("get {key}\r\n").as_bytes()).await.map_err(words)?;
        let head = self.line().await?;
        if head == "END" {
            return Ok(None);
        }
        if !head.starts_with(&format!("VALUE {key} ")) {
            return Err(shown(&head));
        }
        let value = self.line().await?;
        self.expect_line("END").await?;
        Ok(Some(value))
    }

    async fn get_binary(&mut self, key: &str) -> Result<Option<String>, String> {
        let length = u8::try_from(key.len()).map_err(|_| "the key is too long".to_owned())?;
        let mut request = vec![0x80, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length];
        request.resize(HEADER_BYTES, 0);
        request.extend_from_slice(key.as_bytes());
        self.stream.write_all(&request).await.map_err(words)?;
        let (status, body) = self.read_binary().await?;
        match status {
            // The first four bytes are the flags.
            SUCCESS => Ok(Some(String::from_utf8_lossy(body.get(4..).unwrap_or_default()).into_owned())),
            NOT_FOUND => Ok(None),
            _ => Err(shown(&String::from_utf8_lossy(&body))),
        }
    }

    async fn expect_line(&mut self, expected: &str) -> Result<(), String> {
        let line = self.line().await?;
        if line == expected { Ok(()) } else { Err(shown(&line)) }
    }

    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// Status and body of a reply.
    async fn read_binary(&mut self) -> Result<(u16, Vec<u8>), String> {
        while self.input.len() < HEADER_BYTES {
            self.fill().await?;
        }
        let length = [8, 9, 10, 11].map(|at| self.input[at]);
        let end = HEADER_BYTES + u32::from_be_bytes(length) as usize;
        while self.input.len() < end {
            self.fill().await?;
        }
        let reply: Vec<u8> = self.input.drain(..end).collect();
        Ok((u16::from_be_bytes([reply[6], reply[7]]), reply[HEADER_BYTES..].to_vec()))
    }

    async fn fill(&mut self) -> Result<(), String> {
        match self.stream.read_buf(&mut self.input).await.map_err(words)? {
            0 => Err("closed by memgate".into()),
            _ => Ok(()),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err(TIMED_OUT.into()))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn words(error: io::Error) -> String {
    error.kind().to_string()
}

fn shown(reply: &str) -> String {
    reply.chars().take(SHOWN).collect()
}

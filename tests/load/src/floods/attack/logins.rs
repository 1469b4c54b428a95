//! Wrong logins from one address, 10,000 a second: unknown tokens, and the victim's username with wrong passwords.

use std::sync::Arc;

use store::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::job::{Job, Tally};
use crate::login::{Login, LoginForm};

/// Wrong logins on one connection; the proxy closes it after the last.
const ATTEMPTS: u64 = 3;

pub(super) async fn wrong(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let username: Arc<str> = job.username.as_str().into();
    let options = Options { source: |_| pool::ATTACKER, small_buffer: false };
    pool::keep(job, tally, options, move |mut stream: TcpStream, tally: Arc<Tally>| {
        let attempts = attempts(&username);
        async move {
            stream.write_all(&attempts).await?;
            Tally::count(&tally.sent, ATTEMPTS);
            let mut replies = [0; 512];
            loop {
                let read = stream.read(&mut replies).await?;
                if read == 0 {
                    return Ok(());
                }
                let lines = replies[..read].iter().filter(|byte| **byte == b'\n').count();
                Tally::count(&tally.denied, lines as u64);
            }
        }
    })
    .await
}

/// Three logins: two tokens that nobody has, and the victim's username with the last one's password.
fn attempts(username: &str) -> Vec<u8> {
    let unknown: [Token; 2] = std::array::from_fn(|_| Token::generate());
    let username_of = |token: &Token| token.id().username();
    let mut bytes = Vec::new();
    for (name, token) in [
        (username_of(&unknown[0]), &unknown[0]),
        (username.to_owned(), &unknown[1]),
        (username_of(&unknown[1]), &unknown[1]),
    ] {
        bytes.extend_from_slice(Login::new(LoginForm::Text, &name, token.secret().reveal()).request());
    }
    bytes
}

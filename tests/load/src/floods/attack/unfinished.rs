//! One tenant that fills the proxy's buffers: sets whose values never end, with or without unread replies.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::connect::connect;
use crate::floods::job::{Job, Tally};
use crate::login::{Login, LoginForm};

const SET: &str = "set a 0 0 131000\r\n";
/// Bytes of the value that are sent.
const SENT_BYTES: usize = 130_990;
/// A value of 100,000 bytes that is asked for several times.
const BIG_BYTES: usize = 100_000;
const GET_BIG: &[u8] = b"get big\r\nget big\r\nget big\r\nget big\r\n";

pub(super) async fn sets(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    keep(job, tally, b"").await
}

pub(super) async fn sets_with_unread_replies(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let mut stream = connect(job.target, pool::ATTACKER, false).await?;
    let login = Login::new(LoginForm::Text, &job.username, &job.password);
    let set = [format!("set big 0 0 {BIG_BYTES}\r\n").as_bytes(), &[b'b'; BIG_BYTES], b"\r\n"].concat();
    expect_stored(&mut stream, login.request()).await?;
    expect_stored(&mut stream, &set).await?;
    drop(stream);
    keep(job, tally, GET_BIG).await
}

/// On each connection: logs in, sends `before` and a set that it doesn't end; then waits, and reads nothing if there
/// are replies to `before`.
async fn keep(job: &Job, tally: &Arc<Tally>, before: &'static [u8]) -> Result<(), LoadError> {
    let login = Login::new(LoginForm::Text, &job.username, &job.password);
    let login: Arc<[u8]> = login.request().into();
    let unfinished: Arc<[u8]> = [before, SET.as_bytes(), &vec![b'a'; SENT_BYTES]].concat().into();
    let reads = before.is_empty();
    let options = Options { source: |_| pool::ATTACKER, small_buffer: !reads };
    pool::keep(job, tally, options, move |mut stream: TcpStream, tally: Arc<Tally>| {
        let (login, unfinished) = (login.clone(), unfinished.clone());
        async move {
            if let Err(error) = expect_stored(&mut stream, &login).await {
                Tally::count(&tally.denied, 1);
                return Err(error);
            }
            stream.write_all(&unfinished).await?;
            Tally::count(&tally.sent, 1);
            if reads {
                return pool::until_closed(&mut stream).await;
            }
            pool::until_closed_unread(&stream).await
        }
    })
    .await
}

/// Sends a request and reads its reply, which must be `STORED`.
async fn expect_stored(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    let mut reply = [0; 8];
    stream.read_exact(&mut reply).await?;
    if &reply == b"STORED\r\n" { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

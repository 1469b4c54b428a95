//! Requests far over the rate of a plan, repeated as fast as the proxy reads them.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::job::{Job, Tally};
use crate::login::{Login, LoginForm};

/// A no-op of the binary protocol.
pub(super) const NOOP: &[u8] = b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CHUNK_BYTES: usize = 64 * 1024;

pub(super) async fn repeat(job: &Job, tally: &Arc<Tally>, request: &'static [u8]) -> Result<(), LoadError> {
    let form = if request == NOOP { LoginForm::Sasl } else { LoginForm::Text };
    let login: Arc<[u8]> = Login::new(form, &job.username, &job.password).request().into();
    let requests = CHUNK_BYTES / request.len();
    let chunk: Arc<[u8]> = request.repeat(requests).into();
    let options = Options { source: |_| pool::ATTACKER, small_buffer: false };
    pool::keep(job, tally, options, move |mut stream: TcpStream, tally: Arc<Tally>| {
        let (login, chunk) = (login.clone(), chunk.clone());
        async move {
            stream.write_all(&login).await?;
            let mut scratch = vec![0; CHUNK_BYTES];
            // The first reply: otherwise requests could arrive before the login is decided.
            if stream.read(&mut scratch).await? == 0 {
                return Ok(());
            }
            let (mut reader, mut writer) = stream.split();
            let write = async {
                loop {
                    writer.write_all(&chunk).await?;
                    Tally::count(&tally.sent, requests as u64);
                }
            };
            let read = async {
                while reader.read(&mut scratch).await? > 0 {}
                Ok(())
            };
            tokio::select! { done = write => done, done = read => done }
        }
    })
    .await
}

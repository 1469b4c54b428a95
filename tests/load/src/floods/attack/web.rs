//! Floods of the web UI: answers that are never read, and sign-ins with ever new e-mail addresses.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::pool::{self, Options};
use crate::error::LoadError;
use crate::floods::http::{self, Http};
use crate::floods::job::{Job, Tally};

/// Requests that are sent at once on a connection that never reads.
const PIPELINED: usize = 400;
const SOURCES: usize = 250;
const WRONG_PASSWORD: &str = "Spring2026!";

/// Asks for an asset many times at once, and reads no answer.
pub(super) async fn never_read(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let options = Options { source: |_| pool::ATTACKER, small_buffer: true };
    let requests: Arc<[u8]> =
        b"GET /assets/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(PIPELINED).into();
    pool::keep(job, tally, options, move |mut stream: TcpStream, tally: Arc<Tally>| {
        let requests = requests.clone();
        async move {
            stream.write_all(&requests).await?;
            Tally::count(&tally.sent, PIPELINED as u64);
            pool::until_closed_unread(&stream).await
        }
    })
    .await
}

/// Signs in as fast as answers come, each time with another e-mail address and the same password.
pub(super) async fn spray(
    job: &Job,
    tally: &Arc<Tally>,
    source: fn(usize) -> Option<Ipv4Addr>,
) -> Result<(), LoadError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let shard = job.shard;
    pool::keep(
        job,
        tally,
        Options { source, small_buffer: false },
        move |stream, tally: Arc<Tally>| async move {
            let mut http = Http::new(stream);
            let form = http.sign_in_form().await?;
            loop {
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                let email = format!("spray-{shard}-{n}@example.org");
                Tally::count(&tally.sent, 1);
                let answer = http.sign_in(&form, &email, WRONG_PASSWORD).await?;
                Tally::count(&tally.denied, u64::from(answer.status != http::UNAUTHORIZED));
            }
        },
    )
    .await
}

/// The source address of the `n`th connection of a spray from many sources.
pub(super) fn source(n: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::new(127, 77, u8::try_from(n % SOURCES).unwrap_or(0), 1))
}

/// The source address of the `n`th connection, if each has its own.
pub(super) fn own_source(n: usize) -> Option<Ipv4Addr> {
    let [.., third, fourth] = u32::try_from(n).unwrap_or(0).to_be_bytes();
    Some(Ipv4Addr::new(127, 78, third, fourth))
}

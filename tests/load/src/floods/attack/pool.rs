//! A pool of connections: each is opened at a bounded rate, does something until the server closes it, and is opened
//! again.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::LoadError;
use crate::floods::connect::connect;
use crate::floods::job::{Job, Tally};

/// The address of every flood that comes from one source.
pub(super) const ATTACKER: Option<Ipv4Addr> = Some(Ipv4Addr::new(127, 66, 0, 1));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks whether the server has closed a connection that isn't read.
const CLOSED_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What the connections of a pool have in common.
#[derive(Clone, Copy)]
pub(super) struct Options {
    /// The source address of the `n`th connection; `None` leaves it to the kernel.
    pub(super) source: fn(usize) -> Option<Ipv4Addr>,
    /// Whether the receive buffer is as small as possible, so that the server can send little.
    pub(super) small_buffer: bool,
}

/// Keeps the job's connections open; `use_connection` returns when the server has closed one.
pub(super) async fn keep<F, R>(
    job: &Job,
    tally: &Arc<Tally>,
    options: Options,
    use_connection: F,
) -> Result<(), LoadError>
where
    F: Fn(TcpStream, Arc<Tally>) -> R + Clone + Send + 'static,
    R: Future<Output = io::Result<()>> + Send,
{
    let pace = Arc::new(Pace::new(job.connects_per_second()));
    let target = job.target;
    let mut connections = JoinSet::new();
    for number in job.connections() {
        let (pace, tally, use_connection) = (pace.clone(), tally.clone(), use_connection.clone());
        connections.spawn(async move {
            loop {
                pace.turn().await;
                let connecting = connect(target, (options.source)(number), options.small_buffer);
                match timeout(CONNECT_TIMEOUT, connecting).await {
                    Ok(Ok(stream)) => {
                        Tally::count(&tally.opened, 1);
                        let _ = use_connection(stream, tally.clone()).await;
                        Tally::count(&tally.closed, 1);
                    }
                    _ => Tally::count(&tally.failed, 1),
                }
            }
        });
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Keeps the job's connections open and silent.
pub(super) async fn hold(job: &Job, tally: &Arc<Tally>, options: Options) -> Result<(), LoadError> {
    keep(job, tally, options, |mut stream, _| async move { until_closed(&mut stream).await }).await
}

/// Reads and drops everything until the server closes the connection.
pub(super) async fn until_closed(stream: &mut TcpStream) -> io::Result<()> {
    let mut scratch = [0; 512];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

/// Waits until the server closes a connection whose data isn't read.
pub(super) async fn until_closed_unread(stream: &TcpStream) -> io::Result<()> {
    while !stream.ready(Interest::READABLE).await?.is_read_closed() {
        tokio::time::sleep(CLOSED_CHECK_INTERVAL).await;
    }
    Ok(())
}

/// Hands out turns at a steady rate.
struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(per_second: f64) -> Self {
        Self { interval: Duration::from_secs_f64(1.0 / per_second), next: Mutex::new(Instant::now()) }
    }

    async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + self.interval;
            at
        };
        sleep_until(at).await;
    }
}

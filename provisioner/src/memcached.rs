//! A connection to one memcached, logged in as lanes are, for what the provisioner asks of it itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use store::LaneCredential;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::health_check::{read_line, read_line_into};
use crate::spec::PORT;

/// Time limit of the login, and of each request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of a reply with statistics. memcached sends fewer than 1,000: 13 for each of at most 63 sizes of items.
const LINES_MAX: usize = 2_000;

#[derive(Debug)]
pub(crate) struct Memcached {
    lane: BufReader<TcpStream>,
}

impl Memcached {
    /// Logs in. The secret is sent only to what refuses a request without it, as each instance does
    /// (docs/protocol.md, L-4).
    ///
    /// # Errors
    /// If it can't be reached in time, or what answers is no instance.
    pub(crate) async fn connect(address: IpAddr, credential: &LaneCredential) -> io::Result<Self> {
        Self::connect_to(SocketAddr::new(address, PORT), credential).await
    }

    pub(crate) async fn connect_to(address: SocketAddr, credential: &LaneCredential) -> io::Result<Self> {
        let login = async {
            let mut memcached = Self { lane: BufReader::new(TcpStream::connect(address).await?) };
            for (request, expected) in [
                (LaneCredential::VERSION_REQUEST, LaneCredential::UNAUTHENTICATED),
                (&credential.login_command(), LaneCredential::LOGIN_OK),
            ] {
                memcached.lane.write_all(request.as_bytes()).await?;
                if read_line(&mut memcached.lane).await? != expected {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
            }
            Ok(memcached)
        };
        in_time(login).await
    }

    /// Sends a command and returns the line that answers it.
    ///
    /// # Errors
    /// If the reply doesn't come in time.
    pub(crate) async fn request(&mut self, command: &str) -> io::Result<String> {
        in_time(async {
            self.lane.write_all(format!("{command}\r\n").as_bytes()).await?;
            read_line(&mut self.lane).await
        })
        .await
    }

    /// Its statistics: names and values. `about` is empty, or names a group with a space before it.
    ///
    /// # Errors
    /// If the reply doesn't come in time, or isn't one.
    pub(crate) async fn statistics(&mut self, about: &str) -> io::Result<Vec<(String, String)>> {
        let mut figures = Vec::new();
        self.each_statistic(&[about], |name, value| figures.push((name.to_owned(), value.to_owned())))
            .await?;
        Ok(figures)
    }

    /// The same of several groups, asked for at once: calls `each` with names and values, and keeps none.
    ///
    /// # Errors
    /// As [`Memcached::statistics`].
    pub(crate) async fn each_statistic(
        &mut self,
        groups: &[&str],
        mut each: impl FnMut(&str, &str),
    ) -> io::Result<()> {
        let request: String = groups.iter().map(|about| format!("stats{about}\r\n")).collect();
        let read = async {
            self.lane.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            for _ in groups {
                let mut lines = 0;
                loop {
                    let line = read_line_into(&mut self.lane, &mut text).await?;
                    if line == "END" {
                        break;
                    }
                    let figure = line.strip_prefix("STAT ").and_then(|figure| figure.split_once(' '));
                    let (name, value) = figure.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
                    each(name, value);
                    lines += 1;
                    if lines == LINES_MAX {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            Ok(())
        };
        in_time(read).await
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

//! A connection to an instance's memcached itself, logged in as lanes are (docs/protocol.md, L-4): only root's processes and
//! the proxy's reach it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use store::{Instance, LaneCredential, LaneKey};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::error::LoadError;
use crate::local_only;

const PORT: u16 = 11211;
/// For each line of a reply; a busy memcached takes its time.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// The list of keys is made by a crawler, of which there is one.
const CRAWLER_INTERVAL: Duration = Duration::from_millis(50);
const CRAWLER_ATTEMPTS_MAX: usize = 100;

pub(crate) struct DirectConnection(BufReader<TcpStream>);

impl DirectConnection {
    /// Logs in to an instance at its recorded address.
    pub(crate) async fn open(instance: &Instance, key: &LaneKey) -> Result<Self, LoadError> {
        let route = instance.route.as_ref();
        let address = route.and_then(|route| route.address.as_ref()?.parse().ok());
        let (Some(route), Some(address)) = (route, address) else {
            return Err(LoadError::invalid_run("a cache has no address"));
        };
        let target = SocketAddr::new(address, PORT);
        local_only::check(target)?;
        let mut connection = Self(BufReader::new(TcpStream::connect(target).await?));
        let login = key.credential(&instance.id, route.generation).login_command();
        connection.send(&login).await?;
        let reply = connection.line().await?;
        if reply == LaneCredential::LOGIN_OK {
            Ok(connection)
        } else {
            Err(LoadError::invalid_run(format!("memcached refuses the lane's login: {reply}")))
        }
    }

    /// Its statistics; `about` is empty, or the name of a group with a space before it.
    pub(crate) async fn statistics(&mut self, about: &str) -> Result<BTreeMap<String, i64>, LoadError> {
        self.send(&format!("stats{about}\r\n")).await?;
        let mut statistics = BTreeMap::new();
        loop {
            let line = self.line().await?;
            if line == "END" {
                return Ok(statistics);
            }
            let figure = line.strip_prefix("STAT ").and_then(|figure| figure.split_once(' '));
            let (name, value) = figure.ok_or_else(|| unexpected(&line))?;
            // Others aren't whole numbers.
            if let Ok(value) = value.parse() {
                statistics.insert(name.to_owned(), value);
            }
        }
    }

    /// All keys, as memcached writes them: with `%` and two digits for each byte that isn't printable.
    pub(crate) async fn keys(&mut self) -> Result<Vec<String>, LoadError> {
        for _ in 0..CRAWLER_ATTEMPTS_MAX {
            self.send("lru_crawler metadump all\r\n").await?;
            let mut keys = Vec::new();
            loop {
                let line = self.line().await?;
                if line == "END" {
                    return Ok(keys);
                }
                if line.starts_with("BUSY") {
                    break;
                }
                let key = line.strip_prefix("key=").and_then(|rest| rest.split(' ').next());
                keys.push(key.ok_or_else(|| unexpected(&line))?.to_owned());
            }
            tokio::time::sleep(CRAWLER_INTERVAL).await;
        }
        Err(LoadError::invalid_run("memcached's crawler stays busy"))
    }

    async fn send(&mut self, request: &str) -> Result<(), LoadError> {
        Ok(self.0.get_mut().write_all(request.as_bytes()).await?)
    }

    async fn line(&mut self) -> Result<String, LoadError> {
        let mut line = String::new();
        let read = tokio::time::timeout(LINE_TIMEOUT, self.0.read_line(&mut line)).await;
        match read {
            Err(_) => Err(LoadError::invalid_run("memcached doesn't answer")),
            Ok(Ok(0)) => Err(LoadError::invalid_run("memcached closed a connection")),
            Ok(read) => {
                read?;
                line.truncate(line.trim_end().len());
                Ok(line)
            }
        }
    }
}

fn unexpected(line: &str) -> LoadError {
    LoadError::invalid_run(format!("an unexpected line of memcached: {}", line.escape_debug()))
}

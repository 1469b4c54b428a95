//! What a memcached says of itself: memory, items, hits, evictions.

use std::io;
use std::net::IpAddr;

use store::LaneCredential;

use crate::memcached::Memcached;

/// Figures of one memcached since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Bytes that items use.
    pub bytes: u64,
    /// Bytes that items may use.
    pub limit_maxbytes: u64,
    /// Items, expired ones too until memcached finds them.
    pub curr_items: u64,
    /// Reads that found their key.
    pub get_hits: u64,
    /// Reads that didn't.
    pub get_misses: u64,
    /// Items that were removed to make room.
    pub evictions: u64,
    /// Seconds since it started.
    pub uptime: u64,
}

/// Asks the memcached at `address`. The secret is sent only to what refuses a request without it, as each instance does
/// (docs/protocol.md, L-4).
///
/// # Errors
/// If it can't be reached from this machine, or what answers is no instance.
pub async fn read(address: IpAddr, credential: &LaneCredential) -> io::Result<Statistics> {
    ask(&mut Memcached::connect(address, credential).await?).await
}

async fn ask(memcached: &mut Memcached) -> io::Result<Statistics> {
    let mut statistics = Statistics::default();
    for (name, value) in memcached.statistics("").await? {
        statistics.take(&name, &value);
    }
    Ok(statistics)
}

impl Statistics {
    /// Takes one figure. Others are ignored.
    fn take(&mut self, name: &str, value: &str) {
        let (field, value) = match (name, value.parse()) {
            ("bytes", Ok(value)) => (&mut self.bytes, value),
            ("limit_maxbytes", Ok(value)) => (&mut self.limit_maxbytes, value),
            ("curr_items", Ok(value)) => (&mut self.curr_items, value),
            ("get_hits", Ok(value)) => (&mut self.get_hits, value),
            ("get_misses", Ok(value)) => (&mut self.get_misses, value),
            ("evictions", Ok(value)) => (&mut self.evictions, value),
            ("uptime", Ok(value)) => (&mut self.uptime, value),
            _ => return,
        };
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What is read from a server that sends one reply to each request, and what it was sent.
    async fn read_from(replies: &[&str]) -> (io::Result<Statistics>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let credential = LaneCredential::new("secret-of-the-lane".to_owned());
        let serve = async {
            let (mut client, _) = listener.accept().await.unwrap();
            let (mut received, mut request) = (String::new(), [0; 4096]);
            for reply in replies {
                let length = client.read(&mut request).await.unwrap();
                received.push_str(&String::from_utf8_lossy(&request[..length]));
                client.write_all(reply.as_bytes()).await.unwrap();
            }
            received
        };
        let read = async { ask(&mut Memcached::connect_to(address, &credential).await?).await };
        tokio::join!(read, serve)
    }

    // F-21.
    #[tokio::test]
    async fn figures_are_read_from_an_instance_only() {
        let (refused, stored) = ("CLIENT_ERROR unauthenticated\r\n", "STORED\r\n");
        let stats = "STAT bytes 71\r\nSTAT limit_maxbytes 67108864\r\nSTAT version 1.6.18\r\nSTAT evictions 3\r\nEND\r\n";
        let (read, _) = read_from(&[refused, stored, stats]).await;
        let expected =
            Statistics { bytes: 71, limit_maxbytes: 67_108_864, evictions: 3, ..Statistics::default() };
        assert_eq!(read.unwrap(), expected);
        let (read, sent) = read_from(&["VERSION 1.6.18\r\n"]).await;
        assert!(read.is_err() && !sent.contains("secret"), "{sent}");
        for replies in [[refused, "ERROR\r\n", ""], [refused, stored, "nonsense\r\n"]] {
            assert!(
                read_from(&replies[..if replies[2].is_empty() { 2 } else { 3 }]).await.0.is_err(),
                "{replies:?}"
            );
        }
    }
}

//! What a memcached says of itself: memory, items, hits, evictions, sizes of items. It may say anything: only known
//! figures are taken, and only numbers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use store::{LaneCredential, SlabClass};

use crate::memcached::Memcached;
use crate::spec::PORT;

/// memcached's groups of figures that are read: general ones, and those of sizes of items.
const GROUPS: [&str; 3] = ["", " slabs", " items"];
/// memcached numbers sizes of items from 1 on.
const CLASS_MAX: u32 = 63;

/// What memcached counts commands by that read or change items.
const COMMANDS: [&str; 10] = [
    "cmd_get",
    "cmd_set",
    "cmd_flush",
    "cmd_touch",
    "delete_hits",
    "delete_misses",
    "incr_hits",
    "incr_misses",
    "decr_hits",
    "decr_misses",
];

/// Figures of one memcached since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Statistics {
    /// Bytes that items use.
    pub bytes: u64,
    /// Bytes that items may use.
    pub limit_maxbytes: u64,
    /// Items, expired ones too until memcached finds them.
    pub curr_items: u64,
    /// Connections: those of proxies, and the one that asks.
    pub curr_connections: u64,
    /// Reads that found their key.
    pub get_hits: u64,
    /// Reads that didn't.
    pub get_misses: u64,
    /// Stores.
    pub cmd_set: u64,
    /// Items that were removed to make room.
    pub evictions: u64,
    /// Those of them that nobody had read.
    pub evicted_unfetched: u64,
    /// Expired items whose memory was used again.
    pub reclaimed: u64,
    /// Bytes received.
    pub bytes_read: u64,
    /// Bytes sent.
    pub bytes_written: u64,
    /// Seconds since it started.
    pub uptime: u64,
    /// Its sizes of items.
    pub slab_classes: Vec<SlabClass>,
    /// Commands that read or change items.
    #[serde(skip)]
    pub(crate) commands: u64,
}

/// Asks the memcached at `address`. The secret is sent only to what refuses a request without it, as each instance does
/// (docs/protocol.md, L-4).
///
/// # Errors
/// If it can't be reached from this machine, or what answers is no instance.
pub async fn read(address: IpAddr, credential: &LaneCredential) -> io::Result<Statistics> {
    read_from(SocketAddr::new(address, PORT), credential).await
}

/// The same at any port.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_from(address: SocketAddr, credential: &LaneCredential) -> io::Result<Statistics> {
    let (mut statistics, mut classes) = (Statistics::default(), BTreeMap::new());
    let mut memcached = Memcached::connect_to(address, credential).await?;
    memcached
        .each_statistic(&GROUPS, |name, value| {
            let Ok(value) = value.parse() else { return };
            if !take_class(&mut classes, name, value) {
                statistics.take(name, value);
            }
        })
        .await?;
    statistics.slab_classes = classes.into_values().collect();
    Ok(statistics)
}

impl Statistics {
    /// Stores that failed because there was no room, of all sizes.
    pub(crate) fn out_of_memory(&self) -> u64 {
        self.slab_classes.iter().fold(0, |sum, class| sum.saturating_add(class.out_of_memory))
    }

    /// Takes one figure. Others are ignored.
    fn take(&mut self, name: &str, value: u64) {
        if COMMANDS.contains(&name) {
            self.commands = self.commands.saturating_add(value);
        }
        let field = match name {
            "bytes" => &mut self.bytes,
            "limit_maxbytes" => &mut self.limit_maxbytes,
            "curr_items" => &mut self.curr_items,
            "curr_connections" => &mut self.curr_connections,
            "get_hits" => &mut self.get_hits,
            "get_misses" => &mut self.get_misses,
            "cmd_set" => &mut self.cmd_set,
            "evictions" => &mut self.evictions,
            "evicted_unfetched" => &mut self.evicted_unfetched,
            "reclaimed" => &mut self.reclaimed,
            "bytes_read" => &mut self.bytes_read,
            "bytes_written" => &mut self.bytes_written,
            "uptime" => &mut self.uptime,
            _ => return,
        };
        *field = value;
    }
}

/// Takes a figure of a size of items: `5:chunk_size`, `items:5:evicted`. Returns whether it is one.
fn take_class(classes: &mut BTreeMap<u32, SlabClass>, name: &str, value: u64) -> bool {
    let (is_items, rest) = name.strip_prefix("items:").map_or((false, name), |rest| (true, rest));
    let Some((number, figure)) = rest.split_once(':') else { return false };
    let Some(number) = number.parse().ok().filter(|number| (1..=CLASS_MAX).contains(number)) else {
        return false;
    };
    let class = classes.entry(number).or_insert(SlabClass { class: number, ..SlabClass::default() });
    let field = match (is_items, figure) {
        (false, "chunk_size") => &mut class.chunk_size,
        (false, "total_pages") => &mut class.pages,
        (true, "number") => &mut class.items,
        (true, "evicted") => &mut class.evicted,
        (true, "evicted_unfetched") => &mut class.evicted_unfetched,
        (true, "outofmemory") => &mut class.out_of_memory,
        _ => return true,
    };
    *field = value;
    true
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What is read from a server that sends one reply to each request, and what it was sent.
    async fn answered(replies: &[&str]) -> (io::Result<Statistics>, String) {
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
        tokio::join!(read_from(address, &credential), serve)
    }

    // F-21.
    #[tokio::test]
    async fn figures_are_read_from_an_instance_only() {
        let (refused, stored) = ("CLIENT_ERROR unauthenticated\r\n", "STORED\r\n");
        let stats = "STAT cmd_get 4\r\nSTAT cmd_meta 9\r\nSTAT bytes 71\r\nSTAT limit_maxbytes 67108864\r\nSTAT version 1.6.18\r\nSTAT evictions 3\r\n\
             STAT cmd_set -5\r\nSTAT uptime 99999999999999999999\r\nSTAT reclaimed 2\r\nEND\r\n\
             STAT 5:chunk_size 240\r\nSTAT 5:total_pages 2\r\nSTAT 64:chunk_size 1\r\nSTAT total_malloced 9\r\nEND\r\n\
             STAT items:5:outofmemory 4\r\nSTAT items:5:age 9\r\nSTAT items:7:outofmemory 1\r\nEND\r\n";
        let (read, _) = answered(&[refused, stored, stats]).await;
        let class =
            SlabClass { class: 5, chunk_size: 240, pages: 2, out_of_memory: 4, ..SlabClass::default() };
        let other = SlabClass { class: 7, out_of_memory: 1, ..SlabClass::default() };
        let expected = Statistics {
            bytes: 71,
            limit_maxbytes: 67_108_864,
            evictions: 3,
            reclaimed: 2,
            commands: 4,
            slab_classes: vec![class, other],
            ..Statistics::default()
        };
        let read = read.unwrap();
        assert_eq!(read.out_of_memory(), 5);
        assert_eq!(read, expected);
        let (read, sent) = answered(&["VERSION 1.6.18\r\n"]).await;
        assert!(read.is_err() && !sent.contains("secret"), "{sent}");
        for replies in [[refused, "ERROR\r\n", ""], [refused, stored, "nonsense\r\n"]] {
            assert!(
                answered(&replies[..if replies[2].is_empty() { 2 } else { 3 }]).await.0.is_err(),
                "{replies:?}"
            );
        }
    }
}

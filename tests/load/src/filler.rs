//! Fills a cache through the proxy: many connections that store new items of some sizes, many at a time, and read some of them.
//! Checks every byte that comes back, and counts what is refused.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::account::Account;
use crate::login::{Login, LoginForm};

/// What memcached replies when there is neither room for an item nor another one to remove: before it reads the value, and
/// while it reads a large one, which it stores in chunks.
const OUT_OF_MEMORY: [&str; 2] =
    ["SERVER_ERROR out of memory storing object", "SERVER_ERROR Out of memory during read"];
/// For a login, and for all replies to the requests that were sent at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request beside its value.
const HEAD_BYTES: usize = 60;
/// One read for so many stores, of one of so many items before.
const STORES_PER_READ: usize = 4;
const READ_BACK: u64 = 5_000;
/// Shares no factor with [`READ_BACK`], so that reads spread over these items.
const READ_STEP: u64 = 37;
/// Characters of an error that are kept, and errors of different kinds.
const ERROR_LEN_MAX: usize = 80;
const ERRORS_MAX: usize = 20;

/// What to fill a cache with.
#[derive(Debug, Clone)]
pub(crate) struct FillOptions {
    /// Part of each key: keys of other options differ.
    pub(crate) name: String,
    /// Bytes of values; in turn, if there are several.
    pub(crate) sizes: Vec<usize>,
    pub(crate) connections: usize,
    /// Of requests that are sent at once over one connection.
    pub(crate) batch_bytes: usize,
    /// Whether items are read, too.
    pub(crate) reads: bool,
}

/// What has come of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Items that were stored, by their size.
    pub(crate) stored: BTreeMap<usize, u64>,
    /// Items that were found again.
    pub(crate) found: u64,
    /// Values that came back with another length, or a wrong byte.
    pub(crate) wrong: u64,
    pub(crate) out_of_memory: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Fills until it is stopped.
pub(crate) struct Filler {
    connections: JoinSet<Filled>,
    /// What those have done that have ended.
    ended: Filled,
    is_stopped: Arc<AtomicBool>,
}

struct Connection {
    endpoint: SocketAddr,
    account: Account,
    options: FillOptions,
    /// In the keys.
    number: usize,
    /// How many items of each size were sent.
    sent: Vec<u64>,
    filled: Filled,
}

impl Filler {
    pub(crate) fn start(endpoint: SocketAddr, account: &Account, options: &FillOptions) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let mut connections = JoinSet::new();
        for number in 0..options.connections {
            let sent = vec![0; options.sizes.len()];
            let (account, options, filled) = (account.clone(), options.clone(), Filled::default());
            let connection = Connection { endpoint, account, options, number, sent, filled };
            connections.spawn(connection.run(Arc::clone(&is_stopped)));
        }
        Self { connections, ended: Filled::default(), is_stopped }
    }

    /// Whether all connections have ended, which they do only after an error.
    pub(crate) fn has_failed(&mut self) -> bool {
        while let Some(ended) = self.connections.try_join_next() {
            match ended {
                Ok(filled) => self.ended.add(filled),
                Err(error) => self.ended.failed(&format!("connection: {error}"), 1),
            }
        }
        self.connections.is_empty()
    }

    /// Waits for all replies.
    pub(crate) async fn stop(self) -> Filled {
        self.is_stopped.store(true, Ordering::Relaxed);
        let mut all = self.ended;
        self.connections.join_all().await.into_iter().for_each(|filled| all.add(filled));
        all
    }
}

impl Filled {
    /// Items of all sizes.
    pub(crate) fn stored_in_all(&self) -> u64 {
        self.stored.values().sum()
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (size, count) in other.stored {
            *self.stored.entry(size).or_default() += count;
        }
        self.found += other.found;
        self.wrong += other.wrong;
        self.out_of_memory += other.out_of_memory;
        for (error, count) in other.errors {
            self.failed(&error, count);
        }
    }

    fn failed(&mut self, error: &str, count: u64) {
        let error: String = error.chars().take(ERROR_LEN_MAX).collect();
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&error) {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// Takes a line that isn't the head of a value. Returns whether it says that an item was refused.
    fn take_line(&mut self, line: &str) -> bool {
        if OUT_OF_MEMORY.contains(&line) {
            self.out_of_memory += 1;
        } else if line != "EN" {
            self.failed(line, 1);
        }
        line != "EN"
    }

    fn take_value(&mut self, key: &str, value: &[u8]) {
        self.found += 1;
        self.wrong += u64::from(!is_right(key, value));
    }
}

impl Connection {
    async fn run(mut self, is_stopped: Arc<AtomicBool>) -> Filled {
        if let Err(error) = self.fill(&is_stopped).await {
            self.filled.failed(&format!("connection: {error}"), 1);
        }
        self.filled
    }

    async fn fill(&mut self, is_stopped: &AtomicBool) -> io::Result<()> {
        let (mut input, mut output) = timeout(ANSWER_TIMEOUT, self.log_in()).await??;
        let mut kind = self.number;
        while !is_stopped.load(Ordering::Relaxed) {
            kind = (kind + 1) % self.options.sizes.len();
            let (stores, requests) = self.requests(kind);
            // At once: memgate reads no more from a client that doesn't read its replies.
            let replies = async {
                let (_, failed) = tokio::try_join!(output.write_all(&requests), self.read(&mut input))?;
                Ok::<u64, io::Error>(failed)
            };
            let failed = timeout(ANSWER_TIMEOUT, replies).await??;
            *self.filled.stored.entry(self.options.sizes[kind]).or_default() += stores - failed.min(stores);
        }
        Ok(())
    }

    async fn log_in(&self) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
        let stream = TcpStream::connect(self.endpoint).await?;
        stream.set_nodelay(true)?;
        let (input, mut output) = stream.into_split();
        let mut input = BufReader::new(input);
        let login = Login::new(LoginForm::Text, &self.account.username, &self.account.password);
        output.write_all(login.request()).await?;
        let mut line = String::new();
        input.read_line(&mut line).await?;
        if line.trim_end() == "STORED" {
            Ok((input, output))
        } else {
            Err(io::Error::other(format!("login: {}", line.trim_end())))
        }
    }

    /// How many items the next requests store, and these requests.
    fn requests(&mut self, kind: usize) -> (u64, Vec<u8>) {
        let size = self.options.sizes[kind];
        let stores = (self.options.batch_bytes / (size + HEAD_BYTES)).max(1);
        let mut requests = Vec::with_capacity(stores * (size + HEAD_BYTES));
        for _ in 0..stores {
            let number = self.sent[kind];
            // Quiet: only failures are replied, and values.
            requests.extend_from_slice(format!("ms {} {size} q\r\n", self.key(size, number)).as_bytes());
            requests.resize(requests.len() + size, byte_of(number));
            requests.extend_from_slice(b"\r\n");
            self.sent[kind] += 1;
        }
        let last = self.sent[kind] - 1;
        let reads = if self.options.reads { stores.div_ceil(STORES_PER_READ) as u64 } else { 0 };
        for read in 0..reads {
            let number = last - (last + read * READ_STEP) % READ_BACK.min(last + 1);
            requests.extend_from_slice(format!("mg {} k v q\r\n", self.key(size, number)).as_bytes());
        }
        requests.extend_from_slice(b"mn\r\n");
        (stores as u64, requests)
    }

    fn key(&self, size: usize, number: u64) -> String {
        format!("{}:{size}:{}:{number}", self.options.name, self.number)
    }

    /// Reads all replies to the requests that were sent at once. Returns how many of them are errors, those to reads, too: no
    /// more is counted as stored than was.
    async fn read(&mut self, input: &mut BufReader<OwnedReadHalf>) -> io::Result<u64> {
        let (mut line, mut value, mut failed) = (String::new(), Vec::new(), 0);
        loop {
            line.clear();
            if input.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end();
            if text == "MN" {
                return Ok(failed);
            }
            match value_head(text) {
                Some((length, key)) => {
                    value.resize(length + 2, 0);
                    input.read_exact(&mut value).await?;
                    self.filled.take_value(key, &value[..length]);
                }
                None => failed += u64::from(self.filled.take_line(text)),
            }
        }
    }
}

/// Length and key in the head of a value: `VA 5 kname`.
fn value_head(line: &str) -> Option<(usize, &str)> {
    let (length, key) = line.strip_prefix("VA ")?.split_once(" k")?;
    Some((length.parse().ok()?, key.split(' ').next()?))
}

/// Each value repeats one byte, which follows from its number.
fn byte_of(number: u64) -> u8 {
    b'a' + u8::try_from(number % 26).unwrap_or(0)
}

/// Whether a value is the one that was stored under a key: its length and its number stand in it.
fn is_right(key: &str, value: &[u8]) -> bool {
    let mut parts = key.rsplit(':');
    let number = parts.next().and_then(|number| number.parse().ok());
    let size: Option<usize> = parts.nth(1).and_then(|size| size.parse().ok());
    size == Some(value.len())
        && number.is_some_and(|number| value.iter().all(|byte| *byte == byte_of(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_or_length_or_another_value_is_found() {
        assert!(is_right("one:4:0:27", b"bbbb"));
        for (key, value) in
            [("one:4:0:27", "bbbc"), ("one:4:0:27", "bbb"), ("one:4:0:28", "bbbb"), ("other", "bbbb")]
        {
            assert!(!is_right(key, value.as_bytes()), "{key} {value}");
        }
    }

    #[test]
    fn replies_are_counted_by_kind() {
        let mut filled = Filled::default();
        assert!(OUT_OF_MEMORY.iter().all(|line| filled.take_line(line)));
        assert!(filled.take_line("SERVER_ERROR backend unavailable") && !filled.take_line("EN"));
        filled.take_value("one:1:0:0", b"a");
        filled.take_value("one:1:0:0", b"b");
        let mut all = filled.clone();
        all.add(filled);
        assert_eq!((all.out_of_memory, all.found, all.wrong), (4, 4, 2));
        assert_eq!(all.errors, BTreeMap::from([("SERVER_ERROR backend unavailable".to_owned(), 2)]));
        assert_eq!(value_head("VA 12 kone:1:0:0"), Some((12, "one:1:0:0")));
        assert_eq!(value_head("SERVER_ERROR no"), None);
    }

    fn account() -> Account {
        Account { email: String::new(), username: String::new(), password: String::new() }
    }

    #[tokio::test]
    async fn failure_of_all_connections_is_noticed() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let options =
            FillOptions { name: "n".into(), sizes: vec![1], connections: 2, batch_bytes: 700, reads: false };
        let mut filler = Filler::start(listener.local_addr().unwrap(), &account(), &options);
        for _ in 0..2 {
            assert!(!filler.has_failed());
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_all(b"CLIENT_ERROR authentication failure\r\n").await.unwrap();
            // So that nothing is lost by a reset.
            client.read_to_end(&mut Vec::new()).await.unwrap();
        }
        while !filler.has_failed() {
            tokio::task::yield_now().await;
        }
        let error = "connection: login: CLIENT_ERROR authentication failure".to_owned();
        assert_eq!(filler.stop().await.errors, BTreeMap::from([(error, 2)]));
    }

    #[test]
    fn reads_are_of_items_that_were_sent() {
        let options = FillOptions {
            name: "n".into(),
            sizes: vec![1, 9],
            connections: 1,
            batch_bytes: 700,
            reads: true,
        };
        let (endpoint, sent) = (([127, 0, 0, 1], 1).into(), vec![0; 2]);
        let account = account();
        let mut connection =
            Connection { endpoint, account, options, number: 0, sent, filled: Filled::default() };
        for _ in 0..50 {
            let (stores, requests) = connection.requests(1);
            assert_eq!(stores, 10);
            let text = String::from_utf8(requests).unwrap();
            let reads: Vec<u64> = text
                .lines()
                .filter_map(|line| line.strip_prefix("mg n:9:0:")?.split(' ').next()?.parse().ok())
                .collect();
            assert!(reads.len() == 3 && reads.iter().all(|number| *number < connection.sent[1]), "{text}");
        }
    }
}

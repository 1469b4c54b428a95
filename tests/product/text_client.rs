//! A minimal client of the text protocol.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::Credentials;

/// For one reply.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct TextClient {
    stream: BufReader<TcpStream>,
}

impl TextClient {
    pub(crate) fn connect(endpoint: SocketAddr) -> Self {
        let stream = TcpStream::connect(endpoint).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Gives each reply another time.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        self.stream.get_ref().set_read_timeout(Some(timeout)).unwrap();
        self
    }

    /// A connection that is logged in with the text login of memcached `-Y`.
    pub(crate) fn log_in(endpoint: SocketAddr, credentials: &Credentials) -> Self {
        let mut client = Self::connect(endpoint);
        let login = format!("{} {}", credentials.username, credentials.password);
        assert_eq!(client.set("auth", login.as_bytes()), "STORED");
        client
    }

    /// The same, unless the proxy is away or the cache doesn't answer.
    pub(crate) fn try_log_in(endpoint: SocketAddr, credentials: &Credentials) -> Option<Self> {
        let stream = TcpStream::connect(endpoint).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        let login = format!("{} {}", credentials.username, credentials.password);
        let request = format!("set auth 0 0 {}\r\n{login}\r\n", login.len());
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        (line == "STORED\r\n").then_some(Self { stream })
    }

    /// Whether the proxy has closed the connection: it was idle before.
    pub(crate) fn is_closed(&mut self) -> bool {
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true).unwrap();
        let read = self.stream.fill_buf().map(<[u8]>::is_empty);
        self.stream.get_ref().set_nonblocking(false).unwrap();
        match read {
            Ok(is_empty) => is_empty,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Sends a request and reads one line of the reply, without its line break.
    pub(crate) fn request(&mut self, request: &[u8]) -> String {
        self.stream.get_mut().write_all(request).unwrap();
        self.line()
    }

    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> String {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.request(&request)
    }

    /// The value, `None` for a miss, or the unexpected reply line as `Err`.
    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, String> {
        let head = self.request(format!("get {key}\r\n").as_bytes());
        if head == "END" {
            return Ok(None);
        }
        if !head.starts_with(&format!("VALUE {key} ")) {
            return Err(head);
        }
        let length: usize = head.rsplit(' ').next().unwrap().parse().unwrap();
        let mut value = vec![0; length + 2];
        self.stream.read_exact(&mut value).unwrap();
        assert!(value.ends_with(b"\r\n"));
        value.truncate(length);
        assert_eq!(self.line(), "END");
        Ok(Some(value))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }
}

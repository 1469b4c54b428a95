//! A client's connection: TCP, or TLS over it. Whoever reads and writes needn't know which.
//!
//! TLS is done here in the loop, with no task and no buffer between: what is flushed in one turn leaves as
//! one record, and what comes is decrypted where it is read.

pub(crate) mod address;
mod client_verifier;
pub(crate) mod proxy_protocol;
pub(crate) mod tcp;
pub(crate) mod tls_config;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use store::Fingerprint;
use tokio::net::TcpStream;

pub(crate) struct Stream {
    tcp: TcpStream,
    /// Boxed: a connection without it has no room for it.
    tls: Option<Box<Tls>>,
}

struct Tls {
    connection: RefCell<ServerConnection>,
    /// The last read has left something that is decrypted already: no event of the socket will tell of it.
    has_more: Cell<bool>,
}

impl Stream {
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// Goes on as TLS, of which the peer has sent `begun`.
    pub(crate) async fn into_tls(self, config: Arc<ServerConfig>, begun: &[u8]) -> io::Result<Self> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut begun = begun;
        while !begun.is_empty() {
            connection.read_tls(&mut begun)?;
        }
        let tls = Tls { connection: RefCell::new(connection), has_more: Cell::new(false) };
        tls.shake_hands(&self.tcp).await?;
        Ok(Self { tcp: self.tcp, tls: Some(Box::new(tls)) })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How the handshake went; `None` without TLS.
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.as_ref()?.connection.borrow().handshake_kind()
    }

    /// The certificate whose key the peer has shown to hold, in this handshake or in the one that it resumes.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let connection = self.tls.as_ref()?.connection.borrow();
        connection.peer_certificates()?.first().map(|certificate| Fingerprint::of(certificate))
    }

    /// Waits for something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) if tls.has_more.get() => Ok(()),
            _ => tcp::readable(&self.tcp).await,
        }
    }

    /// Waits for room to write.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        tcp::writable(&self.tcp).await
    }

    /// Reads what there is; `WouldBlock` when that is nothing, 0 at the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => tcp::read(&self.tcp, buffer),
            Some(tls) => tls.read(&self.tcp, buffer),
        }
    }

    /// Writes what fits. With TLS [`Stream::flush`] tells when all of that has left.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.try_write(bytes),
            Some(tls) => tls.write(&self.tcp, &[IoSlice::new(bytes)]),
        }
    }

    pub(crate) fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.try_write_vectored(pieces),
            Some(tls) => tls.write(&self.tcp, pieces),
        }
    }

    /// Sends what was written before and is still here; `WouldBlock` when the socket takes no more.
    pub(crate) fn flush(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => push(&mut tls.connection.borrow_mut(), &self.tcp),
        }
    }

    /// Whether something was written that hasn't left.
    pub(crate) fn has_pending_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.connection.borrow().wants_write())
    }

    /// Ends the sending side and throws away what still comes for a moment.
    pub(crate) async fn linger(&self, scratch: &RefCell<Vec<u8>>) {
        if let Some(tls) = &self.tls {
            let mut connection = tls.connection.borrow_mut();
            connection.send_close_notify();
            let _ = push(&mut connection, &self.tcp);
        }
        tcp::linger(&self.tcp, scratch).await;
    }

    /// Leaves its runtime.
    pub(crate) fn detach(self) -> io::Result<DetachedStream> {
        Ok(DetachedStream { tcp: self.tcp.into_std()?, tls: self.tls })
    }
}

/// A connection between two runtimes: its socket belongs to neither.
pub(crate) struct DetachedStream {
    tcp: std::net::TcpStream,
    tls: Option<Box<Tls>>,
}

impl DetachedStream {
    pub(crate) fn attach(self) -> io::Result<Stream> {
        Ok(Stream { tcp: TcpStream::from_std(self.tcp)?, tls: self.tls })
    }
}

impl Tls {
    async fn shake_hands(&self, tcp: &TcpStream) -> io::Result<()> {
        loop {
            let advanced = self.advance(tcp);
            let (done, wants_write) = {
                let mut connection = self.connection.borrow_mut();
                // An alert, too, when it went wrong.
                let pushed = push(&mut connection, tcp);
                advanced?;
                if let Err(error) = pushed
                    && error.kind() != io::ErrorKind::WouldBlock
                {
                    return Err(error);
                }
                (!connection.is_handshaking(), connection.wants_write())
            };
            if done {
                // What came along with the last message.
                self.has_more.set(true);
                return Ok(());
            }
            if wants_write {
                tcp::writable(tcp).await?;
            } else {
                tcp::readable(tcp).await?;
                self.fetch(tcp)?;
            }
        }
    }

    /// Decrypts what has come.
    fn advance(&self, tcp: &TcpStream) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        match connection.process_new_packets() {
            Ok(_) => Ok(()),
            Err(wrong) => {
                // It tells the peer what was wrong.
                let _ = push(&mut connection, tcp);
                Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
            }
        }
    }

    /// Reads from the socket, once; `WouldBlock` is nothing special.
    fn fetch(&self, tcp: &TcpStream) -> io::Result<()> {
        match self.connection.borrow_mut().read_tls(&mut Socket(tcp)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.connection.borrow_mut().reader().read(buffer);
            match read {
                Ok(n) => {
                    self.has_more.set(n == buffer.len());
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.has_more.set(false),
                // Gone without a goodbye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            self.connection.borrow_mut().read_tls(&mut Socket(tcp))?;
            self.advance(tcp)?;
        }
    }

    fn write(&self, tcp: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.connection.borrow_mut();
        // What is encrypted must leave first: it is bounded so.
        push(&mut connection, tcp)?;
        let written = connection.writer().write_vectored(pieces)?;
        match push(&mut connection, tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }
}

fn push(connection: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut Socket(tcp))?;
    }
    Ok(())
}

/// The socket as rustls wants it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        tcp::read(self.0, buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

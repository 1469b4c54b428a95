//! A client's byte stream: TCP, or TLS over TCP, with one interface.
//!
//! TLS runs in the worker's loop, without a task or a buffer of its own: bytes flushed in one turn leave as one record,
//! and received bytes are decrypted where they are read.

pub(crate) mod address;
mod client_verifier;
pub(crate) mod proxy_protocol;
mod received;
pub(crate) mod tcp;
pub(crate) mod tls_config;
mod validity;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use store::Fingerprint;
use tokio::net::TcpStream;

use received::ReceivedBytes;

/// A client's byte stream.
pub(crate) struct Stream {
    tcp: TcpStream,
    /// Boxed, so that plaintext connections don't pay for it.
    tls: Option<Box<Tls>>,
}

struct Tls {
    connection: RefCell<ServerConnection>,
    /// The last read left decrypted bytes in rustls: the socket won't become readable for them.
    has_buffered_plaintext: Cell<bool>,
    received: ReceivedBytes,
}

impl Stream {
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// Performs the TLS handshake, of which `received` has been read already.
    ///
    /// # Errors
    ///
    /// If the handshake fails or the connection closes.
    pub(crate) async fn into_tls(self, config: Arc<ServerConfig>, received: &[u8]) -> io::Result<Self> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let counted = ReceivedBytes::default();
        counted.add(received);
        let mut received = received;
        while !received.is_empty() {
            connection.read_tls(&mut received)?;
        }
        let tls = Tls {
            connection: RefCell::new(connection),
            has_buffered_plaintext: Cell::new(false),
            received: counted,
        };
        tls.handshake(&self.tcp).await?;
        Ok(Self { tcp: self.tcp, tls: Some(Box::new(tls)) })
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The kind of handshake, full or resumed; `None` without TLS.
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        self.tls.as_ref()?.connection.borrow().handshake_kind()
    }

    /// The client certificate whose key the peer has proved to hold, in this handshake or in the one that it resumed.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let connection = self.tls.as_ref()?.connection.borrow();
        connection.peer_certificates()?.first().map(|certificate| Fingerprint::of(certificate))
    }

    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) if tls.has_buffered_plaintext.get() => Ok(()),
            _ => tcp::readable(&self.tcp).await,
        }
    }

    /// Waits until the socket accepts bytes.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        tcp::writable(&self.tcp).await
    }

    /// Reads available bytes; 0 at the end, `WouldBlock` if there are none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => tcp::read(&self.tcp, buffer),
            Some(tls) => tls.read(&self.tcp, buffer),
        }
    }

    /// Bytes that have been received and are kept by TLS: a record that hasn't arrived whole, and plaintext that hasn't been
    /// read.
    #[inline]
    pub(crate) fn kept_by_tls(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.received.kept())
    }

    /// Whether the peer has sent something that hasn't been read, also before the runtime knows.
    pub(crate) fn has_unread_input(&self) -> bool {
        tcp::has_unread_input(&self.tcp)
    }

    /// Waits until the peer has sent something, or has closed its side. Returns whether it has.
    pub(crate) async fn input_or_end(&self) -> io::Result<bool> {
        tcp::input_or_end(&self.tcp).await
    }

    /// Whether the peer has closed its side.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        tcp::is_closed_by_peer(&self.tcp)
    }

    /// Writes what fits. With TLS, call [`Stream::flush`] until everything has left.
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

    /// Sends buffered TLS records; `WouldBlock` if the socket accepts no more.
    pub(crate) fn flush(&self) -> io::Result<()> {
        match &self.tls {
            None => Ok(()),
            Some(tls) => flush_tls(&mut tls.connection.borrow_mut(), &self.tcp),
        }
    }

    /// Whether TLS records are waiting to be sent.
    pub(crate) fn has_pending_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.connection.borrow().wants_write())
    }

    /// Closes the sending side, then discards what still arrives for a moment.
    pub(crate) async fn linger(&self, scratch: &RefCell<Vec<u8>>) {
        if let Some(tls) = &self.tls {
            let mut connection = tls.connection.borrow_mut();
            connection.send_close_notify();
            let _ = flush_tls(&mut connection, &self.tcp);
        }
        tcp::linger(&self.tcp, scratch).await;
    }

    /// Deregisters the socket of a plaintext connection from its runtime.
    pub(crate) fn into_plain(self) -> Option<std::net::TcpStream> {
        if self.is_tls() {
            return None;
        }
        self.tcp.into_std().ok()
    }

    /// Deregisters the socket from its runtime.
    pub(crate) fn detach(self) -> io::Result<DetachedStream> {
        Ok(DetachedStream { tcp: self.tcp.into_std()?, tls: self.tls })
    }
}

/// A stream that is registered with no runtime.
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
    async fn handshake(&self, tcp: &TcpStream) -> io::Result<()> {
        loop {
            let processed = self.process(tcp);
            let (done, wants_write) = {
                let mut connection = self.connection.borrow_mut();
                // Also sends the alert of a failed handshake.
                let flushed = flush_tls(&mut connection, tcp);
                processed?;
                if let Err(error) = flushed
                    && error.kind() != io::ErrorKind::WouldBlock
                {
                    return Err(error);
                }
                (!connection.is_handshaking(), connection.wants_write())
            };
            if done {
                self.received.end_handshake();
                // Application data may have arrived with the last handshake message.
                self.has_buffered_plaintext.set(true);
                return Ok(());
            }
            if wants_write {
                tcp::writable(tcp).await?;
            } else {
                tcp::readable(tcp).await?;
                self.fill(tcp)?;
            }
        }
    }

    /// Decrypts received records.
    fn process(&self, tcp: &TcpStream) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        match connection.process_new_packets() {
            Ok(state) => {
                self.received.set_plaintext(state.plaintext_bytes_to_read());
                Ok(())
            }
            Err(error) => {
                // Sends the alert.
                let _ = flush_tls(&mut connection, tcp);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Receives bytes from the socket once. Fails if too much has arrived that isn't plaintext.
    fn receive(&self, tcp: &TcpStream) -> io::Result<usize> {
        let mut connection = self.connection.borrow_mut();
        if self.received.is_too_much(connection.is_handshaking()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        connection.read_tls(&mut CountedSocket { socket: Socket(tcp), received: &self.received })
    }

    /// Receives once; `WouldBlock` is not an error here.
    fn fill(&self, tcp: &TcpStream) -> io::Result<()> {
        match self.receive(tcp) {
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
                    self.received.read(n);
                    self.has_buffered_plaintext.set(n == buffer.len());
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_buffered_plaintext.set(false);
                }
                // Closed without close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            self.receive(tcp)?;
            self.process(tcp)?;
        }
    }

    fn write(&self, tcp: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.connection.borrow_mut();
        // Pending records must leave first, which bounds the buffer.
        flush_tls(&mut connection, tcp)?;
        let written = connection.writer().write_vectored(pieces)?;
        match flush_tls(&mut connection, tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }
}

fn flush_tls(connection: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut Socket(tcp))?;
    }
    Ok(())
}

/// Adapts the socket to rustls' blocking interface.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        tcp::read(self.0, buffer)
    }
}

/// Counts what the socket receives.
struct CountedSocket<'a> {
    socket: Socket<'a>,
    received: &'a ReceivedBytes,
}

impl Read for CountedSocket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.read(buffer)?;
        self.received.add(buffer.get(..read).unwrap_or_default());
        Ok(read)
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

//! Before a run: opens connections, logs in, and stores every key. Blocking.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use crate::error::LoadError;
use crate::session::{Expected, Pending, Session};
use crate::stream::Stream;
use crate::wire::{Op, Wire};
use crate::workload::Endpoint;

/// Time limit for connecting and for each read.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of sets in flight; their replies fit into the socket buffers.
const BATCH_BYTES: usize = 128 * 1024;

/// Connects and logs in.
pub(crate) fn connect(endpoint: &Endpoint, wire: &Wire) -> Result<Stream, LoadError> {
    let Endpoint { target, login, tls } = endpoint;
    let stream = TcpStream::connect_timeout(target, REPLY_TIMEOUT)
        .map_err(|error| LoadError::invalid_run(format!("can't connect to {target} ({error})")))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    let mut stream = Stream::new(stream, tls.as_ref())?;
    stream.flush()?;
    if login.expect().is_none() {
        return Ok(stream);
    }
    let pending = [Pending { op: Op::Login, key: 0, at: 0 }].into();
    request(stream, login.request(), pending, Expected { wire, login })
}

/// Stores every key.
pub(crate) fn store_all(
    mut stream: Stream,
    keys: usize,
    expected: Expected<'_>,
) -> Result<Stream, LoadError> {
    let (mut out, mut pending) = (Vec::new(), VecDeque::new());
    for key in 0..keys {
        expected.wire.set(key, &mut out);
        pending.push_back(Pending { op: Op::Set, key, at: 0 });
        if out.len() >= BATCH_BYTES || key + 1 == keys {
            stream = request(stream, &out, std::mem::take(&mut pending), expected)?;
            out.clear();
        }
    }
    Ok(stream)
}

/// Gets one key.
pub(crate) fn get_one(stream: Stream, expected: Expected<'_>) -> Result<Stream, LoadError> {
    let mut out = Vec::new();
    expected.wire.get(0, &mut out);
    request(stream, &out, [Pending { op: Op::Get, key: 0, at: 0 }].into(), expected)
}

/// Sends bytes and waits for all pending replies.
fn request(
    mut stream: Stream,
    bytes: &[u8],
    pending: VecDeque<Pending>,
    expected: Expected<'_>,
) -> Result<Stream, LoadError> {
    stream.write_all(bytes)?;
    stream.flush()?;
    let mut session = Session::blocking(stream, pending);
    let mut scratch = [0; 4096];
    while !session.pending.is_empty() {
        let before = session.received;
        session.receive(expected, &mut scratch, |_| ())?;
        if session.received == before {
            return Err(LoadError::invalid_run(format!("no reply within {} s", REPLY_TIMEOUT.as_secs())));
        }
    }
    Ok(session.stream)
}

//! Before the run, without hurry: connections, logins, and every key stored.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use crate::failure::Failure;
use crate::plan::Way;
use crate::session::{Known, Pending, Session};
use crate::wire::{Op, Wire};

const PATIENCE: Duration = Duration::from_secs(10);
/// Sets in flight: their replies fit into any buffer on the way.
const BATCH_BYTES: usize = 128 * 1024;

/// Connects and logs in.
pub(crate) fn enter(way: &Way, wire: &Wire) -> Result<TcpStream, Failure> {
    let Way { target, login } = way;
    let stream = TcpStream::connect_timeout(target, PATIENCE)
        .map_err(|error| Failure::void(format!("can't connect to {target} ({error})")))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if login.expect().is_none() {
        return Ok(stream);
    }
    let pending = [Pending { op: Op::Login, key: 0, at: 0 }].into();
    ask(stream, login.request(), pending, Known { wire, login })
}

/// Stores every key.
pub(crate) fn store_all(mut stream: TcpStream, keys: usize, known: Known<'_>) -> Result<TcpStream, Failure> {
    let (mut out, mut pending) = (Vec::new(), VecDeque::new());
    for key in 0..keys {
        known.wire.set(key, &mut out);
        pending.push_back(Pending { op: Op::Set, key, at: 0 });
        if out.len() >= BATCH_BYTES || key + 1 == keys {
            stream = ask(stream, &out, std::mem::take(&mut pending), known)?;
            out.clear();
        }
    }
    Ok(stream)
}

/// Gets one key.
pub(crate) fn get_one(stream: TcpStream, known: Known<'_>) -> Result<TcpStream, Failure> {
    let mut out = Vec::new();
    known.wire.get(0, &mut out);
    ask(stream, &out, [Pending { op: Op::Get, key: 0, at: 0 }].into(), known)
}

fn ask(
    stream: TcpStream,
    request: &[u8],
    pending: VecDeque<Pending>,
    known: Known<'_>,
) -> Result<TcpStream, Failure> {
    (&stream).write_all(request)?;
    let mut session = Session::blocking(stream, pending);
    let mut scratch = [0; 4096];
    while !session.pending.is_empty() {
        let before = session.received;
        session.receive(known, &mut scratch, |_| ())?;
        if session.received == before {
            return Err(Failure::void(format!("no reply within {} s", PATIENCE.as_secs())));
        }
    }
    Ok(session.stream)
}

//! Before the run, without hurry: connections, logins, and every key stored.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use crate::failure::Failure;
use crate::link::Link;
use crate::plan::Way;
use crate::session::{Known, Pending, Session};
use crate::wire::{Op, Wire};

const PRELOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Sets in flight: their replies fit into any buffer on the way.
const BATCH_BYTES: usize = 128 * 1024;

/// Connects and logs in.
pub(crate) fn enter(way: &Way, wire: &Wire) -> Result<Link, Failure> {
    let Way { target, login, tls } = way;
    let stream = TcpStream::connect_timeout(target, PRELOAD_TIMEOUT)
        .map_err(|error| Failure::void(format!("can't connect to {target} ({error})")))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PRELOAD_TIMEOUT))?;
    let mut link = Link::new(stream, tls.as_ref())?;
    link.flush()?;
    if login.expect().is_none() {
        return Ok(link);
    }
    let pending = [Pending { op: Op::Login, key: 0, at: 0 }].into();
    ask(link, login.request(), pending, Known { wire, login })
}

/// Stores every key.
pub(crate) fn store_all(mut link: Link, keys: usize, known: Known<'_>) -> Result<Link, Failure> {
    let (mut out, mut pending) = (Vec::new(), VecDeque::new());
    for key in 0..keys {
        known.wire.set(key, &mut out);
        pending.push_back(Pending { op: Op::Set, key, at: 0 });
        if out.len() >= BATCH_BYTES || key + 1 == keys {
            link = ask(link, &out, std::mem::take(&mut pending), known)?;
            out.clear();
        }
    }
    Ok(link)
}

/// Gets one key.
pub(crate) fn get_one(link: Link, known: Known<'_>) -> Result<Link, Failure> {
    let mut out = Vec::new();
    known.wire.get(0, &mut out);
    ask(link, &out, [Pending { op: Op::Get, key: 0, at: 0 }].into(), known)
}

fn ask(
    mut link: Link,
    request: &[u8],
    pending: VecDeque<Pending>,
    known: Known<'_>,
) -> Result<Link, Failure> {
    link.write_all(request)?;
    link.flush()?;
    let mut session = Session::blocking(link, pending);
    let mut scratch = [0; 4096];
    while !session.pending.is_empty() {
        let before = session.received;
        session.receive(known, &mut scratch, |_| ())?;
        if session.received == before {
            return Err(Failure::void(format!("no reply within {} s", PRELOAD_TIMEOUT.as_secs())));
        }
    }
    Ok(session.link)
}

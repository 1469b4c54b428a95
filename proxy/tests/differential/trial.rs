//! Runs one stream against both sides and compares.

use std::time::{Duration, Instant};

use super::differences::{Column, End, Plan, plan};
use super::endpoint::Endpoint;
use super::reply::{self, Pairs};
use super::stream::{Protocol, Stream, filled, keys};
use testkit::Rng;

/// One of this many streams that end within a request is checked for an unwanted close.
const WAITS_PER_CHECK: usize = 20;
/// Attempts to fill both caches alike.
const ATTEMPTS: usize = 3;
/// Time limit for a lane to reconnect, and the interval between checks.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Words of a stream that may have become keys.
const STRAYS_MAX: usize = 100;
/// Longest key that a meta command can send in base64.
const KEY_MAX: usize = 186;

/// A memcached, and the proxy in front of another one that should behave the same.
pub(crate) struct Comparison {
    pub(crate) name: String,
    /// Versions of the reference, and of the memcached behind the proxy.
    pub(crate) columns: [Column; 2],
    pub(crate) reference: Endpoint,
    pub(crate) proxy: Endpoint,
}

impl Comparison {
    pub(crate) fn allows_high_numbers(&self) -> bool {
        !self.columns.contains(&Column::Older)
    }

    /// Sends `stream` to both sides; returns what differs.
    pub(crate) fn compare(&mut self, stream: &Stream, rng: &mut Rng) -> Option<String> {
        let difference = self.attempt(stream, rng);
        if difference.is_some() {
            // The caches' contents are unknown now.
            self.flush();
        }
        difference
    }

    /// Fills both caches alike, with the same cas for each item.
    fn fill(&mut self, stream: &Stream) -> Vec<Option<u64>> {
        for _ in 0..ATTEMPTS {
            let (one, other) = (self.reference.last_cas(), self.proxy.last_cas());
            self.reference.advance_cas(other.saturating_sub(one));
            self.proxy.advance_cas(one.saturating_sub(other));
            let [one, other] = [&mut self.reference, &mut self.proxy]
                .map(|endpoint| endpoint.fill(stream.protocol, &stream.items));
            if one == other {
                return one;
            }
            // A late request of the last stream changed something.
            self.flush();
        }
        panic!("the caches don't hold what they were given");
    }

    fn flush(&mut self) {
        self.reference.flush();
        self.proxy.flush();
        // A closed lane reconnects with a delay.
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        while self.proxy.exchange(Protocol::Text, b"get nothing\r\n", End::Open, None)
            != Ok(b"END\r\n".into())
        {
            assert!(Instant::now() < deadline, "the proxy doesn't recover");
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn attempt(&mut self, stream: &Stream, rng: &mut Rng) -> Option<String> {
        let protocol = stream.protocol;
        let cas = self.fill(stream);
        let requests = stream.requests.iter().map(|request| filled(protocol, request, &cas));
        let bytes: Vec<_> = std::iter::once(head(protocol)).chain(requests).collect();
        let plan = plan(protocol, bytes.concat(), &probe(protocol), self.columns);
        let mut pairs = Pairs::default();
        assert!(cas.iter().flatten().all(|cas| pairs.are_same(*cas, *cas)));
        let expected = self.reference.exchange(protocol, &plan.reference, plan.end_of_reference(), None);
        let expected = match expected {
            Ok(reply) => [&reply[..], &plan.proxy_only].concat(),
            Err(what) => return Some(format!("memcached {what}")),
        };
        let actual = match self.proxy.exchange(protocol, &plan.proxy, plan.end, Some(rng)) {
            Ok(reply) => reply,
            Err(what) => return Some(format!("the proxy {what}")),
        };
        if !reply::same(protocol, &expected, &actual, &mut pairs) {
            return Some(format!(
                "memcached says\n    {}\nthe proxy says\n    {}",
                quote(&expected, &actual),
                quote(&actual, &expected)
            ));
        }
        let keys = keys_of(stream, &plan);
        let states = [&mut self.reference, &mut self.proxy].map(|endpoint| endpoint.take(&keys));
        if !reply::same(Protocol::Text, &states[0], &states[1], &mut pairs) {
            return Some(format!(
                "then memcached holds\n    {}\nand that behind the proxy\n    {}",
                quote(&states[0], &states[1]),
                quote(&states[1], &states[0])
            ));
        }
        if plan.end == End::Waits && rng.below(WAITS_PER_CHECK) == 0 {
            let closes = self.proxy.closes(protocol, &plan.proxy);
            self.flush();
            return closes.then(|| "the proxy closes".to_owned());
        }
        None
    }
}

/// A request that selects the connection's protocol.
fn head(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::Text | Protocol::Meta => b"get nothing\r\n".to_vec(),
        Protocol::Binary => super::binary::noop(),
    }
}

fn probe(protocol: Protocol) -> Vec<u8> {
    head(protocol)
}

/// The streams' own keys, those that a corrupted stream names, and words of it that must not have become
/// keys.
fn keys_of(stream: &Stream, plan: &Plan) -> Vec<Vec<u8>> {
    let mut strays: Vec<_> = plan.keys.iter().cloned().collect();
    if stream.protocol != Protocol::Binary {
        let words = plan.proxy.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
        strays.extend(words.map(<[u8]>::to_vec).take(STRAYS_MAX));
    }
    strays.retain(|key| (1..=KEY_MAX).contains(&key.len()));
    strays.extend(keys(stream.protocol));
    strays.sort();
    strays.dedup();
    strays
}

/// Shortens `reply` to the surroundings of its first difference from `other`.
fn quote(reply: &[u8], other: &[u8]) -> String {
    const BEFORE: usize = 300;
    const BEHIND: usize = 700;
    let same = reply.iter().zip(other).take_while(|(one, other)| one == other).count();
    let begin = same.saturating_sub(BEFORE);
    let end = reply.len().min(same + BEHIND);
    let dots = |is_cut: bool| if is_cut { "..." } else { "" };
    format!("{}{}{}", dots(begin > 0), reply[begin..end].escape_ascii(), dots(end < reply.len()))
}

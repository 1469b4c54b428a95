//! One stream on both sides, and what differed then.

use std::time::{Duration, Instant};

use super::dice::Dice;
use super::differences::{Column, End, Plan, plan};
use super::said::{self, Pairs};
use super::side::Side;
use super::stream::{Protocol, Stream, filled, keys};

/// Streams that wait at their end: of so many one is watched for whether it is hung up on.
const WATCHED: usize = 20;
/// The caches are filled anew so often.
const TIMES: usize = 3;
/// How long a lane may be away, and how often it is looked for.
const RECOVERY: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(20);
/// Words of a stream that may have become keys.
const STRAYS: usize = 100;
/// Keys that a meta command can name, base64 or not.
const KEY_MAX: usize = 186;

/// A memcached, and the door to another that should be like it.
pub(crate) struct Pair {
    pub(crate) name: String,
    /// Of the one, and of the one behind the door.
    pub(crate) columns: [Column; 2],
    pub(crate) reference: Side,
    pub(crate) proxy: Side,
}

impl Pair {
    pub(crate) fn counts_high(&self) -> bool {
        !self.columns.contains(&Column::Old)
    }

    /// Sends `stream` to both; what differs.
    pub(crate) fn try_out(&mut self, stream: &Stream, dice: &mut Dice) -> Option<String> {
        let difference = self.attempt(stream, dice);
        if difference.is_some() {
            // What is left there is anybody's guess.
            self.flush();
        }
        difference
    }

    /// Fills both caches with the same, down to the cas of each item.
    fn fill(&mut self, stream: &Stream) -> Vec<Option<u64>> {
        for _ in 0..TIMES {
            let (one, other) = (self.reference.counter(), self.proxy.counter());
            self.reference.count(other.saturating_sub(one));
            self.proxy.count(one.saturating_sub(other));
            let [one, other] =
                [&mut self.reference, &mut self.proxy].map(|side| side.fill(stream.protocol, &stream.items));
            if one == other {
                return one;
            }
            // Something of the last stream, which wasn't waited for, came late.
            self.flush();
        }
        panic!("the caches don't hold what they were given");
    }

    fn flush(&mut self) {
        self.reference.flush();
        self.proxy.flush();
        // A lane that has died isn't dialled again at once.
        let deadline = Instant::now() + RECOVERY;
        while self.proxy.converse(Protocol::Text, b"get nothing\r\n", End::Open, None)
            != Ok(b"END\r\n".into())
        {
            assert!(Instant::now() < deadline, "the door doesn't recover");
            std::thread::sleep(PACE);
        }
    }

    fn attempt(&mut self, stream: &Stream, dice: &mut Dice) -> Option<String> {
        let protocol = stream.protocol;
        let cas = self.fill(stream);
        let requests = stream.requests.iter().map(|request| filled(protocol, request, &cas));
        let bytes: Vec<_> = std::iter::once(head(protocol)).chain(requests).collect();
        let plan = plan(protocol, bytes.concat(), &probe(protocol), self.columns);
        let mut pairs = Pairs::default();
        assert!(cas.iter().flatten().all(|cas| pairs.are_same(*cas, *cas)));
        let expected = self.reference.converse(protocol, &plan.reference, plan.end_of_reference(), None);
        let expected = match expected {
            Ok(said) => [&said[..], &plan.last_words].concat(),
            Err(what) => return Some(format!("memcached {what}")),
        };
        let answered = match self.proxy.converse(protocol, &plan.proxy, plan.end, Some(dice)) {
            Ok(said) => said,
            Err(what) => return Some(format!("the proxy {what}")),
        };
        if !said::same(protocol, &expected, &answered, &mut pairs) {
            return Some(format!(
                "memcached says\n    {}\nthe proxy says\n    {}",
                quote(&expected, &answered),
                quote(&answered, &expected)
            ));
        }
        let keys = keys_of(stream, &plan);
        let states = [&mut self.reference, &mut self.proxy].map(|side| side.empty(&keys));
        if !said::same(Protocol::Text, &states[0], &states[1], &mut pairs) {
            return Some(format!(
                "then memcached holds\n    {}\nand that behind the proxy\n    {}",
                quote(&states[0], &states[1]),
                quote(&states[1], &states[0])
            ));
        }
        if plan.end == End::Waits && dice.below(WATCHED) == 0 {
            let hangs_up = self.proxy.hangs_up(protocol, &plan.proxy);
            self.flush();
            return hangs_up.then(|| "the proxy hangs up".to_owned());
        }
        None
    }
}

/// What fixes a connection's protocol, whatever follows.
fn head(protocol: Protocol) -> Vec<u8> {
    match protocol {
        Protocol::Text | Protocol::Meta => b"get nothing\r\n".to_vec(),
        Protocol::Binary => super::binary::noop(),
    }
}

fn probe(protocol: Protocol) -> Vec<u8> {
    head(protocol)
}

/// The keys of our own, those that a spoilt stream names, and words of it that should have become none.
fn keys_of(stream: &Stream, plan: &Plan) -> Vec<Vec<u8>> {
    let mut strays: Vec<_> = plan.keys.iter().cloned().collect();
    if stream.protocol != Protocol::Binary {
        let words = plan.proxy.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
        strays.extend(words.map(<[u8]>::to_vec).take(STRAYS));
    }
    strays.retain(|key| (1..=KEY_MAX).contains(&key.len()));
    strays.extend(keys(stream.protocol));
    strays.sort();
    strays.dedup();
    strays
}

/// `said`, in short; from where it differs from `other` in full.
fn quote(said: &[u8], other: &[u8]) -> String {
    const BEFORE: usize = 300;
    const BEHIND: usize = 700;
    let same = said.iter().zip(other).take_while(|(one, other)| one == other).count();
    let begin = same.saturating_sub(BEFORE);
    let end = said.len().min(same + BEHIND);
    let dots = |is_cut: bool| if is_cut { "..." } else { "" };
    format!("{}{}{}", dots(begin > 0), said[begin..end].escape_ascii(), dots(end < said.len()))
}

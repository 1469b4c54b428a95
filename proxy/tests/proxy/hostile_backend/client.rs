//! A client that pipelines requests and checks that each reply is one that it may get.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::Token;

use super::expectations::{Author, Counter, OwnedKey, author, value};
use super::{binary, meta, text};
use testkit::{Rng, TestProxy};

/// Keys of one client alone, keys that a user's clients share, and keys of large values.
const OWN: usize = 8;
const SHARED: usize = 40;
const LARGE: usize = 4;
/// Of a client's own keys, the first one that may be deleted.
const FIRST_DELETED: usize = 6;
/// Time limit for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest value in bytes, well below the size that is streamed.
const LARGE_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Text,
    Meta,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Own(usize),
    Shared(usize),
    Large(usize),
    Counter,
}

/// One request, with the names of its keys.
#[derive(Debug)]
pub(crate) enum Request {
    Get {
        keys: Vec<(Key, String)>,
        touch: bool,
    },
    Store {
        key: Key,
        name: String,
        author: Author,
        value: Vec<u8>,
    },
    Delete {
        key: Key,
        name: String,
    },
    Touch {
        key: Key,
        name: String,
    },
    /// Creates the counter, if it doesn't exist.
    Begin {
        name: String,
    },
    Count {
        name: String,
    },
    Version,
}

/// One value of a `get`.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u32,
    pub(crate) value: Vec<u8>,
}

/// A reply, independent of the protocol.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The values of a `get` in the order of its keys; `whole` unless it ends in an error.
    Values {
        found: Vec<Found>,
        whole: bool,
    },
    Done,
    Missing,
    NotStored,
    Number(u64),
    Version,
    /// The backend's own error: out of memory, or not a number.
    Rejected,
    /// The lane closed or timed out.
    Unavailable,
}

pub(crate) struct Client<'a> {
    user: &'a str,
    number: u32,
    protocol: Protocol,
    stream: BufReader<TcpStream>,
    rng: Rng,
    /// Whether its backend may lose stored items.
    may_lose_items: bool,
    last: u64,
    own: [OwnedKey; OWN],
    counter: Counter,
}

/// Numbers of requests that the backend answered, and that it didn't.
#[derive(Default)]
pub(crate) struct BatchResult {
    pub(crate) served: u64,
    pub(crate) failed: u64,
}

impl<'a> Client<'a> {
    /// Connects and logs in. A third of each user's clients uses each protocol.
    pub(crate) fn new(
        proxy: &TestProxy,
        user: &'a str,
        token: &Token,
        number: u32,
        may_lose_items: bool,
    ) -> Self {
        let protocol = match number / 2 % 3 {
            0 => Protocol::Text,
            1 => Protocol::Meta,
            _ => Protocol::Binary,
        };
        let stream = TcpStream::connect(proxy.config.listen).unwrap();
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        match protocol {
            Protocol::Text | Protocol::Meta => text::log_in(&mut stream, token),
            Protocol::Binary => binary::log_in(&mut stream, token),
        }
        let rng = Rng::new(number.into());
        let (own, counter) = (std::array::from_fn(|_| OwnedKey::default()), Counter::default());
        Self { user, number, protocol, stream, rng, may_lose_items, last: 0, own, counter }
    }

    /// Sends a batch in one write, and checks the replies.
    pub(crate) fn run_batch(&mut self, requests: usize) -> BatchResult {
        let requests: Vec<Request> = if self.rng.below(100) == 0 {
            vec![self.pick(), self.large(), self.pick()]
        } else {
            (0..requests).map(|_| self.pick()).collect()
        };
        let mut out = Vec::new();
        match self.protocol {
            Protocol::Text => requests.iter().for_each(|request| text::write(request, self.number, &mut out)),
            Protocol::Meta => {
                let requests = requests.iter().enumerate();
                requests.for_each(|(nth, request)| meta::write(nth, request, self.number, &mut out));
            }
            Protocol::Binary => binary::write(&requests, self.number, &mut out),
        }
        self.stream.get_mut().write_all(&out).unwrap();
        let mut turn = BatchResult::default();
        let mut replies = binary::Replies::default();
        for (nth, request) in requests.iter().enumerate() {
            let outcome = match self.protocol {
                Protocol::Text => text::read(&mut self.stream, request),
                Protocol::Meta => meta::read(&mut self.stream, nth, request),
                Protocol::Binary => replies.read(&mut self.stream, nth, request),
            };
            if matches!(outcome, Outcome::Unavailable | Outcome::Values { whole: false, .. }) {
                turn.failed += 1;
            } else {
                turn.served += 1;
            }
            self.check(request, &outcome);
        }
        if self.protocol == Protocol::Binary {
            replies.end(&mut self.stream, requests.len());
        }
        turn
    }

    fn name(&self, key: Key) -> String {
        match (key, self.protocol) {
            (Key::Own(i), Protocol::Text) => format!("p{}.{i}", self.number),
            (Key::Own(i), Protocol::Meta) => STANDARD.encode(format!("{:02}\0{i}", self.number)),
            // Such a key must be encoded on the lane.
            (Key::Own(i), Protocol::Binary) => format!("p{}\r\nO{i} ", self.number),
            (Key::Shared(i), _) => format!("s{i}"),
            (Key::Large(i), _) => format!("l{i}"),
            (Key::Counter, _) => format!("c{}", self.number),
        }
    }

    fn pick(&mut self) -> Request {
        match self.rng.below(100) {
            0..60 => {
                let touch = self.rng.below(10) == 0;
                // In the other protocols a get has one key.
                let keys = if self.protocol == Protocol::Text { 1 + self.rng.below(2) } else { 1 };
                Request::Get { keys: (0..keys).map(|_| self.any_key()).collect(), touch }
            }
            60..86 => {
                let (key, name) = self.any_key();
                let most = if self.rng.below(40) == 0 { 100 } else { 8 };
                let times = 1 + self.rng.below(most);
                self.store(key, name, times)
            }
            86..90 => {
                let key = Key::Own(FIRST_DELETED + self.rng.below(OWN - FIRST_DELETED));
                Request::Delete { key, name: self.name(key) }
            }
            90..94 => {
                let (key, name) = self.any_key();
                Request::Touch { key, name }
            }
            94..98 if self.counter.exists() => Request::Count { name: self.name(Key::Counter) },
            94..98 => Request::Begin { name: self.name(Key::Counter) },
            _ => Request::Version,
        }
    }

    fn any_key(&mut self) -> (Key, String) {
        let nth = self.rng.below(OWN + SHARED / 4);
        let key = if nth < OWN { Key::Own(nth) } else { Key::Shared(self.rng.below(SHARED)) };
        (key, self.name(key))
    }

    fn large(&mut self) -> Request {
        let key = Key::Large(self.rng.below(LARGE));
        let name = self.name(key);
        if self.rng.below(3) > 0 {
            return Request::Get { keys: vec![(key, name)], touch: false };
        }
        let times = 1 + self.rng.below(LARGE_MAX / 30);
        self.store(key, name, times)
    }

    fn store(&mut self, key: Key, name: String, times: usize) -> Request {
        self.last += 1;
        let author = Author { client: self.number, number: self.last };
        let value = value(self.user, &name, author, times);
        Request::Store { key, name, author, value }
    }

    fn check(&mut self, request: &Request, outcome: &Outcome) {
        match (request, outcome) {
            (Request::Get { keys, .. }, Outcome::Values { found, whole }) => {
                self.check_values(keys, found, *whole);
            }
            (Request::Store { key, author, .. }, Outcome::Done) => self.confirm(*key, Some(*author)),
            (Request::Store { key, author, .. }, Outcome::Rejected | Outcome::Unavailable) => {
                self.record_unconfirmed(*key, Some(*author));
            }
            (Request::Delete { key, .. }, Outcome::Done) => self.confirm(*key, None),
            (Request::Delete { key, name }, Outcome::Missing) => {
                self.check_value(*key, name, None);
                self.confirm(*key, None);
            }
            (Request::Delete { key, .. }, Outcome::Unavailable) => self.record_unconfirmed(*key, None),
            (Request::Touch { key, name }, Outcome::Missing) => self.check_value(*key, name, None),
            (Request::Begin { .. }, Outcome::Done) => self.counter.begin(),
            (Request::Count { .. }, Outcome::Number(number)) => self.counter.counted(*number),
            (Request::Count { .. }, Outcome::Rejected | Outcome::Unavailable) => {
                self.counter.record_unconfirmed();
            }
            (Request::Count { .. }, Outcome::Missing) => {
                assert!(self.may_lose_items, "the counter is gone");
                self.counter.forget();
            }
            (Request::Begin { .. }, Outcome::NotStored | Outcome::Rejected | Outcome::Unavailable)
            | (Request::Touch { .. }, Outcome::Done | Outcome::Unavailable)
            | (Request::Version, Outcome::Version | Outcome::Unavailable) => {}
            _ => panic!("{} got {outcome:?} for {request:?}", self.user),
        }
        if self.may_lose_items && matches!(outcome, Outcome::Unavailable) {
            // A late increment may create the counter again.
            self.counter.forget();
        }
    }

    fn check_values(&self, keys: &[(Key, String)], found: &[Found], whole: bool) {
        let mut found = found.iter().peekable();
        for (key, name) in keys {
            match found.next_if(|found| found.name == name.as_bytes()) {
                Some(value) => self.check_value(*key, name, Some(value)),
                None if whole => self.check_value(*key, name, None),
                None => {}
            }
        }
        assert!(found.next().is_none(), "a value that was not requested, or in another order");
    }

    fn check_value(&self, key: Key, name: &str, found: Option<&Found>) {
        let author = found.map(|found| {
            let author = author(self.user, name, &found.value);
            assert_eq!(found.flags, author.client, "flags of another value");
            author
        });
        if let Key::Own(i) = key {
            let lost = author.is_none() && self.may_lose_items;
            assert!(lost || self.own[i].allows(author), "{}'s {name} is {author:?}", self.user);
        }
    }

    fn confirm(&mut self, key: Key, now: Option<Author>) {
        if let Key::Own(i) = key {
            self.own[i].confirm(now);
        }
    }

    fn record_unconfirmed(&mut self, key: Key, then: Option<Author>) {
        if let Key::Own(i) = key {
            self.own[i].record_unconfirmed(then);
        }
    }
}

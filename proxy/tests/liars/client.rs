//! A client that asks much at once and believes nothing: each reply must be one that it may be told.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::Token;

use crate::dice::Dice;
use crate::door::Door;
use crate::known::{Author, Counter, Own, author, value};
use crate::{binary, meta, text};

/// Keys that each client has alone, that a user's clients share, and that hold large values.
const OWN: usize = 8;
const SHARED: usize = 40;
const LARGE: usize = 4;
/// Of a client's own keys, those from here on are deleted at times.
const DELETED: usize = 6;
/// A reply comes sooner than this, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest value, well below what is streamed.
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

/// One request, with its keys' names.
#[derive(Debug)]
pub(crate) enum Ask {
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
    /// Makes the counter, if it isn't there.
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

/// A reply, whatever its protocol.
#[derive(Debug)]
pub(crate) enum Told {
    /// The values of a `get`, in the order asked for; `whole` unless it ends in an error.
    Values {
        found: Vec<Found>,
        whole: bool,
    },
    Done,
    Missing,
    NotStored,
    Number(u64),
    Version,
    /// Out of memory, or not a number: the backend's own words.
    Refused,
    /// The lane's end, or its deadline.
    Fault,
}

pub(crate) struct Client<'a> {
    user: &'a str,
    number: u32,
    protocol: Protocol,
    stream: BufReader<TcpStream>,
    dice: Dice,
    /// Whether its backend may lose what it has stored.
    forgetful: bool,
    last: u64,
    own: [Own; OWN],
    counter: Counter,
}

/// How many requests were answered by the backend, and how many weren't.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) served: u64,
    pub(crate) failed: u64,
}

impl<'a> Client<'a> {
    /// Logs in. A third of each user's clients speaks each protocol.
    pub(crate) fn new(door: &Door, user: &'a str, token: &Token, number: u32, forgetful: bool) -> Self {
        let protocol = match number / 2 % 3 {
            0 => Protocol::Text,
            1 => Protocol::Meta,
            _ => Protocol::Binary,
        };
        let stream = TcpStream::connect(door.config.listen).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        match protocol {
            Protocol::Text | Protocol::Meta => text::log_in(&mut stream, token),
            Protocol::Binary => binary::log_in(&mut stream, token),
        }
        let dice = Dice::new(number.into());
        let (own, counter) = (std::array::from_fn(|_| Own::default()), Counter::default());
        Self { user, number, protocol, stream, dice, forgetful, last: 0, own, counter }
    }

    /// So many requests in one write, and their replies.
    pub(crate) fn turn(&mut self, requests: usize) -> Turn {
        let asks: Vec<Ask> = if self.dice.below(100) == 0 {
            vec![self.pick(), self.large(), self.pick()]
        } else {
            (0..requests).map(|_| self.pick()).collect()
        };
        let mut out = Vec::new();
        match self.protocol {
            Protocol::Text => asks.iter().for_each(|ask| text::write(ask, self.number, &mut out)),
            Protocol::Meta => {
                let asks = asks.iter().enumerate();
                asks.for_each(|(nth, ask)| meta::write(nth, ask, self.number, &mut out));
            }
            Protocol::Binary => binary::write(&asks, self.number, &mut out),
        }
        self.stream.get_mut().write_all(&out).unwrap();
        let mut turn = Turn::default();
        let mut replies = binary::Replies::default();
        for (nth, ask) in asks.iter().enumerate() {
            let told = match self.protocol {
                Protocol::Text => text::read(&mut self.stream, ask),
                Protocol::Meta => meta::read(&mut self.stream, nth, ask),
                Protocol::Binary => replies.read(&mut self.stream, nth, ask),
            };
            if matches!(told, Told::Fault | Told::Values { whole: false, .. }) {
                turn.failed += 1;
            } else {
                turn.served += 1;
            }
            self.judge(ask, &told);
        }
        if self.protocol == Protocol::Binary {
            replies.end(&mut self.stream, asks.len());
        }
        turn
    }

    fn name(&self, key: Key) -> String {
        match (key, self.protocol) {
            (Key::Own(i), Protocol::Text) => format!("p{}.{i}", self.number),
            (Key::Own(i), Protocol::Meta) => STANDARD.encode(format!("{:02}\0{i}", self.number)),
            // It can't stand in a line as it is.
            (Key::Own(i), Protocol::Binary) => format!("p{}\r\nO{i} ", self.number),
            (Key::Shared(i), _) => format!("s{i}"),
            (Key::Large(i), _) => format!("l{i}"),
            (Key::Counter, _) => format!("c{}", self.number),
        }
    }

    fn pick(&mut self) -> Ask {
        match self.dice.below(100) {
            0..60 => {
                let touch = self.dice.below(10) == 0;
                // The others ask for one at a time.
                let keys = if self.protocol == Protocol::Text { 1 + self.dice.below(2) } else { 1 };
                Ask::Get { keys: (0..keys).map(|_| self.any_key()).collect(), touch }
            }
            60..86 => {
                let (key, name) = self.any_key();
                let most = if self.dice.below(40) == 0 { 100 } else { 8 };
                let times = 1 + self.dice.below(most);
                self.store(key, name, times)
            }
            86..90 => {
                let key = Key::Own(DELETED + self.dice.below(OWN - DELETED));
                Ask::Delete { key, name: self.name(key) }
            }
            90..94 => {
                let (key, name) = self.any_key();
                Ask::Touch { key, name }
            }
            94..98 if self.counter.exists() => Ask::Count { name: self.name(Key::Counter) },
            94..98 => Ask::Begin { name: self.name(Key::Counter) },
            _ => Ask::Version,
        }
    }

    fn any_key(&mut self) -> (Key, String) {
        let nth = self.dice.below(OWN + SHARED / 4);
        let key = if nth < OWN { Key::Own(nth) } else { Key::Shared(self.dice.below(SHARED)) };
        (key, self.name(key))
    }

    fn large(&mut self) -> Ask {
        let key = Key::Large(self.dice.below(LARGE));
        let name = self.name(key);
        if self.dice.below(3) > 0 {
            return Ask::Get { keys: vec![(key, name)], touch: false };
        }
        let times = 1 + self.dice.below(LARGE_MAX / 30);
        self.store(key, name, times)
    }

    fn store(&mut self, key: Key, name: String, times: usize) -> Ask {
        self.last += 1;
        let author = Author { client: self.number, number: self.last };
        let value = value(self.user, &name, author, times);
        Ask::Store { key, name, author, value }
    }

    fn judge(&mut self, ask: &Ask, told: &Told) {
        match (ask, told) {
            (Ask::Get { keys, .. }, Told::Values { found, whole }) => self.judge_values(keys, found, *whole),
            (Ask::Store { key, author, .. }, Told::Done) => self.confirm(*key, Some(*author)),
            (Ask::Store { key, author, .. }, Told::Refused | Told::Fault) => self.doubt(*key, Some(*author)),
            (Ask::Delete { key, .. }, Told::Done) => self.confirm(*key, None),
            (Ask::Delete { key, name }, Told::Missing) => {
                self.judge_found(*key, name, None);
                self.confirm(*key, None);
            }
            (Ask::Delete { key, .. }, Told::Fault) => self.doubt(*key, None),
            (Ask::Touch { key, name }, Told::Missing) => self.judge_found(*key, name, None),
            (Ask::Begin { .. }, Told::Done) => self.counter.begin(),
            (Ask::Count { .. }, Told::Number(number)) => self.counter.counted(*number),
            (Ask::Count { .. }, Told::Refused | Told::Fault) => self.counter.doubt(),
            (Ask::Count { .. }, Told::Missing) => {
                assert!(self.forgetful, "the counter is gone");
                self.counter.forget();
            }
            (Ask::Begin { .. }, Told::NotStored | Told::Refused | Told::Fault)
            | (Ask::Touch { .. }, Told::Done | Told::Fault)
            | (Ask::Version, Told::Version | Told::Fault) => {}
            _ => panic!("{} was told {told:?} to {ask:?}", self.user),
        }
        if self.forgetful && matches!(told, Told::Fault) {
            // What was begun before may be begun again by somebody late.
            self.counter.forget();
        }
    }

    fn judge_values(&self, keys: &[(Key, String)], found: &[Found], whole: bool) {
        let mut found = found.iter().peekable();
        for (key, name) in keys {
            match found.next_if(|found| found.name == name.as_bytes()) {
                Some(value) => self.judge_found(*key, name, Some(value)),
                None if whole => self.judge_found(*key, name, None),
                None => {}
            }
        }
        assert!(found.next().is_none(), "a value that wasn't asked for, or not now");
    }

    fn judge_found(&self, key: Key, name: &str, found: Option<&Found>) {
        let author = found.map(|found| {
            let author = author(self.user, name, &found.value);
            assert_eq!(found.flags, author.client, "flags of another value");
            author
        });
        if let Key::Own(i) = key {
            let lost = author.is_none() && self.forgetful;
            assert!(lost || self.own[i].allows(author), "{}'s {name} is {author:?}", self.user);
        }
    }

    fn confirm(&mut self, key: Key, now: Option<Author>) {
        if let Key::Own(i) = key {
            self.own[i].confirm(now);
        }
    }

    fn doubt(&mut self, key: Key, then: Option<Author>) {
        if let Key::Own(i) = key {
            self.own[i].doubt(then);
        }
    }
}

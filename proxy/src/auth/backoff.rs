//! How long a failed login waits for its denial: the longer, the more have failed from its source and for
//! its token. It never says who may log in: a right credential is checked and answered like any other.
//!
//! Times are passed in. Memory is fixed: where there is no room, whoever owes least is forgotten.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use store::TokenId;

use crate::transport::address::network;

/// A failed login is answered so long after its last byte, whatever its cause.
pub(crate) const FAILURE_DELAY: Duration = Duration::from_millis(20);
/// Longer, and the connection's time would be up before its answer.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(3);
/// Failures a minute that cost nothing: of a source, and of a token.
const SOURCE_MAX: u32 = 10;
const TOKEN_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// What is forgiven first: nobody's waits grow beyond so many failures above what is free.
const EXCESS_MAX: u32 = 8;
/// Sources, and tokens, that are remembered: `SETS` times `WAYS`, 88 bytes each.
const SETS: usize = 2048;
const WAYS: usize = 8;
/// Wrong secrets of each that count once, however often they are repeated.
const REMEMBERED: usize = 8;

pub(crate) struct Throttle {
    hasher: RandomState,
    begun: Instant,
    sources: Table,
    tokens: Table,
}

/// A failed login.
pub(crate) struct Failure<'a> {
    pub(crate) source: IpAddr,
    /// Subject token it named, if any.
    pub(crate) token: Option<TokenId>,
    /// What was tried: the same again, of the same token, counts once.
    pub(crate) tried: &'a [u8],
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            begun: now,
            sources: Table::new(SOURCE_MAX),
            tokens: Table::new(TOKEN_MAX),
        }
    }

    /// Notes a failed login; how long its denial waits.
    pub(crate) fn delay(&self, failure: &Failure<'_>, now: Instant) -> Duration {
        let now = Millis::between(self.begun, now);
        let tried = Tried(self.hash(&(failure.token, failure.tried)).max(1));
        let source = self.sources.note(self.hash(&network(failure.source)), tried, now);
        let token = failure.token.map(|id| self.tokens.note(self.hash(&id), tried, now));
        let excess = source.max(token.unwrap_or(0));
        FAILURE_DELAY.saturating_mul(1 << excess.min(EXCESS_MAX)).min(DELAY_MAX)
    }

    /// With a key of this process's own: nobody can choose what falls together.
    fn hash(&self, what: &impl Hash) -> u64 {
        self.hasher.hash_one(what)
    }
}

/// Since the throttle was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Millis(u64);

impl Millis {
    fn between(begun: Instant, now: Instant) -> Self {
        let since = now.saturating_duration_since(begun);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A hash of what was tried; never 0, which is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tried(u64);

/// What a source or a token owes: each failure adds a share of a minute, and time pays it off.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u64,
    /// When all of it is paid. Earlier than now, the place is free.
    until: Millis,
    tried: [Tried; REMEMBERED],
    /// Where the next is remembered.
    next: usize,
}

/// A table of fixed size: a key has `WAYS` places where it may be.
struct Table {
    /// How long one failure is paid for.
    share: u64,
    free: u32,
    sets: Vec<Mutex<[Bucket; WAYS]>>,
}

impl Table {
    fn new(free: u32) -> Self {
        let share = u64::try_from(MINUTE.as_millis()).unwrap_or(u64::MAX) / u64::from(free);
        Self { share, free, sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// Notes a failure; how many more there are than are free.
    fn note(&self, key: u64, tried: Tried, now: Millis) -> u32 {
        let sets = u64::try_from(self.sets.len()).unwrap_or(1);
        let Some(set) = usize::try_from(key % sets).ok().and_then(|at| self.sets.get(at)) else { return 0 };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|debt| debt.key == key && debt.until > now);
        let least = set.iter().enumerate().min_by_key(|(_, debt)| debt.until).map(|(at, _)| at);
        let Some(debt) = known.or(least).and_then(|at| set.get_mut(at)) else { return 0 };
        if known.is_none() {
            *debt = Bucket { key, until: now, ..Bucket::default() };
        }
        if !debt.remembers(tried) {
            let most = u64::from(self.free + EXCESS_MAX) * self.share;
            debt.until = Millis((debt.until.0 + self.share).min(now.0 + most));
        }
        // Rounded up: what is partly paid isn't paid.
        let owed = (debt.until.0 - now.0).div_ceil(self.share);
        u32::try_from(owed).unwrap_or(u32::MAX).saturating_sub(self.free)
    }
}

impl Bucket {
    /// Whether that was tried lately; from now on it was.
    fn remembers(&mut self, tried: Tried) -> bool {
        if self.tried.contains(&tried) {
            return true;
        }
        if let Some(place) = self.tried.get_mut(self.next % REMEMBERED) {
            *place = tried;
        }
        self.next = (self.next + 1) % REMEMBERED;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use store::Token;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Clock {
        throttle: Throttle,
        now: Instant,
        count: u64,
    }

    impl Clock {
        fn new() -> Self {
            let now = Instant::now();
            Self { throttle: Throttle::new(now), now, count: 0 }
        }

        fn fail(&self, source: &str, token: Option<TokenId>, tried: &str) -> u128 {
            let failure = Failure { source: source.parse().unwrap(), token, tried: tried.as_bytes() };
            self.throttle.delay(&failure, self.now).as_millis()
        }

        /// With a secret that nobody has tried before.
        fn guess(&mut self, source: &str, token: Option<TokenId>) -> u128 {
            self.count += 1;
            self.fail(source, token, &self.count.to_string())
        }
    }

    #[test]
    fn ten_a_minute_are_free_and_then_each_waits_longer() {
        let mut clock = Clock::new();
        let waits: Vec<u128> = (0..20).map(|_| clock.guess("192.0.2.1", None)).collect();
        assert_eq!(waits[..10], [20; 10]);
        assert_eq!(waits[10..], [40, 80, 160, 320, 640, 1280, 2560, 3000, 3000, 3000]);
        assert_eq!(clock.guess("192.0.2.2", None), 20, "somebody else's failures");
        // Time pays off one in six seconds; nobody owes more than what is forgiven in two minutes.
        clock.now += 48 * SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 40);
        clock.now += 120 * SECOND;
        assert_eq!((0..10).map(|_| clock.guess("192.0.2.1", None)).collect::<Vec<_>>(), [20; 10]);
        assert_eq!(clock.guess("192.0.2.1", None), 40);
    }

    #[test]
    fn a_token_is_watched_wherever_the_guesses_come_from() {
        let mut clock = Clock::new();
        let [token, other] = [Token::generate().id(), Token::generate().id()];
        for host in 0..60 {
            assert_eq!(clock.guess(&format!("198.51.100.{host}"), Some(token)), 20);
        }
        assert_eq!(clock.guess("198.51.100.61", Some(token)), 40);
        assert_eq!(clock.guess("198.51.100.61", Some(token)), 80);
        assert_eq!(clock.guess("198.51.100.61", Some(other)), 20);
    }

    #[test]
    fn a_secret_that_is_tried_again_counts_once() {
        let clock = Clock::new();
        let token = Some(Token::generate().id());
        for _ in 0..1000 {
            assert_eq!(clock.fail("192.0.2.1", token, "yesterday's"), 20);
        }
        for round in 0..200 {
            assert_eq!(clock.fail("192.0.2.1", token, &format!("one of {}", round % 8)), 20);
        }
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let mut clock = Clock::new();
        let waits: Vec<u128> =
            (0..12).map(|host| clock.guess(&format!("2001:db8::{host:x}"), None)).collect();
        assert_eq!(waits[10..], [40, 80]);
        assert_eq!(clock.guess("2001:db8:0:1::1", None), 20);
    }

    #[test]
    fn many_sources_cost_no_more_memory_and_the_worst_are_remembered() {
        let mut clock = Clock::new();
        for _ in 0..20 {
            clock.guess("192.0.2.1", None);
        }
        for number in 0..200_000_u32 {
            clock.guess(&Ipv6Addr::from_bits(u128::from(number) << 64).to_string(), None);
        }
        assert_eq!(clock.guess("192.0.2.1", None), 3000, "others' failures have washed it away");
        assert!(size_of::<Bucket>() * WAYS * SETS * 2 <= 4 * 1024 * 1024);
    }

    #[test]
    fn a_clock_that_stands_still_or_starts_late_is_fine() {
        let mut clock = Clock::new();
        clock.now -= SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 20);
        clock.now += 1000 * 86_400 * SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 20);
    }
}

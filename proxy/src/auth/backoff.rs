//! Delays the replies to failed logins: the more failures from a source or for a token, the longer. It never decides
//! who may log in: valid credentials are never delayed.
//!
//! The time is an argument. Memory is fixed: a full set of the table evicts the bucket that empties first.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::source::Source;
use store::TokenId;

/// A failed login is answered this long after its last byte, whatever its cause.
pub(crate) const FAILURE_DELAY: Duration = Duration::from_millis(20);
/// The longest delay; a longer one would exceed the connection's time limit for login.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(3);
/// Failures per minute without further delay, of one source and for one token.
const FAILURES_PER_SOURCE_MAX: u32 = 10;
const FAILURES_PER_TOKEN_MAX: u32 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// A bucket holds at most this many failures above the free ones, so that the delay also ends.
const EXCESS_MAX: u32 = 8;
/// Buckets for sources, and for tokens: `SETS` times `WAYS`, 88 bytes each.
const SETS: usize = 2048;
const WAYS: usize = 8;
/// Recent wrong secrets of a bucket; repeating one of them counts once.
const RECENT_MAX: usize = 8;

pub(crate) struct Throttle {
    hasher: RandomState,
    begun: Instant,
    sources: FailureTable,
    tokens: FailureTable,
}

/// A failed login.
pub(crate) struct Failure<'a> {
    pub(crate) source: IpAddr,
    /// The token that the client named, if any.
    pub(crate) token: Option<TokenId>,
    /// The secret, or the whole attempt: repeating it for the same token counts once.
    pub(crate) attempt: &'a [u8],
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            begun: now,
            sources: FailureTable::new(FAILURES_PER_SOURCE_MAX),
            tokens: FailureTable::new(FAILURES_PER_TOKEN_MAX),
        }
    }

    /// Records a failed login and returns the delay of its reply.
    pub(crate) fn delay(&self, failure: &Failure<'_>, now: Instant) -> Duration {
        let attempt = self.attempt(failure.token, failure.attempt);
        let now = Elapsed::between(self.begun, now);
        let source = self.sources.record(self.hash(&Source::of(failure.source)), attempt, now);
        let token = failure.token.map(|id| self.tokens.record(self.hash(&id), attempt, now));
        let excess = source.max(token.unwrap_or(0));
        FAILURE_DELAY.saturating_mul(1 << excess.min(EXCESS_MAX)).min(DELAY_MAX)
    }

    /// Records a failed login of an authenticated connection, which doesn't count for its source.
    pub(crate) fn record_for_token(&self, token: TokenId, attempt: &[u8], now: Instant) {
        let attempt = self.attempt(Some(token), attempt);
        self.tokens.record(self.hash(&token), attempt, Elapsed::between(self.begun, now));
    }

    fn attempt(&self, token: Option<TokenId>, attempt: &[u8]) -> AttemptHash {
        AttemptHash(self.hash(&(token, attempt)).max(1))
    }

    /// Keyed per process, so that a client can't choose colliding keys.
    fn hash(&self, what: &impl Hash) -> u64 {
        self.hasher.hash_one(what)
    }
}

/// Milliseconds since the throttle was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Elapsed(u64);

impl Elapsed {
    fn between(begun: Instant, now: Instant) -> Self {
        let since = now.saturating_duration_since(begun);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A hash of an attempt; 0 means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct AttemptHash(u64);

/// The leaky bucket of a source or token: each failure adds its cost, and time drains it.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    key: u64,
    /// When it is empty; in the past, the slot is free.
    empty_at: Elapsed,
    recent: [AttemptHash; RECENT_MAX],
    /// Index in `recent` of the next attempt.
    next: usize,
}

/// A hash table of fixed size; a key has `WAYS` possible slots.
struct FailureTable {
    /// How long one failure takes to drain, in milliseconds.
    cost: u64,
    free: u32,
    sets: Vec<Mutex<[Bucket; WAYS]>>,
}

impl FailureTable {
    fn new(free: u32) -> Self {
        let cost = u64::try_from(MINUTE.as_millis()).unwrap_or(u64::MAX) / u64::from(free);
        Self { cost, free, sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// Records a failure; returns how many the bucket holds above the free ones.
    fn record(&self, key: u64, attempt: AttemptHash, now: Elapsed) -> u32 {
        let sets = u64::try_from(self.sets.len()).unwrap_or(1);
        let Some(set) = usize::try_from(key % sets).ok().and_then(|at| self.sets.get(at)) else { return 0 };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|bucket| bucket.key == key && bucket.empty_at > now);
        let oldest = set.iter().enumerate().min_by_key(|(_, bucket)| bucket.empty_at).map(|(at, _)| at);
        let Some(bucket) = known.or(oldest).and_then(|at| set.get_mut(at)) else { return 0 };
        if known.is_none() {
            *bucket = Bucket { key, empty_at: now, ..Bucket::default() };
        }
        if !bucket.seen_recently(attempt) {
            let max = u64::from(self.free + EXCESS_MAX) * self.cost;
            bucket.empty_at = Elapsed((bucket.empty_at.0 + self.cost).min(now.0 + max));
        }
        // Rounded up: a failure counts until it has drained completely.
        let failures = (bucket.empty_at.0 - now.0).div_ceil(self.cost);
        u32::try_from(failures).unwrap_or(u32::MAX).saturating_sub(self.free)
    }
}

impl Bucket {
    /// Whether the bucket has seen the attempt recently; remembers it.
    fn seen_recently(&mut self, attempt: AttemptHash) -> bool {
        if self.recent.contains(&attempt) {
            return true;
        }
        if let Some(slot) = self.recent.get_mut(self.next % RECENT_MAX) {
            *slot = attempt;
        }
        self.next = (self.next + 1) % RECENT_MAX;
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

        fn fail(&self, source: &str, token: Option<TokenId>, attempt: &str) -> u128 {
            let failure = Failure { source: source.parse().unwrap(), token, attempt: attempt.as_bytes() };
            self.throttle.delay(&failure, self.now).as_millis()
        }

        /// With a secret that wasn't tried before.
        fn guess(&mut self, source: &str, token: Option<TokenId>) -> u128 {
            self.count += 1;
            self.fail(source, token, &self.count.to_string())
        }
    }

    #[test]
    fn failures_above_ten_a_minute_are_delayed_more_and_more() {
        let mut clock = Clock::new();
        let delays: Vec<u128> = (0..20).map(|_| clock.guess("192.0.2.1", None)).collect();
        assert_eq!(delays[..10], [20; 10]);
        assert_eq!(delays[10..], [40, 80, 160, 320, 640, 1280, 2560, 3000, 3000, 3000]);
        assert_eq!(clock.guess("192.0.2.2", None), 20, "failures of another source");
        // One failure drains every six seconds, and a full bucket within two minutes.
        clock.now += 48 * SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 40);
        clock.now += 120 * SECOND;
        assert_eq!((0..10).map(|_| clock.guess("192.0.2.1", None)).collect::<Vec<_>>(), [20; 10]);
        assert_eq!(clock.guess("192.0.2.1", None), 40);
    }

    #[test]
    fn failures_for_a_token_count_from_all_sources() {
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
    fn repeating_a_wrong_secret_counts_once() {
        let clock = Clock::new();
        let token = Some(Token::generate().id());
        for _ in 0..1000 {
            assert_eq!(clock.fail("192.0.2.1", token, "yesterday's"), 20);
        }
        for round in 0..200 {
            assert_eq!(clock.fail("192.0.2.1", token, &format!("one of {}", round % 8)), 20);
        }
    }

    //
    #[test]
    fn failures_of_authenticated_connections_count_for_the_token_only() {
        let mut clock = Clock::new();
        let token = Token::generate().id();
        for number in 0..80_u8 {
            clock.throttle.record_for_token(token, &[number], clock.now);
        }
        assert_eq!(clock.guess("192.0.2.1", None), 20);
        assert_eq!(clock.guess("192.0.2.1", Some(token)), 3000);
    }

    #[test]
    fn an_ipv6_64_is_one_source() {
        let mut clock = Clock::new();
        let delays: Vec<u128> =
            (0..12).map(|host| clock.guess(&format!("2001:db8::{host:x}"), None)).collect();
        assert_eq!(delays[10..], [40, 80]);
        assert_eq!(clock.guess("2001:db8:0:1::1", None), 20);
    }

    //
    #[test]
    fn memory_is_fixed_and_the_fullest_buckets_stay() {
        let mut clock = Clock::new();
        for _ in 0..20 {
            clock.guess("192.0.2.1", None);
        }
        for number in 0..200_000_u32 {
            clock.guess(&Ipv6Addr::from_bits(u128::from(number) << 64).to_string(), None);
        }
        assert_eq!(clock.guess("192.0.2.1", None), 3000, "other sources evicted a full bucket");
        assert!(size_of::<Bucket>() * WAYS * SETS * 2 <= 4 * 1024 * 1024);
    }

    #[test]
    fn clock_may_stand_still_or_start_late() {
        let mut clock = Clock::new();
        clock.now -= SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 20);
        clock.now += 1000 * 86_400 * SECOND;
        assert_eq!(clock.guess("192.0.2.1", None), 20);
    }
}

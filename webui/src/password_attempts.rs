//! How often passwords may be tried: limits per source, and a growing delay for an account that is tried from
//! everywhere. These don't depend on whether the account exists or the password is right. Also who goes first when
//! passwords wait to be hashed: a browser that has signed in to the account before goes before others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use daemon::source::Source;

use crate::config::Limits;
use crate::generations::Generations;
use crate::password::{Priority, Requester};
use crate::rate_limit::RateLimiter;
use crate::source_limit::{SourceLimit, SourceLimiter};

const MINUTE: Duration = Duration::from_secs(60);
/// Failed attempts at one account before further ones are delayed.
const UNDELAYED_MAX: u32 = 10;
/// Delay of the next attempt; each one doubles it.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest delay: a right password is never locked out.
const DELAY_MAX: Duration = Duration::from_secs(4);
/// The count of failed attempts is halved in this time.
const HALF_LIFE: Duration = Duration::from_secs(5 * 60);
/// The count goes no further: a delay is gone soon after the attempts that caused it have ended, however many they were.
const FAILURES_MAX: u32 = 2 * UNDELAYED_MAX;
/// Failed attempts of one network before others go first.
const TOLERATED_MAX: u32 = 3;
/// Failed attempts of one region before others go first: those of many networks, each of which fails seldom.
const TOLERATED_IN_REGION_MAX: u32 = 16;
/// First attempts at an account in a minute and a network, by browsers that have signed in to it before, for which the
/// limits of sources and networks don't matter.
const FIRST_OF_KNOWN_MAX: usize = 3;

/// Attempts at an account in a minute, over all sources, that go first because the browser has signed in to it before: the
/// mark can be copied to any number of them.
const FIRST_OF_ACCOUNT_MAX: usize = 6;

/// Limits of attempts to enter a password.
#[derive(Debug)]
pub(crate) struct PasswordAttempts {
    per_account_and_source: RateLimiter,
    per_source: SourceLimiter,
    /// The first attempts at each known account and network.
    first_of_known: RateLimiter,
    /// Attempts at each account by browsers that are known.
    first_of_account: RateLimiter,
    history: Mutex<History>,
}

/// What is remembered of attempts. A flood of made-up accounts or of networks makes it forget sooner.
#[derive(Debug)]
struct History {
    accounts: Generations<Failures>,
    networks: Generations<Failures>,
    regions: Generations<Failures>,
}

/// Failed attempts. Halved every [`HALF_LIFE`].
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    halved_at: Option<Instant>,
}

/// An attempt that may be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// The time to wait before.
    pub(crate) delay: Duration,
    pub(crate) requester: Requester,
}

/// Why an attempt isn't made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) cause: &'static str,
    /// The time to wait.
    pub(crate) wait: Duration,
}

impl PasswordAttempts {
    pub(crate) fn new(limits: &Limits) -> Self {
        let history = History {
            accounts: Generations::new(),
            networks: Generations::new(),
            regions: Generations::new(),
        };
        Self {
            per_account_and_source: RateLimiter::new(limits.sign_ins_per_minute, MINUTE),
            per_source: SourceLimiter::new(limits.sign_ins_per_source_per_minute, MINUTE),
            first_of_known: RateLimiter::new(FIRST_OF_KNOWN_MAX, MINUTE),
            first_of_account: RateLimiter::new(FIRST_OF_ACCOUNT_MAX, MINUTE),
            history: Mutex::new(history),
        }
    }

    /// Counts an attempt, as a failed one until [`PasswordAttempts::record_success`]. `is_known` says that the browser has
    /// signed in to the account before: nothing else that is known of an account may matter here, since it would tell
    /// others that the account exists.
    ///
    /// # Errors
    ///
    /// The time to wait if a limit is reached.
    pub(crate) fn acquire(&self, email: &str, source: Source, is_known: bool) -> Result<Attempt, Limited> {
        let account = account(email);
        let of_source = self.per_source.acquire(source).map_err(|(limit, wait)| match limit {
            SourceLimit::Source => Limited { cause: "sign_in_source", wait },
            SourceLimit::Network => Limited { cause: "sign_in_network", wait },
        });
        if !(is_known && self.first_of_known.acquire((&account, source.network())).is_ok()) {
            of_source?;
        }
        self.per_account_and_source
            .acquire((&account, source))
            .map_err(|wait| Limited { cause: "sign_in_account", wait })?;
        let goes_first = is_known && self.first_of_account.acquire(&account).is_ok();
        Ok(self.history().attempt(&account, source, goes_first, Instant::now()))
    }

    /// Takes back the failure that [`PasswordAttempts::acquire`] counted.
    pub(crate) fn record_success(&self, email: &str, source: Source) {
        let (account, mut history) = (account(email), self.history());
        let History { accounts, networks, regions, .. } = &mut *history;
        let (of_network, of_region) = (networks.get_mut(source.network()), regions.get_mut(source.region()));
        for failures in [accounts.get_mut(&account), of_network, of_region] {
            failures.into_iter().for_each(|failures| failures.count = failures.count.saturating_sub(1));
        }
    }

    /// Who wants a password hashed that isn't compared with that of an account.
    pub(crate) fn requester(&self, source: Source) -> Requester {
        let (mut history, now) = (self.history(), Instant::now());
        let of_network = history.networks.get_mut(source.network()).map_or(0, |it| it.halve(now));
        let of_region = history.regions.get_mut(source.region()).map_or(0, |it| it.halve(now));
        Requester { source, priority: priority(of_network, of_region) }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn attempt(&mut self, account: &str, source: Source, goes_first: bool, now: Instant) -> Attempt {
        let network = source.network();
        let of_account = self.accounts.get_or_default(account).add(now);
        let of_network = self.networks.get_or_default(network).add(now);
        let of_region = self.regions.get_or_default(source.region()).add(now);
        let priority = if goes_first { Priority::Known } else { priority(of_network, of_region) };
        Attempt { delay: delay(of_account), requester: Requester { source, priority } }
    }
}

impl Failures {
    /// Counts one. Returns how many there were before.
    fn add(&mut self, now: Instant) -> u32 {
        let before = self.halve(now);
        self.count = before.saturating_add(1).min(FAILURES_MAX);
        before
    }

    /// Returns how many there are now.
    fn halve(&mut self, now: Instant) -> u32 {
        let halved_at = self.halved_at.get_or_insert(now);
        let halvings = now.saturating_duration_since(*halved_at).as_secs() / HALF_LIFE.as_secs();
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        *halved_at += HALF_LIFE.saturating_mul(halvings);
        self.count = self.count.checked_shr(halvings).unwrap_or(0);
        self.count
    }
}

fn priority(of_network: u32, of_region: u32) -> Priority {
    let is_tolerated = of_network <= TOLERATED_MAX && of_region <= TOLERATED_IN_REGION_MAX;
    if is_tolerated { Priority::Unknown } else { Priority::Suspect }
}

/// The account that an attempt is for, in the form in which accounts are compared.
pub(crate) fn account(email: &str) -> String {
    email.trim().to_lowercase()
}

fn delay(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(UNDELAYED_MAX) else { return Duration::ZERO };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    DELAY_MIN.saturating_mul(factor).min(DELAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    //
    #[test]
    fn delay_grows_to_a_few_seconds_and_fades() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let start = Instant::now();
        let mut networks = (0..).map(|n: u32| client(&format!("198.18.{}.1", n % 256)));
        let mut delay = |email: &str, at| {
            attempts.history().attempt(email, networks.next().unwrap(), false, at).delay.as_millis()
        };
        let delays: Vec<u128> = (0..100).map(|_| delay("a@example.com", start)).collect();
        assert_eq!(delays[..10], [0; 10]);
        assert_eq!(delays[10..17], [100, 200, 400, 800, 1600, 3200, 4000]);
        assert!(delays[17..].iter().all(|delay| *delay == 4000), "never longer");
        assert_eq!(delay("b@example.com", start), 0, "another account");
        assert_eq!(delay("a@example.com", start + HALF_LIFE), 100, "however many they were");
        assert_eq!(delay("a@example.com", start + HALF_LIFE * 2), 0);
        assert_eq!(delay("a@example.com", start + HALF_LIFE * 9), 0);
    }

    //
    #[test]
    fn networks_that_fail_often_go_last_and_known_ones_first() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let start = Instant::now();
        let priority = |email: &str, address: &str, at| {
            attempts.history().attempt(email, client(address), false, at).requester.priority
        };
        for _ in 0..=TOLERATED_MAX {
            assert_eq!(priority("a@example.com", "198.51.100.1", start), Priority::Unknown);
        }
        assert_eq!(priority("a@example.com", "198.51.100.2", start), Priority::Suspect);
        assert_eq!(attempts.requester(client("198.51.100.3")).priority, Priority::Suspect);
        assert_eq!(priority("a@example.com", "203.0.113.9", start), Priority::Unknown, "another network");
        attempts.record_success(" A@Example.com", client("198.51.100.3"));
        assert_eq!(priority("a@example.com", "198.51.100.1", start), Priority::Suspect, "another browser");
        let known = attempts.history().attempt("a@example.com", client("198.51.100.1"), true, start);
        assert_eq!(known.requester.priority, Priority::Known);
        let later = start + HALF_LIFE * 3;
        assert_eq!(priority("b@example.com", "198.51.100.3", later), Priority::Unknown, "fades");
    }

    //
    #[test]
    fn networks_of_a_region_that_fails_often_go_last() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let priority = |address: &str| {
            attempts.acquire("a@example.com", client(address), false).unwrap().requester.priority
        };
        for network in 0..=TOLERATED_IN_REGION_MAX {
            assert_eq!(priority(&format!("2001:db8:{network:x}::1")), Priority::Unknown);
        }
        assert_eq!(priority("2001:db8:ffff::1"), Priority::Suspect, "another network of the region");
        assert_eq!(attempts.requester(client("2001:db8:fffe::1")).priority, Priority::Suspect);
        assert_eq!(priority("2001:db9::1"), Priority::Unknown, "another region");
    }

    //
    #[test]
    fn known_browsers_have_attempts_that_neighbours_do_not_use_up() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let shared = client("198.51.100.1");
        for n in 0..100 {
            let _ = attempts.acquire(&format!("user{n}@example.com"), shared, false);
        }
        let outcome =
            |email: &str, known| attempts.acquire(email, shared, known).map(|_| ()).map_err(|it| it.cause);
        for _ in 0..FIRST_OF_KNOWN_MAX {
            assert_eq!(outcome(" Ann@example.com", true), Ok(()));
            assert_eq!(outcome("ann@example.com", false), Err("sign_in_source"), "another browser");
        }
        assert_eq!(outcome("ann@example.com", true), Err("sign_in_source"));
    }

    //
    #[test]
    fn one_account_goes_first_a_few_times_only() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let mut networks = (0..).map(|n: u32| client(&format!("198.18.{}.1", n % 256)));
        let mut priority = |email: &str, is_known| {
            attempts.acquire(email, networks.next().unwrap(), is_known).unwrap().requester.priority
        };
        for _ in 0..FIRST_OF_ACCOUNT_MAX {
            assert_eq!(priority("ann@example.com", true), Priority::Known);
            assert_eq!(priority("ann@example.com", false), Priority::Unknown, "others use nothing up");
        }
        assert_eq!(priority("Ann@example.com", true), Priority::Unknown);
        assert_eq!(priority("bob@example.com", true), Priority::Known);
    }

    //
    #[test]
    fn sources_and_networks_are_limited() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let client = |subnet: u16| client(&format!("2001:db8:1:{subnet:x}::1"));
        let mut email = (0..).map(|id| format!("user{id}@example.com"));
        let mut attempt = |client| {
            let attempt = attempts.acquire(&email.next().unwrap(), client, false);
            attempt.map(|it| it.delay).map_err(|it| it.cause)
        };
        for subnet in 0..10 {
            for _ in 0..30 {
                assert_eq!(attempt(client(subnet)), Ok(Duration::ZERO));
            }
            if subnet < 9 {
                assert_eq!(attempt(client(subnet)), Err("sign_in_source"));
            }
        }
        assert_eq!(attempt(client(10)), Err("sign_in_network"), "another /64 of the same /56");
        let neighbour: Vec<_> = (0..6).map(|_| attempt(client(0x100))).collect();
        assert_eq!(neighbour[..5], [Ok(Duration::ZERO); 5], "another /56 of the same /48");
        assert_eq!(neighbour[5], Err("sign_in_network"));
        assert_eq!(attempt(Source::of([203, 0, 113, 9].into())), Ok(Duration::ZERO));
    }
}

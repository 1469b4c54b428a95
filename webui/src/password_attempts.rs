//! How often passwords may be tried: limits per source, and a growing delay for an account that is tried from
//! everywhere. Nothing here depends on whether the account exists or the password is right.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::source::Source;

use crate::config::Limits;
use crate::rate_limit::RateLimiter;

const MINUTE: Duration = Duration::from_secs(60);
/// Failed attempts at one account before further ones are delayed.
const UNDELAYED_MAX: u32 = 10;
/// Delay of the next attempt; each one doubles it.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest delay: a right password is never locked out.
const DELAY_MAX: Duration = Duration::from_secs(4);
/// Without another attempt, the count of failed ones is halved in this time.
const HALF_LIFE: Duration = Duration::from_secs(5 * 60);
/// Accounts in one generation; there are two.
const ACCOUNTS_MAX: usize = 20_000;

/// Limits of attempts to enter a password.
#[derive(Debug)]
pub(crate) struct PasswordAttempts {
    per_account_and_source: RateLimiter,
    per_source: RateLimiter,
    per_network: RateLimiter,
    hasher: RandomState,
    failures: Mutex<Failures>,
}

/// Why an attempt isn't made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) cause: &'static str,
    /// The time to wait.
    pub(crate) wait: Duration,
}

/// Failed attempts by account, as a keyed hash. When the newer generation is full the older one is dropped: a flood of
/// made-up accounts shortens delays, but never grows the memory.
#[derive(Debug, Default)]
struct Failures {
    newer: HashMap<u64, Failed>,
    older: HashMap<u64, Failed>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    count: u32,
    last: Instant,
}

impl PasswordAttempts {
    pub(crate) fn new(limits: &Limits) -> Self {
        let per_source = limits.sign_ins_per_source_per_minute;
        Self {
            per_account_and_source: RateLimiter::new(limits.sign_ins_per_minute, MINUTE),
            per_source: RateLimiter::new(per_source, MINUTE),
            per_network: RateLimiter::for_network(per_source, MINUTE),
            hasher: RandomState::new(),
            failures: Mutex::default(),
        }
    }

    /// Counts an attempt, as a failed one until [`PasswordAttempts::record_success`], and returns the delay before it.
    ///
    /// # Errors
    ///
    /// The time to wait if a limit is reached.
    pub(crate) fn acquire(&self, email: &str, source: Source) -> Result<Duration, Limited> {
        let limited = |cause| move |wait| Limited { cause, wait };
        self.per_source.acquire(source).map_err(limited("sign_in_source"))?;
        self.per_network.acquire(source.network()).map_err(limited("sign_in_network"))?;
        let account = account(email);
        self.per_account_and_source.acquire((&account, source)).map_err(limited("sign_in_account"))?;
        Ok(self.count_failure(&account, Instant::now()))
    }

    /// Takes back the failure that [`PasswordAttempts::acquire`] counted.
    pub(crate) fn record_success(&self, email: &str) {
        let key = self.hasher.hash_one(account(email));
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = failures.newer.get_mut(&key) {
            failed.count = failed.count.saturating_sub(1);
        }
    }

    fn count_failure(&self, account: &str, now: Instant) -> Duration {
        let key = self.hasher.hash_one(account);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.newer.len() >= ACCOUNTS_MAX {
            failures.older = std::mem::take(&mut failures.newer);
        }
        let known = failures.older.remove(&key);
        let failed = failures.newer.entry(key).or_insert(known.unwrap_or(Failed { count: 0, last: now }));
        let halvings = now.saturating_duration_since(failed.last).as_secs() / HALF_LIFE.as_secs();
        let before = failed.count.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        *failed = Failed { count: before.saturating_add(1), last: now };
        delay(before)
    }
}

/// The account that an attempt is for, in the form in which accounts are compared.
fn account(email: &str) -> String {
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

    //
    #[test]
    fn delay_grows_to_a_few_seconds_and_fades() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let start = Instant::now();
        let delays: Vec<u128> =
            (0..100).map(|_| attempts.count_failure("a@example.com", start).as_millis()).collect();
        assert_eq!(delays[..10], [0; 10]);
        assert_eq!(delays[10..17], [100, 200, 400, 800, 1600, 3200, 4000]);
        assert!(delays[17..].iter().all(|delay| *delay == 4000), "never longer");
        assert_eq!(attempts.count_failure("b@example.com", start), Duration::ZERO, "another account");
        assert!(attempts.count_failure("a@example.com", start + HALF_LIFE) > Duration::ZERO);
        assert_eq!(attempts.count_failure("a@example.com", start + HALF_LIFE * 9), Duration::ZERO);
    }

    //
    #[test]
    fn memory_for_accounts_is_bounded() {
        let attempts = PasswordAttempts::new(&Limits::default());
        for account in 0..100_000 {
            attempts.count_failure(&account.to_string(), Instant::now());
        }
        let failures = attempts.failures.lock().unwrap();
        assert!(failures.newer.len() + failures.older.len() <= 2 * ACCOUNTS_MAX);
    }

    //
    #[test]
    fn sources_and_networks_are_limited() {
        let attempts = PasswordAttempts::new(&Limits::default());
        let client = |subnet: u16| Source::of(format!("2001:db8:1:{subnet:x}::1").parse().unwrap());
        let mut email = (0..).map(|id| format!("user{id}@example.com"));
        let mut attempt = |client| attempts.acquire(&email.next().unwrap(), client).map_err(|it| it.cause);
        for subnet in 0..10 {
            for _ in 0..30 {
                assert_eq!(attempt(client(subnet)), Ok(Duration::ZERO));
            }
            if subnet < 9 {
                assert_eq!(attempt(client(subnet)), Err("sign_in_source"));
            }
        }
        assert_eq!(attempt(client(10)), Err("sign_in_network"), "another /64 of the same /48");
        assert_eq!(attempt(Source::of([203, 0, 113, 9].into())), Ok(Duration::ZERO));
    }
}

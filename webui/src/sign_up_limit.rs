//! How many sign-ups there may be: of a client and its network, and of all clients together, of which no region and no
//! network may use up most. A subscriber's first sign-up doesn't depend on what its neighbours do.

use std::time::Duration;

use daemon::source::{Network, Region, Source, Subscriber};

use crate::config::Limits;
use crate::rate_limit::RateLimiter;
use crate::source_limit::{SourceLimit, SourceLimiter};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// First sign-ups of a subscriber for which its network's limits don't matter.
const FIRST_MAX: usize = 1;
/// Whole : part of a region and of a network, of the accounts that all together may create.
const REGION_PART: usize = 4;
const NETWORK_PART: usize = 10;

/// Limits of sign-ups in an hour.
#[derive(Debug)]
pub(crate) struct SignUpLimits {
    /// Sign-ups with valid fields, whether they create an account or not.
    attempts: SourceLimiter,
    /// Accounts created; `None` without a limit.
    created: Option<Created>,
}

#[derive(Debug)]
struct Created {
    max: usize,
    total: RateLimiter,
    per_region: RateLimiter,
    per_network: RateLimiter,
    first: RateLimiter,
}

/// Why nobody can sign up now, with the time to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignUpLimit {
    /// Of the client.
    Source(Duration),
    /// Of the client's network.
    Network(Duration),
    /// Of the client's region.
    Region(Duration),
    /// Of all accounts created.
    Total(Duration),
}

/// An account that is about to be created. It counts until dropped; or if kept, for an hour.
#[derive(Debug, Default)]
pub(crate) struct Reservation<'a>(Vec<(&'a RateLimiter, Key)>);

/// What counts an account.
#[derive(Debug, Clone, Copy, Hash)]
enum Key {
    All,
    Region(Region),
    Network(Network),
    Subscriber(Subscriber),
}

impl SignUpLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            attempts: SourceLimiter::with_first(limits.sign_ups_per_hour, HOUR, FIRST_MAX),
            created: limits.sign_ups_in_total().map(|max| Created {
                max,
                total: RateLimiter::new(max, HOUR),
                per_region: RateLimiter::new(max.div_ceil(REGION_PART), HOUR),
                // Not less than one client may have.
                per_network: RateLimiter::new(max.div_ceil(NETWORK_PART).max(limits.sign_ups_per_hour), HOUR),
                first: RateLimiter::new(FIRST_MAX, HOUR),
            }),
        }
    }

    /// Counts a sign-up with valid fields.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(crate) fn acquire_attempt(&self, client: Source) -> Result<(), SignUpLimit> {
        self.attempts.acquire(client).map_err(|(limit, wait)| match limit {
            SourceLimit::Source => SignUpLimit::Source(wait),
            SourceLimit::Network => SignUpLimit::Network(wait),
        })
    }

    /// Counts an account. One that is checked only is dropped at once.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub(crate) fn reserve(&self, client: Source) -> Result<Reservation<'_>, SignUpLimit> {
        let mut reservation = Reservation::default();
        let Some(created) = &self.created else { return Ok(reservation) };
        reservation.take(&created.total, Key::All).map_err(SignUpLimit::Total)?;
        if let Some(region) = client.public_region() {
            reservation.take(&created.per_region, Key::Region(region)).map_err(SignUpLimit::Region)?;
        }
        let is_first = reservation.take(&created.first, Key::Subscriber(client.subscriber())).is_ok();
        let of_network = reservation.take(&created.per_network, Key::Network(client.network()));
        if !is_first {
            of_network.map_err(SignUpLimit::Network)?;
        }
        Ok(reservation)
    }

    /// Accounts created in the last hour, and how many there may be; `None` without a limit.
    pub(crate) fn created(&self) -> Option<(usize, usize)> {
        self.created.as_ref().map(|created| (created.total.count(Key::All), created.max))
    }
}

impl<'a> Reservation<'a> {
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }

    fn take(&mut self, limiter: &'a RateLimiter, key: Key) -> Result<(), Duration> {
        limiter.acquire(key)?;
        self.0.push((limiter, key));
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        for (limiter, key) in self.0.drain(..) {
            limiter.release(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> SignUpLimits {
        SignUpLimits::new(&Limits::default())
    }

    fn client(address: [u8; 4]) -> Source {
        Source::of(address.into())
    }

    /// How many of `clients` may create an account.
    fn created(limits: &SignUpLimits, clients: impl Iterator<Item = String>) -> usize {
        let create =
            |client: String| limits.reserve(Source::of(client.parse().unwrap())).map(Reservation::keep);
        clients.filter(|client| create(client.clone()).is_ok()).count()
    }

    // R-31, W-8.
    #[test]
    fn no_region_uses_up_the_sign_ups_of_all() {
        let limits = limits();
        for region in [198, 199] {
            let hosts = (0..5000).map(|n| format!("{region}.51.{}.{}", n / 250, n % 250));
            assert_eq!(created(&limits, hosts), 25, "a quarter");
        }
        let subnets = (0..5000).map(|n| format!("2001:db8:{:x}:{:x}00::1", n / 250, n % 250));
        assert_eq!(created(&limits, subnets), 25);
        assert_eq!(created(&limits, (0..1).map(|_| "203.0.113.9".to_owned())), 1, "another region");
        assert_eq!(limits.created(), Some((76, 100)));
    }

    // R-31, W-8.
    #[test]
    fn neighbours_of_a_crowded_network_have_their_first_sign_up() {
        let limits = limits();
        let of_two = (0..100).map(|n| format!("198.51.100.{}", n % 2));
        assert_eq!(created(&limits, of_two), 10, "a tenth");
        assert_eq!(created(&limits, ["198.51.100.9".to_owned(), "198.51.100.9".into()].into_iter()), 1);
        assert_eq!(created(&limits, (0..1).map(|_| "198.51.101.9".to_owned())), 1, "another network");
    }

    //
    #[test]
    fn attempts_leave_neighbours_their_first() {
        let limits = limits();
        for host in 0..20 {
            for _ in 0..6 {
                let _ = limits.acquire_attempt(client([198, 51, 100, host]));
            }
        }
        let neighbour = client([198, 51, 100, 99]);
        assert_eq!(limits.acquire_attempt(neighbour), Ok(()));
        assert!(matches!(limits.acquire_attempt(neighbour), Err(SignUpLimit::Network(_))));
    }

    #[test]
    fn what_is_not_kept_does_not_count() {
        let limits = SignUpLimits::new(&Limits { sign_ups_in_total_per_hour: 1, ..Limits::default() });
        let client = client([203, 0, 113, 9]);
        for _ in 0..3 {
            assert!(limits.reserve(client).is_ok());
        }
        limits.reserve(client).unwrap().keep();
        assert!(matches!(limits.reserve(client), Err(SignUpLimit::Total(_))));
        let unlimited = SignUpLimits::new(&Limits { sign_ups_in_total_per_hour: 0, ..Limits::default() });
        assert!((0..1000).all(|_| unlimited.reserve(client).map(Reservation::keep).is_ok()));
    }

    // A company's network has one region.
    #[test]
    fn private_addresses_have_no_region() {
        let hosts = (0..200).map(|n| format!("10.0.{n}.{n}"));
        assert_eq!(created(&limits(), hosts), 100);
    }
}

//! Limit of events per source and per network. However many events its network has, a subscriber may have a few: what a
//! neighbour does locks no one out.

use std::time::Duration;

use daemon::source::Source;

use crate::rate_limit::RateLimiter;

/// First events of a subscriber (an IPv4 address, an IPv6 /56) in a period, for which its network's limit doesn't
/// matter. A network has at most 256 subscribers: it can't have many more events in this way.
const FIRST_MAX: usize = 5;

/// At most so many events of a source, and ten times as many of its network.
#[derive(Debug)]
pub(crate) struct SourceLimiter {
    per_source: RateLimiter,
    per_network: RateLimiter,
    /// The first events of each subscriber.
    first: RateLimiter,
}

/// The limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceLimit {
    Source,
    Network,
}

impl SourceLimiter {
    /// At most `max` events of a source in any `period`.
    pub(crate) fn new(max: usize, period: Duration) -> Self {
        Self::with_first(max, period, FIRST_MAX)
    }

    /// The same, with another number of first events.
    pub(crate) fn with_first(max: usize, period: Duration, first_max: usize) -> Self {
        Self {
            per_source: RateLimiter::new(max, period),
            per_network: RateLimiter::for_network(max, period),
            first: RateLimiter::new(first_max, period),
        }
    }

    /// Counts one event.
    ///
    /// # Errors
    ///
    /// The limit that is reached, and the time to wait.
    pub(crate) fn acquire(&self, source: Source) -> Result<(), (SourceLimit, Duration)> {
        self.per_source.acquire(source).map_err(|wait| (SourceLimit::Source, wait))?;
        let is_first = self.first.acquire(source.subscriber()).is_ok();
        let of_network = self.per_network.acquire(source.network());
        if is_first { Ok(()) } else { of_network.map_err(|wait| (SourceLimit::Network, wait)) }
    }

    /// Takes back the last event that was counted for a source.
    pub(crate) fn release(&self, source: Source) {
        self.per_source.release(source);
        self.first.release(source.subscriber());
        self.per_network.release(source.network());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits that refuse `count` events.
    fn refusals(limiter: &SourceLimiter, address: &str, count: usize) -> Vec<SourceLimit> {
        let source = Source::of(address.parse().unwrap());
        (0..count).filter_map(|_| limiter.acquire(source).err()).map(|(limit, _)| limit).collect()
    }

    //
    #[test]
    fn neighbours_of_a_flood_have_their_first_events() {
        for (flood, neighbour) in [("2001:db8:1:00", "2001:db8:1:ff00::1"), ("198.51.100.1", "198.51.100.9")]
        {
            let limiter = SourceLimiter::new(30, Duration::from_secs(60));
            for host in 0..10 {
                let of_flood =
                    if flood.contains(':') { format!("{flood}{host}::1") } else { format!("{flood}{host}") };
                assert_eq!(refusals(&limiter, &of_flood, 31), [SourceLimit::Source], "{of_flood}");
            }
            assert_eq!(refusals(&limiter, neighbour, 7), [SourceLimit::Network; 2], "{neighbour}");
        }
    }

    //
    #[test]
    fn networks_are_limited_however_many_sources_they_have() {
        let limiter = SourceLimiter::new(30, Duration::from_secs(60));
        let passed = (0..20_000_u32).filter(|subnet| {
            let address = format!("2001:db8:1:{:x}::1", subnet % 0x1_0000);
            refusals(&limiter, &address, 1).is_empty()
        });
        // Two subscribers, of 256 sources each, use the network's limit up; 77 others have their first events.
        assert_eq!(passed.count(), 300 + 77 * FIRST_MAX);
    }

    #[test]
    fn limit_of_zero_refuses_everything() {
        let limiter = SourceLimiter::new(0, Duration::from_secs(60));
        assert_eq!(refusals(&limiter, "198.51.100.1", 1), [SourceLimit::Source]);
    }
}

//! Limits of unauthenticated connections, and which of them close for others.

use std::net::Ipv4Addr;

use testkit::Rng;

use super::*;
use crate::metrics::admission::OpenCounts;

/// 2,000 unauthenticated connections, of which 250 stay undisturbed.
const CONNECTIONS_MAX: usize = 8_000;
const UNAUTHENTICATED_MAX: usize = CONNECTIONS_MAX / UNAUTHENTICATED_SHARE;
const CLOSING_MAX: usize = 256;

fn limiter(connections_max: usize) -> Arc<AdmissionLimiter> {
    AdmissionLimiter::new(connections_max, CLOSING_MAX, AdmissionMetrics::default())
}

fn v4(network: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, network, host).into()
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn phase(permit: &Permit) -> Phase {
    permit.limiter.state().entries.get(&permit.number).unwrap().phase
}

fn count(permits: &[Permit], wanted: Phase) -> usize {
    permits.iter().filter(|permit| phase(permit) == wanted).count()
}

fn silent(limiter: &Arc<AdmissionLimiter>, source: IpAddr) -> Permit {
    limiter.admit(source, 1).unwrap()
}

fn logging_in(limiter: &Arc<AdmissionLimiter>, source: IpAddr) -> Permit {
    let mut permit = silent(limiter, source);
    permit.begin_login().unwrap();
    permit
}

/// Lets a login look as if it had begun `age` ago.
fn age(permit: &Permit, age: Duration) {
    let mut state = permit.limiter.state();
    let entry = state.entries.get_mut(&permit.number).unwrap();
    entry.since = entry.since.checked_sub(age).unwrap();
}

//
#[test]
fn a_quarter_of_all_connections_may_be_unauthenticated() {
    let limiter = limiter(CONNECTIONS_MAX);
    let permits: Vec<Permit> = (0..3 * UNAUTHENTICATED_MAX)
        .map(|n| silent(&limiter, v4(u8::try_from(n % 200).unwrap(), 1)))
        .collect();
    // New ones close silent ones as soon as half of the limit is in use.
    assert_eq!(count(&permits, Phase::Silent), UNAUTHENTICATED_MAX / 2);
    assert!(limiter.is_under_pressure());
    let logins: Vec<Permit> = (0..3 * UNAUTHENTICATED_MAX)
        .map(|n| {
            let source = Ipv4Addr::new(198, 51, u8::try_from(n / 60).unwrap(), 1);
            logging_in(&limiter, source.into())
        })
        .collect();
    assert_eq!(limiter.state().open(), UNAUTHENTICATED_MAX);
    assert_eq!(count(&permits, Phase::Silent), limiter.limits.undisturbed);
    assert_eq!(count(&logins, Phase::LoggingIn), UNAUTHENTICATED_MAX - limiter.limits.undisturbed);
    drop((permits, logins));
    let state = limiter.state();
    assert!(state.entries.is_empty() && state.silent.is_empty() && state.logins.is_empty());
    assert_eq!(state.counts(), OpenCounts::default());
}

//
#[test]
fn connections_beyond_the_limit_are_rejected_unless_a_silent_one_closes() {
    let limiter = limiter(CONNECTIONS_MAX);
    assert_eq!(limiter.admit(v4(1, 1), CONNECTIONS_MAX + 1).err(), Some(LimitReached));
    let others: Vec<Permit> =
        (0..300).map(|n| silent(&limiter, v4(u8::try_from(n % 200).unwrap(), 1))).collect();
    let new = limiter.admit(v4(1, 1), CONNECTIONS_MAX + 1).unwrap();
    assert_eq!(count(&others, Phase::Closing), 1);
    // Evicted connections hold their descriptors until their tasks end.
    let beyond = CONNECTIONS_MAX + limiter.limits.closing_max + 1;
    assert_eq!(limiter.admit(v4(1, 1), beyond).err(), Some(LimitReached));
    drop((others, new));
    let closing: Vec<Permit> = (0..1000).map_while(|_| limiter.admit_closing(v4(1, 1))).collect();
    assert_eq!(closing.len(), CLOSING_MAX);
    assert!(limiter.admit(v4(1, 1), 1).is_ok(), "closing connections take no place of others");
}

//
#[test]
fn a_source_has_slots_for_logins_and_slow_ones_give_theirs_up() {
    let limiter = limiter(CONNECTIONS_MAX);
    let source = v4(1, 1);
    let burst: Vec<Permit> = (0..LOGIN_BURST_PER_SOURCE_MAX).map(|_| logging_in(&limiter, source)).collect();
    let mut next = silent(&limiter, source);
    assert_eq!(next.begin_login(), Err(LimitReached), "all of the burst are young");
    let other = logging_in(&limiter, v4(2, 1));
    age(&burst[7], FAST_LOGIN_TIMEOUT);
    assert_eq!(next.begin_login(), Err(LimitReached), "only the oldest gives its slot up");
    age(&burst[0], FAST_LOGIN_TIMEOUT);
    assert_eq!(next.begin_login(), Ok(()));
    assert_eq!((phase(&burst[0]), phase(&other)), (Phase::Closing, Phase::LoggingIn));
    // A login that succeeds frees its slot at once.
    burst[1].set_authenticated();
    drop(logging_in(&limiter, source));
    // Those beyond 64 have a second.
    let excess = burst.iter().skip(2).filter(|permit| limiter.is_excess(permit.number)).count();
    assert_eq!(limiter.state().logins.count_of_source(Source::of(source)), LOGINS_PER_SOURCE_MAX);
    assert_eq!(excess, LOGIN_BURST_PER_SOURCE_MAX - 2 + 1 - LOGINS_PER_SOURCE_MAX);
}

//
#[test]
fn a_source_has_few_silent_connections_behind_a_balancer_too() {
    let limiter = limiter(CONNECTIONS_MAX);
    let (balancer, source) = (v4(9, 9), v4(1, 1));
    let mut permits: Vec<Permit> =
        (0..SILENT_PER_SOURCE_MAX + 10).map(|_| limiter.admit_balancer(balancer, 1).unwrap()).collect();
    permits.iter_mut().for_each(|permit| permit.set_source(source));
    assert_eq!(limiter.state().silent.count_of_source(Source::of(source)), SILENT_PER_SOURCE_MAX);
    assert_eq!(count(&permits[..10], Phase::Closing), 10, "the oldest close");
}

//
#[test]
fn under_pressure_a_source_has_no_burst() {
    let limiter = limiter(CONNECTIONS_MAX);
    let held: Vec<Permit> = (0..UNAUTHENTICATED_MAX / 2)
        .map(|n| logging_in(&limiter, v4(u8::try_from(n / 50).unwrap(), 1)))
        .collect();
    let slots: Vec<Permit> = (0..LOGINS_PER_SOURCE_MAX).map(|_| logging_in(&limiter, v4(200, 1))).collect();
    let mut next = silent(&limiter, v4(200, 1));
    assert_eq!(next.begin_login(), Err(LimitReached));
    age(&slots[0], FAST_LOGIN_TIMEOUT);
    assert_eq!(next.begin_login(), Ok(()));
    assert_eq!(count(&slots, Phase::Closing), 1);
    assert_eq!(count(&held, Phase::Closing), 0);
}

//
#[test]
fn a_network_has_a_share_of_the_logins() {
    let limiter = limiter(CONNECTIONS_MAX);
    let logins: Vec<Permit> = (0..limiter.limits.network_max)
        .map(|n| logging_in(&limiter, v4(1, u8::try_from(n / 50).unwrap())))
        .collect();
    let mut next = silent(&limiter, v4(1, 99));
    assert_eq!(next.begin_login(), Err(LimitReached));
    drop(logging_in(&limiter, v4(2, 1)));
    age(&logins[0], FAST_LOGIN_TIMEOUT);
    assert_eq!(next.begin_login(), Ok(()));
    assert_eq!(phase(&logins[0]), Phase::Closing);
}

//
#[test]
fn the_oldest_silent_connection_of_the_same_source_closes_for_a_new_one() {
    let limiter = limiter(CONNECTIONS_MAX);
    let silent: Vec<Permit> = (0..2 * SILENT_PER_SOURCE_MAX).map(|_| silent(&limiter, v4(1, 1))).collect();
    assert_eq!(count(&silent, Phase::Silent), SILENT_PER_SOURCE_MAX);
    assert!(silent.iter().take(SILENT_PER_SOURCE_MAX).all(|permit| phase(permit) == Phase::Closing));
    // None of them takes a slot.
    drop(logging_in(&limiter, v4(1, 1)));
}

//
#[test]
fn the_oldest_silent_connection_of_the_most_crowded_network_closes_first() {
    let limiter = limiter(CONNECTIONS_MAX);
    let others: Vec<Permit> = (0..100).map(|n| silent(&limiter, v4(n, 1))).collect();
    let crowded: Vec<Permit> = (0..UNAUTHENTICATED_MAX - 100)
        .map(|n| silent(&limiter, v4(200, u8::try_from(n / 20).unwrap())))
        .collect();
    assert_eq!(count(&others, Phase::Silent), 100);
    assert_eq!(count(&crowded, Phase::Closing), UNAUTHENTICATED_MAX / 2);
    assert!(crowded.iter().take(UNAUTHENTICATED_MAX / 2).all(|permit| phase(permit) == Phase::Closing));
}

//
#[test]
fn a_whole_region_with_few_connections_in_each_network_is_crowded_too() {
    let limiter = limiter(CONNECTIONS_MAX);
    // Three from one site; then one each from 65,536 sites of one provider.
    let site: Vec<Permit> = (0..3).map(|_| silent(&limiter, v6("2001:db9:1:1::1"))).collect();
    let region: Vec<Permit> =
        (0..UNAUTHENTICATED_MAX).map(|n| silent(&limiter, v6(&format!("2001:db8:{n:x}::1")))).collect();
    assert_eq!(count(&site, Phase::Silent), 3);
    assert_eq!(count(&region, Phase::Silent), UNAUTHENTICATED_MAX / 2 - 3);
}

//
#[test]
fn a_connection_that_speaks_as_it_is_evicted_goes_on() {
    let limiter = limiter(CONNECTIONS_MAX);
    let mut first = silent(&limiter, v4(1, 1));
    let others: Vec<Permit> = (0..SILENT_PER_SOURCE_MAX).map(|_| silent(&limiter, v4(1, 1))).collect();
    assert_eq!(phase(&first), Phase::Closing);
    assert_eq!(first.begin_login(), Ok(()));
    assert_eq!(phase(&first), Phase::LoggingIn);
    // A login that succeeds as it is evicted goes on, too.
    limiter.change(|state| limiter.evict(Some(first.number), EvictionCause::Login, state));
    first.set_authenticated();
    assert_eq!((phase(&first), limiter.state().closing), (Phase::Authenticated, 0));
    drop(others);
}

//
#[test]
fn every_connection_counts_once_in_any_sequence_of_events() {
    let limiter = limiter(400);
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut permits: Vec<Permit> = Vec::new();
        for _ in 0..2_000 {
            let source = v4(u8::try_from(rng.below(3)).unwrap(), u8::try_from(rng.below(3)).unwrap());
            let any = if permits.is_empty() { 0 } else { rng.below(permits.len()) };
            match rng.below(10) {
                0..3 => permits.extend(limiter.admit(source, permits.len() + 1).ok()),
                3 => permits.extend(limiter.admit_balancer(source, permits.len() + 1).ok()),
                4 => permits.extend(limiter.admit_authenticated(source, permits.len() + 1).ok()),
                5 => permits.extend(limiter.admit_closing(source)),
                6 => drop(permits.get_mut(any).map(Permit::begin_login)),
                7 => permits.iter().skip(any).take(1).for_each(Permit::set_authenticated),
                8 => permits.iter_mut().skip(any).take(1).for_each(|permit| permit.set_source(source)),
                _ if any < permits.len() => drop(permits.swap_remove(any).close()),
                _ => {}
            }
            let state = limiter.state();
            assert_eq!(state.entries.len(), permits.len());
            let in_phase = |wanted| state.entries.values().filter(|entry| entry.phase == wanted).count();
            let expected = OpenCounts {
                awaiting_proxy_header: in_phase(Phase::AwaitingProxyHeader),
                silent: in_phase(Phase::Silent),
                logging_in: in_phase(Phase::LoggingIn),
                authenticated: in_phase(Phase::Authenticated),
                closing: in_phase(Phase::Closing),
            };
            assert_eq!(state.counts(), expected);
        }
        permits.clear();
        let state = limiter.state();
        assert!(state.entries.is_empty() && state.silent.is_empty() && state.logins.is_empty(), "{seed}");
    }
}

//
#[tokio::test]
async fn eviction_wakes_the_connection() {
    let limiter = limiter(CONNECTIONS_MAX);
    let first = silent(&limiter, v4(1, 1));
    let eviction = first.eviction();
    assert_eq!(eviction.unless_evicted(async { 1 }).await, Some(1));
    let others: Vec<Permit> = (0..SILENT_PER_SOURCE_MAX).map(|_| silent(&limiter, v4(1, 1))).collect();
    assert_eq!(eviction.unless_evicted(std::future::pending::<()>()).await, None);
    drop(others);
}

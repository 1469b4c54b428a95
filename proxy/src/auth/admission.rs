//! Admits unauthenticated connections, and decides which one closes when there are too many. Authenticated connections are
//! not counted here but by their plans, so half-open connections can't take their place.
//!
//! A connection is silent until its first byte; then it takes one of its source's slots. A silent one costs little, so a
//! new one is never rejected for it: the oldest silent connection of the most crowded network closes instead, and with
//! only few silent ones left the oldest unfinished login of the most crowded network. One small lock guards all of this.
//! It is taken when a connection opens, sends its first byte, logs in and closes, never for a request.
//!
//! Separate from that of HTTP servers (`daemon/src/http/admission.rs`): what may close depends on how far its login is, and
//! with tens of thousands of connections no operation may look at each.

mod source_index;
mod state;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::source::Source;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::admission::{AdmissionMetrics, EvictionCause, RejectionCause};
use state::{Phase, State};

/// One in this many of the proxy's connections may be unauthenticated.
const UNAUTHENTICATED_SHARE: usize = 4;
/// One in this many of the unauthenticated connections may be silent, and as many may be logging in, whatever others do:
/// below that number none is closed for a new one, so that one that has just connected has time for its login.
const UNDISTURBED_SHARE: usize = 8;
/// Logins in progress of one source, an IPv4 address or an IPv6 /64. Beyond it, one that takes longer than
/// [`FAST_LOGIN_TIMEOUT`] closes for a new one.
const LOGINS_PER_SOURCE_MAX: usize = 64;
/// The same while none of them takes that long and the proxy isn't under pressure: an application that starts opens
/// hundreds of connections at once, and each logs in within milliseconds.
const LOGIN_BURST_PER_SOURCE_MAX: usize = 320;
/// Time limit of those beyond [`LOGINS_PER_SOURCE_MAX`].
const BURST_LOGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// A login that takes longer may close for another one of its source or network.
const FAST_LOGIN_TIMEOUT: Duration = Duration::from_millis(250);
/// One in this many of the unauthenticated connections may be a login in progress from one network, an IPv4 /24 or an
/// IPv6 /48; never fewer than one source may have.
const NETWORK_SHARE: usize = 8;
/// Silent connections of one source; beyond it, the oldest closes.
const SILENT_PER_SOURCE_MAX: usize = 256;

pub(crate) struct AdmissionLimiter {
    limits: Limits,
    state: Mutex<State>,
    metrics: AdmissionMetrics,
}

/// Numbers of connections.
struct Limits {
    connections_max: usize,
    unauthenticated_max: usize,
    undisturbed: usize,
    network_max: usize,
    /// Connections that are being rejected, or closed with a last reply; beyond it they close at once. They come on top of
    /// `connections_max`, as do evicted ones until they have closed.
    closing_max: usize,
}

/// Counts one unauthenticated connection until it is dropped.
pub(crate) struct Permit {
    limiter: Arc<AdmissionLimiter>,
    number: u64,
}

/// A limit is reached, and no other connection may close for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitReached;

/// Tells that a connection must close for another one.
pub(crate) struct Eviction(Option<Watch>);

struct Watch {
    limiter: Arc<AdmissionLimiter>,
    number: u64,
    since: Instant,
    evicted: Arc<Notify>,
}

impl AdmissionLimiter {
    /// Limits for `connections_max` connections, and `closing_max` more that close after a last reply.
    pub(crate) fn new(connections_max: usize, closing_max: usize, metrics: AdmissionMetrics) -> Arc<Self> {
        let unauthenticated_max = (connections_max / UNAUTHENTICATED_SHARE).max(1);
        let limits = Limits {
            connections_max,
            unauthenticated_max,
            undisturbed: unauthenticated_max / UNDISTURBED_SHARE,
            network_max: (unauthenticated_max / NETWORK_SHARE).max(LOGIN_BURST_PER_SOURCE_MAX),
            closing_max,
        };
        Arc::new(Self { limits, state: Mutex::default(), metrics })
    }

    /// Admits a new, silent connection, the `connections`th of all. Another one may have to close for it.
    ///
    /// # Errors
    ///
    /// If none can.
    pub(crate) fn admit(
        self: &Arc<Self>,
        source: IpAddr,
        connections: usize,
    ) -> Result<Permit, LimitReached> {
        let source = Source::of(source);
        self.change(|state| {
            self.make_room(state, connections)?;
            self.make_room_for_silent(state, source);
            Ok(self.permit(state, source, Phase::Silent))
        })
    }

    /// Admits a new connection of a load balancer.
    ///
    /// # Errors
    ///
    /// If there are too many, and none can close for it.
    pub(crate) fn admit_balancer(
        self: &Arc<Self>,
        source: IpAddr,
        connections: usize,
    ) -> Result<Permit, LimitReached> {
        self.admit_unevictable(source, connections, Phase::AwaitingProxyHeader)
    }

    /// Admits a connection that has logged in and is no longer a session.
    ///
    /// # Errors
    ///
    /// If there are too many, and none can close for it.
    pub(crate) fn admit_authenticated(
        self: &Arc<Self>,
        source: IpAddr,
        connections: usize,
    ) -> Result<Permit, LimitReached> {
        self.admit_unevictable(source, connections, Phase::Authenticated)
    }

    fn admit_unevictable(
        self: &Arc<Self>,
        source: IpAddr,
        connections: usize,
        phase: Phase,
    ) -> Result<Permit, LimitReached> {
        self.change(|state| {
            self.make_room(state, connections)?;
            Ok(self.permit(state, Source::of(source), phase))
        })
    }

    /// Admits a connection that closes after a last reply.
    pub(crate) fn admit_closing(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        self.change(|state| {
            let has_room = state.closing < self.limits.closing_max;
            has_room.then(|| self.permit(state, Source::of(source), Phase::Closing))
        })
    }

    /// Whether more than half of the unauthenticated connections are in use: then a connection must send its first byte
    /// soon.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.is_half_full(&self.state())
    }

    fn is_half_full(&self, state: &State) -> bool {
        state.open() >= self.limits.unauthenticated_max.div_ceil(2)
    }

    /// Closes a connection for a new one, if there are too many.
    fn make_room(&self, state: &mut State, connections: usize) -> Result<(), LimitReached> {
        let Limits { connections_max, unauthenticated_max, undisturbed, closing_max, .. } = self.limits;
        if connections > connections_max + closing_max {
            return Err(self.reject(RejectionCause::Connections));
        }
        let has_silent = state.silent.len() > undisturbed;
        let is_full = connections > connections_max || state.open() >= unauthenticated_max;
        if is_full && !has_silent {
            if state.logins.len() <= undisturbed {
                let cause = if connections > connections_max {
                    RejectionCause::Connections
                } else {
                    RejectionCause::Unauthenticated
                };
                return Err(self.reject(cause));
            }
            self.evict(state.logins.oldest_of_most_crowded(), EvictionCause::Login, state);
        } else if has_silent && (is_full || self.is_half_full(state)) {
            self.evict(state.silent.oldest_of_most_crowded(), EvictionCause::Silent, state);
        }
        Ok(())
    }

    /// Closes the oldest silent connection of a source that has too many.
    fn make_room_for_silent(&self, state: &mut State, source: Source) {
        if state.silent.count_of_source(source) >= SILENT_PER_SOURCE_MAX {
            self.evict(state.silent.oldest_of_source(source), EvictionCause::Silent, state);
        }
    }

    /// Makes room for one more login of the same source and network.
    fn make_room_for_login(&self, state: &mut State, source: Source) -> Result<(), LimitReached> {
        let of_source = state.logins.count_of_source(source);
        if of_source >= LOGINS_PER_SOURCE_MAX {
            let slowest = state.logins.oldest_of_source(source).filter(|oldest| state.is_slow(*oldest));
            if slowest.is_none() && (of_source >= LOGIN_BURST_PER_SOURCE_MAX || self.is_half_full(state)) {
                return Err(self.reject(RejectionCause::Source));
            }
            self.evict(slowest, EvictionCause::SourceLimit, state);
        }
        let network = source.network();
        if state.logins.count_of_network(network) >= self.limits.network_max {
            let slowest = state.logins.oldest_of_network(network).filter(|oldest| state.is_slow(*oldest));
            slowest.ok_or_else(|| self.reject(RejectionCause::Network))?;
            self.evict(slowest, EvictionCause::NetworkLimit, state);
        }
        Ok(())
    }

    fn evict(&self, number: Option<u64>, cause: EvictionCause, state: &mut State) {
        let Some(number) = number else { return };
        state.set_phase(number, Phase::Closing);
        if let Some(entry) = state.entries.get(&number) {
            entry.evicted.notify_one();
        }
        self.metrics.evicted(cause);
    }

    fn reject(&self, cause: RejectionCause) -> LimitReached {
        self.metrics.rejected(cause);
        LimitReached
    }

    fn permit(self: &Arc<Self>, state: &mut State, source: Source, phase: Phase) -> Permit {
        Permit { number: state.insert(source, phase), limiter: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let changed = change(&mut state);
        self.metrics.set_open(&state.counts());
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the login is one of too many of its source, and has had its time.
    fn is_excess(&self, number: u64) -> bool {
        self.change(|state| {
            let Some(entry) = state.entries.get(&number) else { return true };
            let is_excess = entry.phase == Phase::LoggingIn
                && state.logins.count_of_source(entry.source) > LOGINS_PER_SOURCE_MAX;
            if is_excess {
                self.evict(Some(number), EvictionCause::SourceLimit, state);
            }
            is_excess
        })
    }
}

impl Permit {
    /// The address of a load balancer's client has arrived: the connection is a silent one of `source`.
    pub(crate) fn set_source(&mut self, source: IpAddr) {
        let (limiter, source) = (self.limiter.clone(), Source::of(source));
        limiter.change(|state| {
            state.remove(self.number);
            limiter.make_room_for_silent(state, source);
            self.number = state.insert(source, Phase::Silent);
        });
    }

    /// The first byte has arrived, perhaps since the connection was evicted for its silence: takes a slot of the source.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn begin_login(&mut self) -> Result<(), LimitReached> {
        let limiter = self.limiter.clone();
        limiter.change(|state| {
            let Some(source) = state.entries.get(&self.number).map(|entry| entry.source) else {
                return Err(LimitReached);
            };
            limiter.make_room_for_login(state, source)?;
            // It counts from its first byte, and an earlier eviction is void.
            state.remove(self.number);
            if state.open() >= limiter.limits.unauthenticated_max {
                limiter.evict(state.logins.oldest_of_most_crowded(), EvictionCause::Login, state);
            }
            self.number = state.insert(source, Phase::LoggingIn);
            Ok(())
        })
    }

    /// The login has succeeded: the connection frees its slot, and counts until its session is registered.
    pub(crate) fn set_authenticated(&self) {
        self.limiter.change(|state| state.set_phase(self.number, Phase::Authenticated));
    }

    /// The connection closes, after a last reply if this returns the permit.
    pub(crate) fn close(self) -> Option<Self> {
        let has_room = self.limiter.change(|state| {
            state.set_phase(self.number, Phase::Closing);
            state.closing <= self.limiter.limits.closing_max
        });
        has_room.then_some(self)
    }

    /// Tells when the connection must close for another one.
    pub(crate) fn eviction(&self) -> Eviction {
        let limiter = self.limiter.clone();
        let watch = limiter.state().entries.get(&self.number).map(|entry| Watch {
            limiter: self.limiter.clone(),
            number: self.number,
            since: entry.since,
            evicted: entry.evicted.clone(),
        });
        Eviction(watch)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.change(|state| state.remove(self.number));
    }
}

impl Eviction {
    /// For a connection that can't be evicted.
    pub(crate) const NEVER: Self = Self(None);

    /// Runs `work`; `None` if the connection must close before it is done.
    pub(crate) async fn unless_evicted<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.happened() => None,
        }
    }

    async fn happened(&self) {
        let Some(Watch { limiter, number, since, evicted }) = &self.0 else {
            return std::future::pending().await;
        };
        let becomes_excess = async {
            sleep_until(*since + BURST_LOGIN_TIMEOUT).await;
            if !limiter.is_excess(*number) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = evicted.notified() => {}
            () = becomes_excess => {}
        }
    }
}

#[cfg(test)]
mod tests;

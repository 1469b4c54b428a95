//! Admits unauthenticated connections, and decides which one closes when there are too many. Authenticated connections are
//! not counted here but by their plans, so half-open connections can't take their place.
//!
//! A connection is silent until its first byte; then it takes one of its source's slots. A silent one costs little, so a
//! newcomer is never refused for it: the oldest silent connection of the most crowded network closes instead, and with
//! only few silent ones left the oldest unfinished login of the most crowded network. One small lock guards all of this.
//! It is taken when a connection opens, sends its first byte, logs in and closes, never for a request.

mod crowd;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::admission::{AdmissionMetrics, ClosedCause};
use crate::transport::address::Prefixes;
use crowd::Crowd;

/// One in this many of the proxy's connections may be unauthenticated.
const UNAUTHENTICATED_SHARE: usize = 4;
/// One in this many of the unauthenticated connections may be silent, and as many may be logging in, whatever others do:
/// below that number none is closed for a newcomer, so that one that has just connected has time for its login.
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
/// Connections that are being rejected or closed with a last reply; beyond it they close at once.
const CLOSING_MAX: usize = 256;
/// The same, and also the connections beyond the proxy's limit that wait for evicted ones to close, of a proxy with few
/// connections: one in this many, at least [`CLOSING_MIN`].
const CLOSING_SHARE: usize = 16;
const CLOSING_MIN: usize = 16;

pub(crate) struct AdmissionLimiter {
    limits: Limits,
    book: Mutex<Book>,
    metrics: AdmissionMetrics,
}

/// Numbers of connections.
struct Limits {
    connections_max: usize,
    unauthenticated_max: usize,
    undisturbed: usize,
    network_max: usize,
    closing_max: usize,
}

/// All unauthenticated connections.
#[derive(Default)]
struct Book {
    next_number: u64,
    members: HashMap<u64, Member>,
    silent: Crowd,
    logins: Crowd,
    closing: usize,
}

struct Member {
    place: Prefixes,
    phase: Phase,
    since: Instant,
    evicted: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Counted and never evicted: its login has succeeded and its session isn't registered yet, or a load balancer hasn't
    /// sent its client's address yet.
    Held,
    /// No byte yet.
    Silent,
    LoggingIn,
    /// Evicted, or being closed with a last reply.
    Closing,
}

/// Counts one unauthenticated connection until it is dropped.
pub(crate) struct Permit {
    limiter: Arc<AdmissionLimiter>,
    number: u64,
}

/// The connection's place in the limits is taken by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// Tells that a connection must close for another one.
pub(crate) struct Eviction(Option<Watch>);

struct Watch {
    limiter: Arc<AdmissionLimiter>,
    number: u64,
    since: Instant,
    evicted: Arc<Notify>,
}

impl AdmissionLimiter {
    pub(crate) fn new(connections_max: usize, metrics: AdmissionMetrics) -> Arc<Self> {
        let unauthenticated_max = (connections_max / UNAUTHENTICATED_SHARE).max(1);
        let limits = Limits {
            connections_max,
            unauthenticated_max,
            undisturbed: unauthenticated_max / UNDISTURBED_SHARE,
            network_max: (unauthenticated_max / NETWORK_SHARE).max(LOGIN_BURST_PER_SOURCE_MAX),
            closing_max: (connections_max / CLOSING_SHARE).clamp(CLOSING_MIN, CLOSING_MAX),
        };
        Arc::new(Self { limits, book: Mutex::default(), metrics })
    }

    /// Admits a new, silent connection, the `connections`th of all. Another one may have to close for it.
    ///
    /// # Errors
    ///
    /// If none can.
    pub(crate) fn admit(self: &Arc<Self>, source: IpAddr, connections: usize) -> Result<Permit, Refused> {
        let place = Prefixes::of(source);
        self.change(|book| {
            self.make_room(book, connections)?;
            if book.silent.count_of_source(place) >= SILENT_PER_SOURCE_MAX {
                self.evict(book.silent.oldest_of_source(place), ClosedCause::SilentEvicted, book);
            }
            Ok(self.permit(book, place, Phase::Silent))
        })
    }

    /// Admits a connection that can't be evicted: of a load balancer, or one that has logged in.
    ///
    /// # Errors
    ///
    /// If there are too many, and none can close for it.
    pub(crate) fn admit_held(
        self: &Arc<Self>,
        source: IpAddr,
        connections: usize,
    ) -> Result<Permit, Refused> {
        self.change(|book| {
            self.make_room(book, connections)?;
            Ok(self.permit(book, Prefixes::of(source), Phase::Held))
        })
    }

    /// Admits a connection that closes after a last reply.
    pub(crate) fn admit_closing(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        self.change(|book| {
            let has_room = book.closing < self.limits.closing_max;
            has_room.then(|| self.permit(book, Prefixes::of(source), Phase::Closing))
        })
    }

    /// Whether more than half of the unauthenticated connections are in use: then a connection must send its first byte
    /// soon.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.is_half_full(&self.book())
    }

    fn is_half_full(&self, book: &Book) -> bool {
        book.open() >= self.limits.unauthenticated_max.div_ceil(2)
    }

    /// Closes a connection for a new one, if there are too many.
    fn make_room(&self, book: &mut Book, connections: usize) -> Result<(), Refused> {
        let Limits { connections_max, unauthenticated_max, undisturbed, closing_max, .. } = self.limits;
        if connections > connections_max + closing_max {
            return Err(self.refuse(ClosedCause::ConnectionLimit));
        }
        let has_silent = book.silent.len() > undisturbed;
        let is_full = connections > connections_max || book.open() >= unauthenticated_max;
        if is_full && !has_silent {
            if book.logins.len() <= undisturbed {
                let cause = if connections > connections_max {
                    ClosedCause::ConnectionLimit
                } else {
                    ClosedCause::UnauthenticatedLimit
                };
                return Err(self.refuse(cause));
            }
            self.evict(book.logins.oldest_of_most_crowded(), ClosedCause::LoginEvicted, book);
        } else if has_silent && (is_full || self.is_half_full(book)) {
            self.evict(book.silent.oldest_of_most_crowded(), ClosedCause::SilentEvicted, book);
        }
        Ok(())
    }

    /// Makes room for one more login of the same source and network.
    fn make_room_for_login(&self, book: &mut Book, place: Prefixes) -> Result<(), Refused> {
        let of_source = book.logins.count_of_source(place);
        if of_source >= LOGINS_PER_SOURCE_MAX {
            let slowest = book.logins.oldest_of_source(place).filter(|oldest| book.is_slow(*oldest));
            if slowest.is_none() && (of_source >= LOGIN_BURST_PER_SOURCE_MAX || self.is_half_full(book)) {
                return Err(self.refuse(ClosedCause::SourceLimit));
            }
            self.evict(slowest, ClosedCause::SourceLimit, book);
        }
        if book.logins.count_of_network(place) >= self.limits.network_max {
            let slowest = book.logins.oldest_of_network(place).filter(|oldest| book.is_slow(*oldest));
            slowest.ok_or_else(|| self.refuse(ClosedCause::NetworkLimit))?;
            self.evict(slowest, ClosedCause::NetworkLimit, book);
        }
        Ok(())
    }

    fn evict(&self, number: Option<u64>, cause: ClosedCause, book: &mut Book) {
        let Some(number) = number else { return };
        book.set_phase(number, Phase::Closing);
        if let Some(member) = book.members.get(&number) {
            member.evicted.notify_one();
        }
        self.metrics.closed(cause);
    }

    fn refuse(&self, cause: ClosedCause) -> Refused {
        self.metrics.closed(cause);
        Refused
    }

    fn permit(self: &Arc<Self>, book: &mut Book, place: Prefixes, phase: Phase) -> Permit {
        Permit { number: book.insert(place, phase), limiter: self.clone() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book();
        let changed = change(&mut book);
        self.metrics.set_open(book.silent.len(), book.logins.len(), book.held(), book.closing);
        changed
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the login is one of too many of its source, and has had its time.
    fn is_excess(&self, number: u64) -> bool {
        self.change(|book| {
            let Some(member) = book.members.get(&number) else { return true };
            let is_excess = member.phase == Phase::LoggingIn
                && book.logins.count_of_source(member.place) > LOGINS_PER_SOURCE_MAX;
            if is_excess {
                self.evict(Some(number), ClosedCause::SourceLimit, book);
            }
            is_excess
        })
    }
}

impl Book {
    /// Connections that aren't closing.
    fn open(&self) -> usize {
        self.members.len() - self.closing
    }

    fn held(&self) -> usize {
        self.open() - self.silent.len() - self.logins.len()
    }

    fn insert(&mut self, place: Prefixes, phase: Phase) -> u64 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let (since, evicted) = (Instant::now(), Arc::default());
        self.members.insert(number, Member { place, phase: Phase::Held, since, evicted });
        self.set_phase(number, phase);
        number
    }

    fn remove(&mut self, number: u64) {
        self.set_phase(number, Phase::Held);
        self.members.remove(&number);
    }

    fn set_phase(&mut self, number: u64, phase: Phase) {
        let Some(member) = self.members.get_mut(&number) else { return };
        let place = member.place;
        match std::mem::replace(&mut member.phase, phase) {
            Phase::Silent => self.silent.remove(place, number),
            Phase::LoggingIn => self.logins.remove(place, number),
            Phase::Closing => self.closing -= 1,
            Phase::Held => {}
        }
        match phase {
            Phase::Silent => self.silent.insert(place, number),
            Phase::LoggingIn => self.logins.insert(place, number),
            Phase::Closing => self.closing += 1,
            Phase::Held => {}
        }
    }

    /// Whether a login has taken long enough to close for another.
    fn is_slow(&self, number: u64) -> bool {
        self.members.get(&number).is_some_and(|member| member.since.elapsed() >= FAST_LOGIN_TIMEOUT)
    }
}

impl Permit {
    /// The address of a load balancer's client has arrived: the connection is a silent one of `source`.
    pub(crate) fn set_source(&mut self, source: IpAddr) {
        self.limiter.clone().change(|book| {
            book.remove(self.number);
            self.number = book.insert(Prefixes::of(source), Phase::Silent);
        });
    }

    /// The first byte has arrived, perhaps since the connection was evicted for its silence: takes a slot of the source.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn begin_login(&mut self) -> Result<(), Refused> {
        let limiter = self.limiter.clone();
        limiter.change(|book| {
            let Some(place) = book.members.get(&self.number).map(|member| member.place) else {
                return Err(Refused);
            };
            limiter.make_room_for_login(book, place)?;
            // It counts from its first byte, and an earlier eviction is void.
            book.remove(self.number);
            if book.open() >= limiter.limits.unauthenticated_max {
                limiter.evict(book.logins.oldest_of_most_crowded(), ClosedCause::LoginEvicted, book);
            }
            self.number = book.insert(place, Phase::LoggingIn);
            Ok(())
        })
    }

    /// The login has succeeded: the connection frees its slot, and counts until its session is registered.
    pub(crate) fn hold(&self) {
        self.limiter.change(|book| book.set_phase(self.number, Phase::Held));
    }

    /// The connection closes, after a last reply if this returns the permit.
    pub(crate) fn close(self) -> Option<Self> {
        let has_room = self.limiter.change(|book| {
            book.set_phase(self.number, Phase::Closing);
            book.closing <= self.limiter.limits.closing_max
        });
        has_room.then_some(self)
    }

    /// Tells when the connection must close for another one.
    pub(crate) fn eviction(&self) -> Eviction {
        let limiter = self.limiter.clone();
        let watch = limiter.book().members.get(&self.number).map(|member| Watch {
            limiter: self.limiter.clone(),
            number: self.number,
            since: member.since,
            evicted: member.evicted.clone(),
        });
        Eviction(watch)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.change(|book| book.remove(self.number));
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

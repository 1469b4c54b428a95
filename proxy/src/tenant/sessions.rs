//! The sessions of a tenant: registering, listing and closing them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use store::{ConnectionId, Fingerprint, Grant, LiveConnection, Timestamp, TokenId, TokenUse, now};
use tokio::time::Instant;

use super::registered::{Reauthentication, Registered, WeakRegistered};
use super::{LivePermissions, Tenant};
use crate::buffers::{HeldBytes, TenantBuffers};
use crate::client_certificate::ClientCertificate;
use crate::login::outcome::LoginOutcome;
use crate::mailbox::ConnectionList;
use crate::metrics::denials::ClientInfo;
use crate::metrics::usage::StartedAt;
use crate::protocol::Protocol;
use crate::protocol::denial::Ending;
use crate::responses::ResponseQueue;
use crate::session_budget::SessionBudget;

/// How often sessions are asked whether they have had requests.
const USE_INTERVAL: Duration = Duration::from_secs(30);
/// The most sessions that are listed; of more, the oldest.
const LISTED_MAX: usize = 1000;

pub(super) struct Sessions {
    budget: SessionBudget,
    entries: RefCell<HashMap<usize, SessionEntry>>,
    next_number: Cell<usize>,
    last_closed_at: Cell<Instant>,
    /// Logins since the last report, the last one of each token.
    logins: RefCell<HashMap<TokenId, TokenUse>>,
    /// When its requests were last looked at.
    pub(super) used_at: Cell<Instant>,
    /// The most sessions at a time since the last report.
    peak: Cell<usize>,
}

pub(super) struct SessionEntry {
    pub(super) token: TokenId,
    pub(super) source: IpAddr,
    protocol: Protocol,
    since: Timestamp,
    /// The client certificate that has logged it in, if one has: it ends with it, even if the token is still valid.
    certificate: Option<ClientCertificate>,
    connection: WeakRegistered,
    /// Its requests when they were last looked at.
    operations: Cell<u64>,
}

/// What a session holds in memory.
struct Holding {
    /// For how long, in microseconds.
    age: u32,
    bytes: usize,
    connection: Registered,
}

/// A registered session. Dropping the handle removes the session.
pub(crate) struct SessionHandle {
    tenant: Rc<Tenant>,
    pub(crate) number: usize,
    /// The permissions of the session's token, kept current.
    pub(crate) permissions: Rc<LivePermissions>,
    /// Set while the client logs in again.
    reauthentication: Option<Rc<Reauthentication>>,
}

impl SessionHandle {
    /// Keeps the registration of a session that has ended because its client logs in again.
    pub(crate) fn begin_reauthentication(&mut self, reauthentication: Reauthentication) {
        let reauthentication = Rc::new(reauthentication);
        if let Some(entry) = self.tenant.sessions.entries.borrow_mut().get_mut(&self.number) {
            entry.connection = WeakRegistered::Reauthenticating(Rc::downgrade(&reauthentication));
        }
        self.reauthentication = Some(reauthentication);
    }

    /// When it logged in.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.tenant.sessions.entries.borrow().get(&self.number).map(|entry| entry.since)
    }

    /// Waits until a connection that logs in again must close. Returns why, if its owner is to be told.
    pub(crate) async fn closed(&self) -> Option<Ending> {
        match &self.reauthentication {
            Some(reauthentication) => reauthentication.closed().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        let sessions = &self.tenant.sessions;
        let mut entries = sessions.entries.borrow_mut();
        if entries.remove(&self.number).is_some() {
            sessions.budget.remove(entries.len());
        }
        drop(entries);
        self.permissions.sessions.update(|sessions| sessions.saturating_sub(1));
        sessions.last_closed_at.set(Instant::now());
    }
}

impl Tenant {
    /// Registers a session, of a client certificate perhaps.
    ///
    /// # Errors
    /// `ConnectionLimit` or `TokenConnectionLimit`, if its cache or its token has as many sessions as it may;
    /// `ProxyLimit`, if its cache has as many as it may of the proxy's.
    pub(crate) fn register(
        self: &Rc<Self>,
        (grant, certificate): (&Arc<Grant>, Option<ClientCertificate>),
        client: ClientInfo,
        responses: &Rc<ResponseQueue>,
    ) -> Result<SessionHandle, LoginOutcome> {
        let limit = |connections| usize::try_from(connections).unwrap_or(0);
        let count = self.sessions.count();
        if count >= limit(grant.connections) {
            return Err(LoginOutcome::ConnectionLimit);
        }
        let permissions = self.live_permissions(grant);
        if permissions.sessions.get() >= limit(grant.token_connections()) {
            return Err(LoginOutcome::TokenConnectionLimit);
        }
        if !self.sessions.budget.has_room(count) {
            return Err(LoginOutcome::ProxyLimit);
        }
        let (token, source, since) = (grant.token, client.source, now());
        self.sessions.logins.borrow_mut().insert(token, TokenUse { token, at: since, source });
        Ok(self.add_session(permissions, client, (certificate, since), responses))
    }

    /// Registers a session that has logged in to another process at `since`, which checked the limits. This one may have as many
    /// already: new clients of the cache are refused until enough have closed.
    pub(crate) fn register_resumed(
        self: &Rc<Self>,
        grant: &Arc<Grant>,
        client: ClientInfo,
        since: Timestamp,
        responses: &Rc<ResponseQueue>,
    ) -> SessionHandle {
        self.add_session(self.live_permissions(grant), client, (None, since), responses)
    }

    fn add_session(
        self: &Rc<Self>,
        permissions: Rc<LivePermissions>,
        ClientInfo { source, protocol, .. }: ClientInfo,
        (certificate, since): (Option<ClientCertificate>, Timestamp),
        responses: &Rc<ResponseQueue>,
    ) -> SessionHandle {
        let mut entries = self.sessions.entries.borrow_mut();
        self.sessions.budget.add(entries.len());
        permissions.sessions.update(|sessions| sessions + 1);
        let number = self.sessions.next_number.get();
        self.sessions.next_number.set(number.wrapping_add(1));
        responses.set_account(self.usage.clone(), HeldBytes::new(self.buffers.clone(), number));
        let token = permissions.token();
        let operations = Cell::new(responses.operations());
        let connection = WeakRegistered::Serving(Rc::downgrade(responses));
        let entry = SessionEntry { token, source, protocol, since, certificate, connection, operations };
        entries.insert(number, entry);
        self.sessions.peak.update(|peak| peak.max(entries.len()));
        SessionHandle { tenant: self.clone(), number, permissions, reauthentication: None }
    }

    /// Lists the sessions as connections of `proxy`.
    pub(crate) fn snapshot(&self, proxy: &str) -> ConnectionList {
        let entries = self.sessions.entries.borrow();
        let mut numbers: Vec<usize> = entries.keys().copied().collect();
        numbers.sort_unstable();
        numbers.truncate(LISTED_MAX);
        let listed = numbers.into_iter().filter_map(|number| Some((number, entries.get(&number)?)));
        let connections = listed.filter_map(|(number, entry)| entry.describe(number, proxy)).collect();
        ConnectionList { total: entries.len(), connections }
    }

    /// Records the protocol of a session, which is known from its first byte.
    pub(crate) fn set_protocol(&self, session: &SessionHandle, protocol: Protocol) {
        if let Some(entry) = self.sessions.entries.borrow_mut().get_mut(&session.number) {
            entry.protocol = protocol;
        }
    }

    /// Closes the sessions that a client certificate has logged in.
    pub(crate) fn close_certificate(&self, fingerprint: &Fingerprint) {
        let is_its = |certificate: &ClientCertificate| certificate.fingerprint == *fingerprint;
        self.sessions.close_where(|session| session.certificate.as_ref().is_some_and(is_its));
    }

    /// Closes the session `id`, if it is one of this tenant's.
    pub(crate) fn close_session(&self, id: &ConnectionId) {
        let Ok(number) = usize::try_from(id.number) else { return };
        let entries = self.sessions.entries.borrow();
        if let Some(entry) = entries.get(&number).filter(|entry| entry.since == id.since) {
            entry.abort();
        }
    }
}

impl Sessions {
    pub(super) fn new(budget: SessionBudget) -> Self {
        Self {
            budget,
            entries: RefCell::default(),
            next_number: Cell::new(0),
            last_closed_at: Cell::new(Instant::now()),
            logins: RefCell::default(),
            used_at: Cell::new(Instant::now()),
            peak: Cell::new(0),
        }
    }

    /// Returns which tokens were used since the last time: those with logins, and every half minute those with requests.
    pub(super) fn take_used_tokens(&self) -> Vec<TokenUse> {
        let mut used = std::mem::take(&mut *self.logins.borrow_mut());
        if self.used_at.get().elapsed() >= USE_INTERVAL {
            self.used_at.set(Instant::now());
            let at = now();
            for entry in self.entries.borrow().values() {
                let operations = entry.connection.upgrade().map_or(0, |connection| connection.operations());
                if entry.operations.replace(operations) != operations {
                    used.insert(entry.token, TokenUse { token: entry.token, at, source: entry.source });
                }
            }
        }
        used.into_values().collect()
    }

    /// The most sessions at a time since the last reset.
    pub(super) fn peak(&self) -> usize {
        self.peak.get()
    }

    pub(super) fn reset_peak(&self) {
        self.peak.set(self.count());
    }

    pub(super) fn count(&self) -> usize {
        self.entries.borrow().len()
    }

    pub(super) fn have_been_empty_for(&self, time: Duration) -> bool {
        self.entries.borrow().is_empty() && self.last_closed_at.get().elapsed() >= time
    }

    pub(super) fn close_where(&self, is_closed: impl Fn(&SessionEntry) -> bool) {
        self.entries.borrow().values().filter(|entry| is_closed(entry)).for_each(SessionEntry::abort);
    }

    pub(super) fn wake_all(&self) {
        for connection in self.entries.borrow().values().filter_map(|entry| entry.connection.upgrade()) {
            connection.wake();
        }
    }

    /// Ends the sessions that have held memory for longest, of the token whose sessions hold most, until the tenant holds
    /// less than it may: one token's requests don't end those of others.
    pub(super) fn end_oldest(&self, buffers: &TenantBuffers, now: StartedAt) {
        let mut tokens: HashMap<TokenId, (usize, Vec<Holding>)> = HashMap::new();
        for (token, connection) in self.holding(buffers) {
            let (Some(age), bytes) = (connection.held_for(now), connection.held_bytes()) else { continue };
            let (held, sessions) = tokens.entry(token).or_default();
            *held += bytes;
            sessions.push(Holding { age, bytes, connection });
        }
        tokens.values_mut().for_each(|(_, sessions)| sessions.sort_unstable_by_key(|it| it.age));
        let mut tokens: Vec<_> = tokens.into_values().collect();
        while buffers.must_shed() {
            let Some((held, sessions)) = tokens.iter_mut().max_by_key(|(held, _)| *held) else { return };
            let Some(oldest) = sessions.pop() else { return };
            *held = held.saturating_sub(oldest.bytes);
            oldest.connection.end(Ending::OverBudget);
        }
    }

    /// Ends the sessions that other caches need the connections of: those that have been idle for longest, then those that
    /// wait for their client. One that is being ended counts until it has closed.
    pub(super) fn end_excess(&self) {
        let excess = self.budget.excess(self.count());
        if excess == 0 {
            return;
        }
        let entries = self.entries.borrow();
        let all: Vec<Registered> = entries.values().filter_map(|entry| entry.connection.upgrade()).collect();
        let ending = all.iter().filter(|connection| connection.ending().is_some()).count();
        let mut idle: Vec<_> =
            all.iter().filter_map(|connection| Some((connection.idle_since()?, connection))).collect();
        idle.sort_unstable_by_key(|((holds, since), _)| (*holds, *since));
        let idle = idle.into_iter().filter(|(_, connection)| !connection.has_unread_input());
        idle.take(excess.saturating_sub(ending))
            .for_each(|(_, connection)| connection.end(Ending::ProxyLimit));
    }

    /// Ends the sessions whose clients have done nothing, or too little, for `limit` about what they hold.
    pub(super) fn end_stalled(&self, buffers: &TenantBuffers, limit: Duration, now: StartedAt) {
        let limit = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        for (_, connection) in self.holding(buffers) {
            if let Some(ending) = connection.overdue(limit, now) {
                connection.end(ending);
            }
        }
    }

    /// The sessions that hold memory, with their tokens.
    fn holding(&self, buffers: &TenantBuffers) -> Vec<(TokenId, Registered)> {
        let entries = self.entries.borrow();
        let holders = buffers.holders().into_iter().filter_map(|number| entries.get(&number));
        holders.filter_map(|entry| Some((entry.token, entry.connection.upgrade()?))).collect()
    }

    /// When the next session ends of those that haven't ended by `now`.
    pub(super) fn next_end_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.entries.borrow().values().map(SessionEntry::ends_at).filter(|end| *end > now).min()
    }
}

impl SessionEntry {
    /// When it ends whatever its token says.
    pub(super) fn ends_at(&self) -> Timestamp {
        self.certificate.map_or(Timestamp::MAX, |certificate| certificate.not_after)
    }

    fn abort(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.abort();
        }
    }

    fn describe(&self, number: usize, proxy: &str) -> Option<LiveConnection> {
        let connection = self.connection.upgrade()?;
        let (number, since) = (i64::try_from(number).ok()?, self.since);
        let protocol = match self.protocol {
            Protocol::Text => "text",
            Protocol::Binary => "binary",
        };
        Some(LiveConnection {
            id: ConnectionId { proxy: proxy.to_owned(), number, since },
            token_id: self.token.to_string(),
            source: self.source.to_string(),
            protocol: protocol.to_owned(),
            tls: connection.is_tls(),
            since,
            operations: i64::try_from(connection.operations()).unwrap_or(i64::MAX),
        })
    }
}

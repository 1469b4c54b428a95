//! Grants in memory: loaded on first use, kept current by following the store's revisions.
//!
//! A login with a known grant reads no database. Everything fails closed: an error or a missing row denies.

mod certificates;
mod clock;
mod follow;
mod known;
mod lookups;

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use store::{Grant, ScramKeys, Store, Timestamp, TokenId, TokenKey, UserState};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::login::outcome::LoginOutcome;
use crate::login::{Credential, Proof};
use crate::metrics::Metrics;
pub(crate) use certificates::CertificateBinding;
use certificates::Certificates;
use clock::Clock;
pub(crate) use follow::follow;
use known::KnownGrants;
use lookups::{LookupPermit, Lookups};

/// Token ids that have been looked up.
const LOOKED_UP_MAX: usize = 10_000;
/// How long known tokens can log in while the store is unavailable.
const STALENESS_MAX: Duration = Duration::from_secs(30);
/// Time limit for one read of the store.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Grants {
    store: Store,
    key: TokenKey,
    clock: Clock,
    /// Runs the look-ups: sqlx's connections belong to the runtime that opened them, and each worker has its own.
    runtime: Handle,
    known: KnownGrants,
    /// Ids that have been looked up, and whether they exist.
    looked_up: DashMap<TokenId, bool>,
    certificates: Certificates,
    /// The revision up to which changes have been read.
    position: AtomicI64,
    /// The revision up to which the workers have applied changes.
    applied: watch::Sender<i64>,
    lookups: Lookups,
    /// When the store last answered.
    alive: Mutex<Instant>,
    metrics: Arc<Metrics>,
}

/// The result of checking a credential.
#[derive(Debug)]
pub(crate) enum Verdict {
    Granted(Arc<Grant>),
    Denied(LoginOutcome),
    /// The store is unavailable and the token isn't known, or the store has been unavailable for too long.
    Unavailable,
}

impl Grants {
    /// Must be called on the runtime on which the store was opened.
    pub(crate) fn new(store: Store, key: TokenKey, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            key,
            clock: Clock::new(),
            runtime: Handle::current(),
            known: KnownGrants::default(),
            looked_up: DashMap::new(),
            certificates: Certificates::default(),
            position: AtomicI64::new(0),
            applied: watch::Sender::new(0),
            lookups: Lookups::new(),
            alive: Mutex::new(Instant::now()),
            metrics,
        }
    }

    /// Checks a credential presented from `source`. Clients can't see the order of the checks: all denials are the
    /// same.
    pub(crate) async fn check(self: &Arc<Self>, credential: &Credential, source: IpAddr) -> Verdict {
        let grant = match self.find(credential.id, source).await {
            Ok(Some(grant)) => grant,
            Ok(None) => {
                if let Proof::Secret(secret) = &credential.proof {
                    let _ = Grant::verify_decoy(&self.key, &credential.id, secret);
                }
                return Verdict::Denied(LoginOutcome::Unknown);
            }
            Err(Unavailable) => return Verdict::Unavailable,
        };
        let is_right = match &credential.proof {
            Proof::Secret(secret) => grant.matches(&self.key, secret),
            // The keys were the token's when the exchange began; they must still be.
            Proof::Scram(keys) => grant.scram.as_ref() == Some(keys),
            Proof::Failed => false,
        };
        if !is_right {
            if self.take_equally_long(credential.id, source).await.is_err() {
                return Verdict::Unavailable;
            }
            // SCRAM keys of an inactive grant match no proof; then report why it is inactive.
            let is_scram = matches!(credential.proof, Proof::Failed);
            let inactive = is_scram.then(|| self.deny_reason(&grant, source)).flatten();
            return Verdict::Denied(inactive.unwrap_or(LoginOutcome::WrongSecret));
        }
        match self.deny_reason(&grant, source) {
            Some(outcome) => Verdict::Denied(outcome),
            None => Verdict::Granted(grant),
        }
    }

    /// The keys against which SCRAM checks a client that claims to be `name`. Unknown names and inactive tokens have
    /// keys too; no secret matches them. So has a name that can't be looked up: the exchange must begin as with a known one,
    /// and [`Grants::check`] ends it.
    ///
    /// # Errors
    ///
    /// If nobody can log in, because the store has been unavailable for too long.
    pub(crate) async fn scram_keys(
        self: &Arc<Self>,
        name: &str,
        source: IpAddr,
    ) -> Result<ScramKeys, Unavailable> {
        let decoy = ScramKeys::decoy(&self.key, name.as_bytes());
        let Some(id) = TokenId::parse_username(name.as_bytes()) else { return Ok(decoy) };
        if self.staleness() > STALENESS_MAX {
            return Err(Unavailable);
        }
        let found = match self.known.get(&id) {
            Some(grant) => {
                // Whether it can be read doesn't matter: it is known.
                let _ = self.take_equally_long(id, source).await;
                Some(grant)
            }
            None => self.find_in_turn(id, source).await.unwrap_or_default(),
        };
        let Some(grant) = found else { return Ok(decoy) };
        Ok(match &grant.scram {
            Some(keys) if self.deny_reason(&grant, source).is_none() => keys.clone(),
            Some(keys) => keys.disabled(),
            None => decoy,
        })
    }

    /// Why a correct credential of the grant is denied from `source` now.
    fn deny_reason(&self, grant: &Grant, source: IpAddr) -> Option<LoginOutcome> {
        if grant.revoked {
            return Some(LoginOutcome::Revoked);
        }
        if grant.user_state == UserState::Suspended {
            return Some(LoginOutcome::Suspended);
        }
        if !grant.permissions.is_valid_at(self.now()) {
            return Some(LoginOutcome::Expired);
        }
        (!grant.permissions.allows_from(source)).then_some(LoginOutcome::SourceDenied)
    }

    /// The newest version of a grant that was active a moment ago.
    ///
    /// # Errors
    ///
    /// Why it is denied now.
    pub(crate) fn newest(&self, grant: &Grant, source: IpAddr) -> Result<Arc<Grant>, LoginOutcome> {
        let newest = self.known.get(&grant.token).ok_or(LoginOutcome::Revoked)?;
        self.deny_reason(&newest, source).map_or(Ok(newest), Err)
    }

    /// Checks the token of a session that another process has authenticated from `source`.
    pub(crate) async fn still_valid(self: &Arc<Self>, id: TokenId, source: IpAddr) -> Verdict {
        match self.find(id, source).await {
            Ok(Some(grant)) => {
                self.deny_reason(&grant, source).map_or(Verdict::Granted(grant), Verdict::Denied)
            }
            // Deleted, with its cache perhaps.
            Ok(None) => Verdict::Denied(LoginOutcome::Revoked),
            Err(Unavailable) => Verdict::Unavailable,
        }
    }

    /// The time by which tokens expire.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn find(self: &Arc<Self>, id: TokenId, source: IpAddr) -> Result<Option<Arc<Grant>>, Unavailable> {
        if self.staleness() > STALENESS_MAX {
            return Err(Unavailable);
        }
        if let Some(grant) = self.known.get(&id) {
            return Ok(Some(grant));
        }
        self.find_in_turn(id, source).await
    }

    /// Looks up a known id, presented from `source` with a wrong secret, as one that must be looked up: who keeps many
    /// look-ups waiting, or comes while the store is away, mustn't learn by that which ids exist.
    ///
    /// # Errors
    ///
    /// As for an id that isn't known: if too many wait, or the store can't be read.
    async fn take_equally_long(self: &Arc<Self>, id: TokenId, source: IpAddr) -> Result<(), Unavailable> {
        self.find_in_turn(id, source).await.map(drop)
    }

    /// Finds an id in memory if it has been looked up, otherwise in the store.
    async fn find_in_turn(
        self: &Arc<Self>,
        id: TokenId,
        source: IpAddr,
    ) -> Result<Option<Arc<Grant>>, Unavailable> {
        if let Some(found) = self.find_looked_up(&id) {
            return Ok(found);
        }
        let turn = self.lookups.turn(source).await?;
        self.run_lookup(turn, self.clone().find_or_look_up(id)).await
    }

    /// Another client may have had the id looked up while this one waited for its turn.
    async fn find_or_look_up(self: Arc<Self>, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        if let Some(found) = self.find_looked_up(&id) {
            return Ok(found);
        }
        timeout(STORE_TIMEOUT, self.look_up(id)).await.unwrap_or(Err(Unavailable))
    }

    /// What is known of an id that has been looked up; `None` if it hasn't been, or has been forgotten since.
    fn find_looked_up(&self, id: &TokenId) -> Option<Option<Arc<Grant>>> {
        let exists = *self.looked_up.get(id)?;
        if exists { self.known.get(id).map(Some) } else { Some(None) }
    }

    /// Runs a look-up whose turn it is. It completes even if the caller stops waiting.
    async fn run_lookup<T: Send + 'static>(
        &self,
        turn: LookupPermit,
        look_up: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let looked_up = self.runtime.spawn(async move {
            let found = look_up.await;
            drop(turn);
            found
        });
        looked_up.await.unwrap_or(Err(Unavailable))
    }

    /// Reads a grant, and keeps it unless changes have been read meanwhile.
    async fn look_up(&self, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        loop {
            let read_at = self.position.load(Ordering::Acquire);
            let found = self.metrics.store.observe("read_grant", self.store.grant(&id)).await;
            let found = found.map_err(|error| {
                tracing::warn!(%error, "failed to look up a token");
                Unavailable
            })?;
            let Some(grant) = found.map(Arc::new) else {
                self.mark_looked_up(id, false, read_at);
                return Ok(None);
            };
            if self.keep(grant.clone()) {
                self.mark_looked_up(id, true, read_at);
                return Ok(Some(grant));
            }
        }
    }

    /// Keeps a grant that was just read, unless changes have been read meanwhile. Returns whether it does.
    fn keep(&self, grant: Arc<Grant>) -> bool {
        let read_at = grant.read_at;
        // The entry's lock orders this against the follower: either we see the new position, or the follower sees the
        // entry.
        self.known.insert_if(grant, || self.position.load(Ordering::Acquire) <= read_at)
    }

    fn mark_looked_up(&self, id: TokenId, exists: bool, read_at: i64) {
        if self.looked_up.len() >= LOOKED_UP_MAX {
            self.looked_up.clear();
        }
        let entry = self.looked_up.entry(id);
        if self.position.load(Ordering::Acquire) == read_at {
            entry.insert(exists);
        }
    }

    /// Removes what is known of an id; the next login looks it up.
    fn forget(&self, id: &TokenId) -> Option<Arc<Grant>> {
        self.looked_up.remove(id);
        self.known.remove(id)
    }

    /// The revision up to which changes apply, to live connections too.
    pub(crate) fn applied(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    /// Time since the store last answered.
    fn staleness(&self) -> Duration {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn mark_alive(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.metrics.feed.last_contact.set_now();
    }
}

/// The store is unavailable.
#[derive(Debug)]
pub(crate) struct Unavailable;

#[cfg(test)]
mod tests;

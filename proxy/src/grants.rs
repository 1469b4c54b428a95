//! Grants in memory: loaded on first use, kept current by following the store's revisions.
//!
//! A login with a known grant reads no database. Everything fails closed: an error or a missing row denies.

mod certificates;
mod clock;
mod follow;

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use store::{Grant, ScramKeys, Store, Timestamp, TokenId, TokenKey, UserState};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::login::outcome::LoginOutcome;
use crate::login::{Credential, Proof};
use crate::metrics::Metrics;
pub(crate) use certificates::CertificateBinding;
use certificates::Certificates;
use clock::Clock;
pub(crate) use follow::follow;

/// Concurrent look-ups of unknown token ids and certificates.
const LOOKUPS_MAX: usize = 32;
/// Token ids that are known not to exist.
const NEGATIVE_CACHE_MAX: usize = 10_000;
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
    known: DashMap<TokenId, Arc<Grant>>,
    negative_cache: DashMap<TokenId, ()>,
    certificates: Certificates,
    /// The revision up to which changes have been read.
    position: AtomicI64,
    /// The revision up to which the workers have applied changes.
    applied: watch::Sender<i64>,
    lookups: Arc<Semaphore>,
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
            known: DashMap::new(),
            negative_cache: DashMap::new(),
            certificates: Certificates::default(),
            position: AtomicI64::new(0),
            applied: watch::Sender::new(0),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            alive: Mutex::new(Instant::now()),
            metrics,
        }
    }

    /// Checks a credential presented from `source`. Clients can't see the order of the checks: all denials are the
    /// same.
    pub(crate) async fn check(self: &Arc<Self>, credential: &Credential, source: IpAddr) -> Verdict {
        let grant = match self.find(credential.id).await {
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
            // SCRAM keys of an inactive grant match no proof; then report why it is inactive.
            Proof::Failed => {
                return Verdict::Denied(
                    self.deny_reason(&grant, source).unwrap_or(LoginOutcome::WrongSecret),
                );
            }
        };
        if !is_right {
            return Verdict::Denied(LoginOutcome::WrongSecret);
        }
        match self.deny_reason(&grant, source) {
            Some(outcome) => Verdict::Denied(outcome),
            None => Verdict::Granted(grant),
        }
    }

    /// The keys against which SCRAM checks a client that claims to be `name`. Unknown names and inactive tokens have
    /// keys too; no secret matches them.
    pub(crate) async fn scram_keys(
        self: &Arc<Self>,
        name: &str,
        source: IpAddr,
    ) -> Result<ScramKeys, Unavailable> {
        let decoy = ScramKeys::decoy(&self.key, name.as_bytes());
        let Some(id) = TokenId::parse_username(name.as_bytes()) else { return Ok(decoy) };
        let Some(grant) = self.find(id).await? else { return Ok(decoy) };
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
        let known = self.known.get(&grant.token).map(|known| known.value().clone());
        let newest = known.ok_or(LoginOutcome::Revoked)?;
        self.deny_reason(&newest, source).map_or(Ok(newest), Err)
    }

    /// The time by which tokens expire.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn find(self: &Arc<Self>, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        if self.staleness() > STALENESS_MAX {
            return Err(Unavailable);
        }
        if let Some(grant) = self.known.get(&id) {
            return Ok(Some(grant.value().clone()));
        }
        if self.negative_cache.contains_key(&id) {
            return Ok(None);
        }
        let this = self.clone();
        let look_up =
            async move { timeout(STORE_TIMEOUT, this.look_up(id)).await.unwrap_or(Err(Unavailable)) };
        self.bounded_lookup(look_up).await
    }

    /// Runs a look-up, at most [`LOOKUPS_MAX`] at a time. It completes even if the caller stops waiting.
    async fn bounded_lookup<T: Send + 'static>(
        &self,
        look_up: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let permit = timeout(STORE_TIMEOUT, self.lookups.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| Unavailable)?.map_err(|_| Unavailable)?;
        let looked_up = self.runtime.spawn(async move {
            let found = look_up.await;
            drop(permit);
            found
        });
        looked_up.await.unwrap_or(Err(Unavailable))
    }

    /// Reads a grant, and caches it unless changes have been read meanwhile.
    async fn look_up(&self, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        loop {
            let read_at = self.position.load(Ordering::Acquire);
            let found = self.metrics.store.observe("read_grant", self.store.grant(&id)).await;
            let found = found.map_err(|error| {
                tracing::warn!(%error, "failed to look up a token");
                Unavailable
            })?;
            let Some(grant) = found.map(Arc::new) else {
                self.cache_negative(id, read_at);
                return Ok(None);
            };
            // The entry's lock orders this against the follower: either we see the new position, or the follower
            // sees the entry.
            let entry = self.known.entry(id);
            if self.position.load(Ordering::Acquire) <= grant.read_at {
                entry.insert(grant.clone());
                return Ok(Some(grant));
            }
        }
    }

    fn cache_negative(&self, id: TokenId, read_at: i64) {
        if self.negative_cache.len() >= NEGATIVE_CACHE_MAX {
            self.negative_cache.clear();
        }
        let entry = self.negative_cache.entry(id);
        if self.position.load(Ordering::Acquire) == read_at {
            entry.insert(());
        }
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

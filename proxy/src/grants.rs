//! Grants in memory: filled on first use, kept right by following the store's revisions.
//!
//! A login whose grant is known touches no database. Everything else fails closed: an error or a
//! missing row refuses.

mod certificates;
mod clock;
mod follow;

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use store::{Grant, Millis, ScramKeys, Store, TokenId, TokenKey, UserState};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::login::outcome::LoginOutcome;
use crate::login::{Credential, Proof};
pub(crate) use certificates::CertificateBinding;
use certificates::Certificates;
use clock::Clock;
pub(crate) use follow::follow;

/// Look-ups of unknown ids, and certificates, under way at once.
const LOOKUPS: usize = 32;
/// Ids that are known to be nobody's.
const NOBODY_MAX: usize = 10_000;
/// So long known tokens log in while the store is away.
const GRACE: Duration = Duration::from_secs(30);
/// A look-up, or a sign of life, takes no longer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Grants {
    store: Store,
    key: TokenKey,
    clock: Clock,
    /// sqlx's connections belong to the runtime that made them; workers have others.
    runtime: Handle,
    known: DashMap<TokenId, Arc<Grant>>,
    nobody: DashMap<TokenId, ()>,
    certificates: Certificates,
    /// Everything up to this revision has been taken over.
    position: AtomicI64,
    /// Everything up to this revision has been carried out by the workers, too.
    applied: watch::Sender<i64>,
    lookups: Arc<Semaphore>,
    /// When the store last answered.
    alive: Mutex<Instant>,
}

/// What a credential is worth.
#[derive(Debug)]
pub(crate) enum Verdict {
    Granted(Arc<Grant>),
    Refused(LoginOutcome),
    /// The store is away and the token isn't known, or has been away too long.
    Unavailable,
}

impl Grants {
    /// Call it on the runtime that the store was opened on.
    pub(crate) fn new(store: Store, key: TokenKey) -> Self {
        Self {
            store,
            key,
            clock: Clock::new(),
            runtime: Handle::current(),
            known: DashMap::new(),
            nobody: DashMap::new(),
            certificates: Certificates::default(),
            position: AtomicI64::new(0),
            applied: watch::Sender::new(0),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            alive: Mutex::new(Instant::now()),
        }
    }

    /// Checks a credential that was shown from `source`. The order of the checks is not visible outside: all
    /// denials look alike.
    pub(crate) async fn check(self: &Arc<Self>, credential: &Credential, source: IpAddr) -> Verdict {
        let grant = match self.find(credential.id).await {
            Ok(Some(grant)) => grant,
            Ok(None) => {
                if let Proof::Secret(secret) = &credential.proof {
                    let _ = Grant::verify_decoy(&self.key, &credential.id, secret);
                }
                return Verdict::Refused(LoginOutcome::Unknown);
            }
            Err(Unavailable) => return Verdict::Unavailable,
        };
        let right = match &credential.proof {
            Proof::Secret(secret) => grant.matches(&self.key, secret),
            // They were the token's when the client asked; they must be still.
            Proof::Scram(keys) => grant.scram.as_ref() == Some(keys),
            // A grant that lets nobody in fits no proof: then that is the cause.
            Proof::Failed => {
                return Verdict::Refused(self.objection(&grant, source).unwrap_or(LoginOutcome::WrongSecret));
            }
        };
        if !right {
            return Verdict::Refused(LoginOutcome::WrongSecret);
        }
        match self.objection(&grant, source) {
            Some(outcome) => Verdict::Refused(outcome),
            None => Verdict::Granted(grant),
        }
    }

    /// Whether a credential is a token's of `user_id`, as far as is known here: for somebody who is logged in
    /// nothing is looked up.
    pub(crate) fn is_known_of(&self, user_id: &str, credential: &Credential, source: IpAddr) -> bool {
        let Proof::Secret(secret) = &credential.proof else { return false };
        let Some(grant) = self.known.get(&credential.id).map(|known| known.value().clone()) else {
            let _ = Grant::verify_decoy(&self.key, &credential.id, secret);
            return false;
        };
        grant.matches(&self.key, secret)
            && grant.user_id == user_id
            && self.objection(&grant, source).is_none()
    }

    /// What SCRAM checks somebody who calls himself `name` with. Every name has such keys; no secret fits
    /// those of nobody, nor those of a token that lets nobody in.
    pub(crate) async fn scram_keys(
        self: &Arc<Self>,
        name: &str,
        source: IpAddr,
    ) -> Result<ScramKeys, Unavailable> {
        let nobodys = ScramKeys::of_nobody(&self.key, name.as_bytes());
        let Some(id) = TokenId::parse_username(name.as_bytes()) else { return Ok(nobodys) };
        let Some(grant) = self.find(id).await? else { return Ok(nobodys) };
        Ok(match &grant.scram {
            Some(keys) if self.objection(&grant, source).is_none() => keys.clone(),
            Some(keys) => keys.barred(),
            None => nobodys,
        })
    }

    /// Why a grant lets nobody in from there now, though the credential was right.
    fn objection(&self, grant: &Grant, source: IpAddr) -> Option<LoginOutcome> {
        if grant.revoked {
            return Some(LoginOutcome::Revoked);
        }
        if grant.user_state == UserState::Suspended {
            return Some(LoginOutcome::Suspended);
        }
        if !grant.permissions.is_current(self.now()) {
            return Some(LoginOutcome::Expired);
        }
        (!grant.permissions.allows_from(source)).then_some(LoginOutcome::SourceDenied)
    }

    /// The newest that is known of a grant that was good just now, if it still is.
    pub(crate) fn newest(&self, grant: &Grant, source: IpAddr) -> Result<Arc<Grant>, LoginOutcome> {
        let known = self.known.get(&grant.token).map(|known| known.value().clone());
        let newest = known.ok_or(LoginOutcome::Revoked)?;
        self.objection(&newest, source).map_or(Ok(newest), Err)
    }

    /// The time that tokens end by.
    pub(crate) fn now(&self) -> Millis {
        self.clock.now()
    }

    async fn find(self: &Arc<Self>, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        if self.silent_for() > GRACE {
            return Err(Unavailable);
        }
        if let Some(grant) = self.known.get(&id) {
            return Ok(Some(grant.value().clone()));
        }
        if self.nobody.contains_key(&id) {
            return Ok(None);
        }
        let this = self.clone();
        let look_up = async move { timeout(PATIENCE, this.look_up(id)).await.unwrap_or(Err(Unavailable)) };
        self.when_there_is_room(look_up).await
    }

    /// Looks something up, one of few at a time: for as long as it takes, whether or not its caller waits.
    async fn when_there_is_room<T: Send + 'static>(
        &self,
        look_up: impl Future<Output = Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let permit = timeout(PATIENCE, self.lookups.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| Unavailable)?.map_err(|_| Unavailable)?;
        let looked_up = self.runtime.spawn(async move {
            let found = look_up.await;
            drop(permit);
            found
        });
        looked_up.await.unwrap_or(Err(Unavailable))
    }

    /// Reads a grant, and keeps it unless something has changed since it was read.
    async fn look_up(&self, id: TokenId) -> Result<Option<Arc<Grant>>, Unavailable> {
        loop {
            let read_at = self.position.load(Ordering::Acquire);
            let found = self.store.grant(&id).await.map_err(|error| {
                tracing::warn!(%error, "a token can't be looked up");
                Unavailable
            })?;
            let Some(grant) = found.map(Arc::new) else {
                self.remember_nobody(id, read_at);
                return Ok(None);
            };
            // The entry's lock orders this against `forget`: either it sees the new position, or the
            // follower sees the entry.
            let entry = self.known.entry(id);
            if self.position.load(Ordering::Acquire) <= grant.read_at {
                entry.insert(grant.clone());
                return Ok(Some(grant));
            }
        }
    }

    fn remember_nobody(&self, id: TokenId, read_at: i64) {
        if self.nobody.len() >= NOBODY_MAX {
            self.nobody.clear();
        }
        let entry = self.nobody.entry(id);
        if self.position.load(Ordering::Acquire) == read_at {
            entry.insert(());
        }
    }

    /// Up to which revision everything is in force, for live connections too.
    pub(crate) fn applied(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    fn silent_for(&self) -> Duration {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn heard(&self) {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The store doesn't answer.
#[derive(Debug)]
pub(crate) struct Unavailable;

//! Grants in memory: filled on first use, kept right by following the store's revisions.
//!
//! A login whose grant is known touches no database. Everything else fails closed: an error or a
//! missing row refuses.

mod certificates;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use daemon::health::Readiness;
use dashmap::DashMap;
use store::{Changes, Feed, Grant, Millis, ScramKeys, Store, StoreError, TokenId, TokenKey, UserState};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::login::{Credential, Proof};
use crate::metrics::LoginOutcome;
use crate::worker::Message;
pub(crate) use certificates::CertificateBinding;
use certificates::Certificates;

/// Look-ups of unknown ids, and certificates, under way at once.
const LOOKUPS: usize = 32;
/// Ids that are known to be nobody's.
const NOBODY_MAX: usize = 10_000;
/// So long known tokens log in while the store is away.
const GRACE: Duration = Duration::from_secs(30);
/// A look-up, or a sign of life, takes no longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries while the store is away.
const RETRY: Duration = Duration::from_millis(200);

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

    /// Takes changes over, and tells the workers of each grant as it is read: what was done to a token itself
    /// first, then what concerns many.
    async fn take_over(
        &self,
        changes: &Changes,
        workers: &[mpsc::Sender<Message>],
    ) -> Result<(), StoreError> {
        self.position.store(changes.revision, Ordering::Release);
        for id in &changes.tokens {
            self.nobody.remove(id);
        }
        for fingerprint in &changes.certificates {
            self.certificates.forget(fingerprint);
        }
        let users: HashSet<&str> = changes.users.iter().map(String::as_str).collect();
        let own: HashSet<TokenId> =
            changes.tokens.iter().copied().filter(|id| self.known.contains_key(id)).collect();
        let concerned = |grant: &Grant| users.contains(&*grant.user_id) && !own.contains(&grant.token);
        let others: Vec<TokenId> =
            self.known.iter().filter(|known| concerned(known.value())).map(|known| *known.key()).collect();
        for id in own.iter().copied().chain(others) {
            self.renew(id, workers).await?;
            self.heard();
        }
        Ok(())
    }

    async fn renew(&self, id: TokenId, workers: &[mpsc::Sender<Message>]) -> Result<(), StoreError> {
        // One that hangs must not keep the others' revocations waiting for ever.
        let read = timeout(PATIENCE, self.store.grant(&id)).await.map_err(|_| StoreError::Timeout)?;
        let grant = match read {
            Ok(Some(grant)) => {
                let grant = Arc::new(grant);
                self.known.insert(id, grant.clone());
                grant
            }
            // Nobody gets in with it any more, and nobody else waits for it.
            Ok(None) | Err(StoreError::Corrupt(_)) => {
                let Some((_, last)) = self.known.remove(&id) else { return Ok(()) };
                let mut over = Grant::clone(&last);
                over.revoked = true;
                Arc::new(over)
            }
            Err(error) => return Err(error),
        };
        crate::worker::tell(workers, grant).await;
        Ok(())
    }

    /// Up to which revision everything is in force, for live connections too.
    pub(crate) fn applied(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    /// Waits until the workers have carried out what they were told; if that takes long, the next time.
    async fn barrier(&self, workers: &[mpsc::Sender<Message>]) {
        let position = self.position.load(Ordering::Acquire);
        if position > *self.applied.borrow() && crate::worker::barrier(workers, PATIENCE).await {
            self.applied.send_replace(position);
        }
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

/// Follows the store until shutdown, in a task of `shutdown`; new routes go to the workers. Begins the shutdown
/// itself when all that is known is worth nothing any more, and says why.
pub(crate) async fn follow(
    grants: Arc<Grants>,
    workers: Vec<mpsc::Sender<Message>>,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> Result<oneshot::Receiver<StoreError>, StoreError> {
    let feed = grants.store.feed().await?;
    grants.position.store(feed.revision(), Ordering::Release);
    grants.applied.send_replace(feed.revision());
    readiness.ready();
    let stop = shutdown.clone();
    let (tell, over) = oneshot::channel();
    shutdown.spawn(async move {
        tokio::select! {
            () = stop.begun() => {}
            error = keep_following(&grants, feed, &workers, &readiness) => {
                let _ = tell.send(error);
                stop.begin();
            }
        }
    });
    Ok(over)
}

/// Ends only when the process must begin anew.
async fn keep_following(
    grants: &Grants,
    mut feed: Feed,
    workers: &[mpsc::Sender<Message>],
    readiness: &Readiness,
) -> StoreError {
    // Changes that couldn't be read yet: none may be missed.
    let mut owed = Changes::default();
    let mut away = false;
    loop {
        match step(grants, &mut feed, &mut owed, workers).await {
            Ok(()) => {
                grants.heard();
                readiness.ready();
                away = false;
                grants.barrier(workers).await;
            }
            Err(error @ StoreError::RolledBack) => return error,
            Err(error) => {
                if !std::mem::replace(&mut away, true) {
                    tracing::error!(%error, "the store is away");
                }
                readiness.not_ready(error.to_string());
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits for changes and takes them over.
async fn step(
    grants: &Grants,
    feed: &mut Feed,
    owed: &mut Changes,
    workers: &[mpsc::Sender<Message>],
) -> Result<(), StoreError> {
    if owed.revision == 0 {
        let Some(changes) = look(&grants.store, feed).await? else { return Ok(()) };
        *owed = changes;
    }
    grants.take_over(owed, workers).await?;
    *owed = Changes::default();
    Ok(())
}

/// The next changes, or none in a while. Silence is looked into: a quiet store, a dead one and one that is too
/// slow to say what has changed all look alike.
async fn look(store: &Store, feed: &mut Feed) -> Result<Option<Changes>, StoreError> {
    if let Ok(changes) = timeout(PATIENCE, feed.next()).await {
        return changes.map(Some);
    }
    let revision = timeout(PATIENCE, store.revision()).await.map_err(|_| StoreError::Timeout)??;
    if revision == feed.revision() {
        return Ok(None);
    }
    timeout(PATIENCE, feed.next()).await.map_err(|_| StoreError::Timeout)?.map(Some)
}

//! Passwords: argon2id off the async threads, a few at a time whatever the crowd.
//!
//! On threads of their own: tokio's blocking threads come and go by the dozen under a crowd, and the
//! allocator keeps 19 MiB for each of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Semaphore, oneshot};

use crate::Error;
use crate::pages::Trouble;

/// Each takes 19 MiB while it runs.
const MOST_AT_ONCE: usize = 4;
/// How long somebody waits for a turn before the answer is "busy".
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

type Work = Box<dyn FnOnce() + Send>;

/// Hashes and verifies. [`Argon2::default`] is argon2id with 19 MiB, t=2, p=1.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    /// The threads end when this is dropped.
    work: Sender<Work>,
    /// Verified when there is no such user, so that the clock doesn't tell.
    nobodys: String,
    checks: Counter,
}

impl Passwords {
    /// Counts in `checks`.
    pub(crate) fn new(checks: Counter) -> Result<Self, Error> {
        let failed = |error: argon2::password_hash::Error| Error::Passwords(error.to_string());
        let nobodys = Argon2::default().hash_password(&rand::random::<[u8; 32]>()).map_err(failed)?;
        let at_once = thread::available_parallelism().map_or(1, usize::from).min(MOST_AT_ONCE);
        let (work, to_do) = channel();
        let to_do = Arc::new(Mutex::new(to_do));
        for _ in 0..at_once {
            let to_do = to_do.clone();
            thread::Builder::new()
                .name("password".into())
                .spawn(move || work_through(&to_do))
                .map_err(|error| Error::Passwords(error.to_string()))?;
        }
        Ok(Self { turns: Arc::new(Semaphore::new(at_once)), work, nobodys: nobodys.to_string(), checks })
    }

    /// The hash in PHC form.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Trouble> {
        let hashed = self
            .in_turn(move || Argon2::default().hash_password(password.as_bytes()).map(|h| h.to_string()))
            .await?;
        hashed.map_err(|error| {
            tracing::error!(%error, "can't hash a password");
            Trouble::Internal
        })
    }

    /// Whether the password is the hash's. Without a hash it takes as long and is `false`.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Trouble> {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobodys.clone());
        let checks = self.checks.clone();
        let matches = self.in_turn(move || {
            let Ok(hash) = PasswordHash::new(&hash) else {
                tracing::error!("a user's password hash makes no sense");
                return false;
            };
            checks.inc();
            Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
        });
        Ok(matches.await? && exists)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Trouble::Busy)?.map_err(|_| Trouble::Internal)?;
        let (done, result) = oneshot::channel();
        // The turn goes with the work: a browser that gives up doesn't make room for another early.
        let work: Work = Box::new(move || {
            let value = work();
            drop(turn);
            // Nobody may be waiting any more.
            let _ = done.send(value);
        });
        self.work.send(work).map_err(|_| Trouble::Internal)?;
        result.await.map_err(|_| {
            tracing::error!("password work panicked");
            Trouble::Internal
        })
    }
}

fn work_through(to_do: &Mutex<Receiver<Work>>) {
    loop {
        let next = to_do.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // One that panics has dropped its end of the answer; the thread is needed for the others.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_argon2id_as_asked_and_verifies() {
        let passwords = Passwords::new(Counter::default()).unwrap();
        let hash = passwords.hash("Grüße 🦀 und so".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let verify = |password: &str, hash: Option<&str>| {
            passwords.verify(password.to_owned(), hash.map(ToOwned::to_owned))
        };
        assert!(verify("Grüße 🦀 und so", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so ", Some(&hash)).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", None).await.unwrap());
        assert!(!verify("Grüße 🦀 und so", Some("garbage")).await.unwrap());
    }
}

//! Passwords: argon2id off the async threads, a few at a time whatever the crowd.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

use crate::Error;
use crate::pages::Trouble;

/// Each takes 19 MiB while it runs.
const MOST_AT_ONCE: usize = 4;
/// How long somebody waits for a turn before the answer is "busy".
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// Hashes and verifies. [`Argon2::default`] is argon2id with 19 MiB, t=2, p=1.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    /// Verified when there is no such user, so that the clock doesn't tell.
    nobodys: String,
}

impl Passwords {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |error: argon2::password_hash::Error| Error::Passwords(error.to_string());
        let nobodys = Argon2::default().hash_password(&rand::random::<[u8; 32]>()).map_err(failed)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { turns: Arc::new(Semaphore::new(cores.min(MOST_AT_ONCE))), nobodys: nobodys.to_string() })
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
        let matches = self.in_turn(move || {
            let Ok(hash) = PasswordHash::new(&hash) else {
                tracing::error!("a user's password hash makes no sense");
                return false;
            };
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
        // The turn goes with the work: a browser that gives up doesn't make room for another early.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|error| {
            tracing::error!(%error, "password work panicked");
            Trouble::Internal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_argon2id_as_asked_and_verifies() {
        let passwords = Passwords::new().unwrap();
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

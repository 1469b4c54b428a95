//! Waits until a new cache is running.

use std::time::Duration;

use store::{Cache, Instance, InstanceState, Store};

use crate::output::{self, CliError};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Result of waiting for an instance: its last known state, or why it couldn't be read.
pub(super) struct Readiness {
    email: String,
    cache_name: String,
    result: Result<Option<Instance>, CliError>,
}

/// Waits until the instance of a cache is running or has failed, but not longer than 30 s.
pub(super) async fn wait(store: &Store, cache: &Cache, email: &str) -> Readiness {
    eprintln!("waiting for the cache of {} ...", output::escape_controls(email));
    let result = wait_for_instance(store, &cache.id).await;
    Readiness { email: email.to_owned(), cache_name: cache.name.clone(), result }
}

async fn wait_for_instance(store: &Store, cache_id: &str) -> Result<Option<Instance>, CliError> {
    let mut feed = store.feed().await?;
    let finished = async {
        loop {
            let instance = store.instance_of_cache(cache_id).await?;
            let state = instance.as_ref().map(Instance::state);
            if matches!(state, Some(InstanceState::Running | InstanceState::Failed)) {
                return Ok::<_, CliError>(instance);
            }
            feed.next().await?;
        }
    };
    match tokio::time::timeout(WAIT_TIMEOUT, finished).await {
        Ok(finished) => finished,
        Err(_) => Ok(store.instance_of_cache(cache_id).await?),
    }
}

impl Readiness {
    /// The state of the instance as far as it is known.
    pub(super) fn state(&self) -> InstanceState {
        let instance = self.result.as_ref().ok().and_then(Option::as_ref);
        instance.map_or(InstanceState::Pending, Instance::state)
    }

    /// Success if the instance is running.
    ///
    /// # Errors
    /// If it has failed, or is still pending (exit status 3). `done` says what was created all the same.
    pub(super) fn into_result(self, done: &str) -> Result<(), CliError> {
        let Self { email, cache_name, result } = self;
        let fix =
            format!("{done}; see `memgate status` and `memgate instance show {email} --cache {cache_name}`");
        let instance = match result {
            Ok(instance) => instance,
            Err(error) => {
                let what = format!("the cache is still being created, and its state can't be read ({error})");
                return Err(CliError::pending(what, fix));
            }
        };
        let message = instance.as_ref().and_then(|instance| instance.route.as_ref()?.message.clone());
        let reason = message.map_or_else(String::new, |message| format!(" ({message})"));
        match instance.as_ref().map(Instance::state) {
            Some(InstanceState::Running) => Ok(()),
            Some(InstanceState::Failed) => {
                Err(CliError::new(format!("the cache failed to start{reason}"), fix))
            }
            _ => {
                let seconds = WAIT_TIMEOUT.as_secs();
                Err(CliError::pending(format!("the cache isn't running after {seconds} s{reason}"), fix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use store::{Database, NewToken, NewUser, TokenKey};

    use super::*;

    #[tokio::test]
    async fn store_failure_while_waiting_is_reported_as_pending() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::Sqlite(dir.path().join("memgate.db"))).await.unwrap();
        let key = TokenKey::load_or_create(&dir.path().join("token.key")).unwrap();
        let new = NewUser { email: "ada@example.org", password_hash: None, plan: "default", is_admin: false };
        let user = store.sign_up(&new, &NewToken::generate(&key, "first")).await.unwrap();
        let cache = store.first_cache_of(&user.id).await.unwrap().unwrap();
        store.close().await;
        let readiness = wait(&store, &cache, &user.email).await;
        let error = readiness.into_result("the user is created").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("the cache is still being created") && text.contains("the user is created"),
            "{text}"
        );
        assert!(text.contains("`memgate instance show ada@example.org --cache default`"), "{text}");
        assert_eq!(format!("{:?}", error.report(false)), format!("{:?}", std::process::ExitCode::from(3)));
    }
}

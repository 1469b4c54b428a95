//! Finds the user and the cache that a command's arguments name.

use store::{Cache, Store, StoreError, User};

use crate::output::CliError;

/// The option that selects one of a user's caches.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArg {
    /// The cache's name; may be omitted if the user has only one
    #[arg(long, value_name = "NAME")]
    cache: Option<String>,
}

/// The user with this e-mail address.
///
/// # Errors
/// If there is none, or the store fails.
pub(super) async fn find_user(store: &Store, email: &str) -> Result<User, CliError> {
    store
        .user_by_email(email)
        .await?
        .ok_or_else(|| CliError::new(format!("no user {email}"), "`memgate user list` shows all users"))
}

/// What to tell someone who named the plan `name`.
pub(super) fn plan_error(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::NotFound("plan") => {
            CliError::new(format!("no plan {name}"), "`memgate plan list` shows all plans")
        }
        StoreError::LimitReached("memory") => CliError::new(
            format!("the machine has no memory for another cache of the plan {name}"),
            "delete caches, take a smaller plan, or raise provisioner.overcommit or provisioner.memory_mb (see `memgate \
             status`)",
        ),
        error => error.into(),
    }
}

impl CacheArg {
    /// Whether a name is given.
    pub(super) fn is_named(&self) -> bool {
        self.cache.is_some()
    }

    /// The user's cache with the given name, or the only one.
    ///
    /// # Errors
    /// If there is none, if no name is given and there are several, or if the store fails.
    pub(super) async fn find(&self, store: &Store, user: &User) -> Result<Cache, CliError> {
        select(store.caches_of(&user.id).await?, self.cache.as_deref(), &user.email)
    }
}

fn select(mut caches: Vec<Cache>, name: Option<&str>, email: &str) -> Result<Cache, CliError> {
    if let Some(name) = name {
        return caches.into_iter().find(|cache| cache.name == name).ok_or_else(|| {
            let fix = format!("`memgate cache list {email}` shows all caches");
            CliError::new(format!("{email} has no cache {name}"), fix)
        });
    }
    if caches.len() > 1 {
        let names: Vec<_> = caches.iter().map(|cache| cache.name.as_str()).collect();
        return Err(CliError::usage("which cache", format!("use --cache NAME ({})", names.join(", "))));
    }
    caches.pop().ok_or_else(|| {
        let fix = format!("create one with `memgate cache create {email}`");
        CliError::new(format!("{email} has no cache"), fix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches(names: &[&str]) -> Vec<Cache> {
        let cache = |name: &&str| Cache {
            id: format!("id-{name}"),
            user_id: "user".to_owned(),
            name: (*name).to_owned(),
            plan: "default".to_owned(),
            suspended: false,
            sleep_after_seconds: None,
            created_at: store::now(),
        };
        names.iter().map(cache).collect()
    }

    #[test]
    fn cache_is_selected_by_name_or_because_it_is_the_only_one() {
        let error = |names: &[&str], name| select(caches(names), name, "ada").unwrap_err().to_string();
        assert_eq!(select(caches(&["a"]), None, "ada").unwrap().name, "a");
        assert_eq!(select(caches(&["a", "b"]), Some("b"), "ada").unwrap().name, "b");
        assert_eq!(error(&["a", "b"], None), "which cache: use --cache NAME (a, b)");
        assert_eq!(error(&["a"], Some("c")), "ada has no cache c: `memgate cache list ada` shows all caches");
        assert!(error(&[], None).contains("memgate cache create"));
    }
}

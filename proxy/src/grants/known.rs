//! The grants in memory, by token and by cache.

use std::collections::HashSet;
use std::sync::Arc;

use dashmap::DashMap;
use store::{Grant, Timestamp, TokenId};

#[derive(Default)]
pub(super) struct KnownGrants {
    by_token: DashMap<TokenId, Arc<Grant>>,
    /// The tokens of each cache. Locked before an entry of `by_token`, never after.
    by_cache: DashMap<String, HashSet<TokenId>>,
}

impl KnownGrants {
    pub(super) fn get(&self, id: &TokenId) -> Option<Arc<Grant>> {
        self.by_token.get(id).map(|grant| grant.value().clone())
    }

    /// Inserts a grant in place of an earlier one.
    pub(super) fn insert(&self, grant: Arc<Grant>) {
        self.insert_if(grant, || true);
    }

    /// Inserts a grant if `is_current` while no other task inserts or reads one of its token. Returns whether it did.
    pub(super) fn insert_if(&self, grant: Arc<Grant>, is_current: impl FnOnce() -> bool) -> bool {
        // Locked until both maps have it: who looks for the cache's tokens finds it or comes first, and a concurrent
        // removal takes it out of both or of none.
        let cache_id = grant.cache_id.clone();
        let mut tokens = self.by_cache.entry(cache_id.clone()).or_default();
        let entry = self.by_token.entry(grant.token);
        let is_current = is_current();
        if is_current {
            tokens.insert(grant.token);
            entry.insert(grant);
        } else {
            drop((tokens, entry));
            self.forget_empty(&cache_id);
        }
        is_current
    }

    pub(super) fn remove(&self, id: &TokenId) -> Option<Arc<Grant>> {
        let cache_id = self.get(id)?.cache_id.clone();
        let removed = {
            // The same order of locks as in `insert_if`.
            let mut tokens = self.by_cache.entry(cache_id.clone()).or_default();
            tokens.remove(id);
            self.by_token.remove(id)
        };
        self.forget_empty(&cache_id);
        removed.map(|(_, grant)| grant)
    }

    fn forget_empty(&self, cache_id: &str) {
        self.by_cache.remove_if(cache_id, |_, tokens| tokens.is_empty());
    }

    /// The known tokens of a cache.
    pub(super) fn of_cache(&self, cache_id: &str) -> Vec<TokenId> {
        let tokens: Vec<TokenId> =
            self.by_cache.get(cache_id).map(|tokens| tokens.iter().copied().collect()).unwrap_or_default();
        tokens.into_iter().filter(|id| self.by_token.contains_key(id)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_token.len()
    }

    /// The tokens that are of no use at `now`: revoked or expired ones, or those of a suspended user.
    pub(super) fn inactive(&self, now: Timestamp) -> Vec<TokenId> {
        let grants = self.by_token.iter();
        grants.filter(|grant| !is_active(grant.value(), now)).map(|grant| *grant.key()).collect()
    }
}

/// Whether anybody can log in with the grant's token.
pub(super) fn is_active(grant: &Grant, now: Timestamp) -> bool {
    grant.is_active() && grant.permissions.is_valid_at(now)
}

//! The permissions of one token, kept current for all its sessions.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use store::{Grant, Permissions, Timestamp, TokenId};
use tokio::sync::Semaphore;

use crate::protocol::denial::Denial;

pub(crate) struct LivePermissions {
    grant: RefCell<Arc<Grant>>,
    /// Whether a request may be denied at all. An unrestricted token costs only this check.
    restricted: Cell<bool>,
    version: Cell<u64>,
    /// The token's sessions here.
    pub(super) sessions: Cell<usize>,
    /// The dedicated lanes that the token's sessions may have at a time.
    pub(crate) lanes: Arc<Semaphore>,
}

/// A version of the permissions. It changes whenever they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PermissionVersion(u64);

impl LivePermissions {
    pub(super) fn new(grant: Arc<Grant>, lanes: Arc<Semaphore>) -> Self {
        let restricted = Cell::new(grant.permissions.limits_requests());
        Self { grant: RefCell::new(grant), restricted, version: Cell::new(0), sessions: Cell::new(0), lanes }
    }

    /// Returns the denial that `check` finds. `check` isn't called for an unrestricted token.
    pub(crate) fn denial(&self, check: impl FnOnce(&Permissions) -> Option<Denial>) -> Option<Denial> {
        if self.restricted.get() { check(&self.grant.borrow().permissions) } else { None }
    }

    /// The current version, to compare with later in [`LivePermissions::changed_since`].
    pub(crate) fn version(&self) -> PermissionVersion {
        PermissionVersion(self.version.get())
    }

    pub(crate) fn changed_since(&self, version: PermissionVersion) -> bool {
        self.version() != version
    }

    /// The id of the token's user.
    pub(crate) fn user_id(&self) -> String {
        self.grant.borrow().user_id.clone()
    }

    pub(crate) fn token(&self) -> TokenId {
        self.grant.borrow().token
    }

    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.grant.borrow().permissions.is_valid_at(now)
    }

    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.grant.borrow().permissions.expires_at
    }

    /// Replaces the grant with `grant`, unless that is older.
    pub(super) fn update(&self, grant: &Arc<Grant>) {
        let mut current = self.grant.borrow_mut();
        if grant.read_at < current.read_at {
            return;
        }
        if grant.permissions != current.permissions {
            self.version.set(self.version.get().wrapping_add(1));
            self.restricted.set(grant.permissions.limits_requests());
        }
        *current = grant.clone();
    }
}

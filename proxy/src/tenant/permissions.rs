//! What the connections of one token are held to: its permissions as they are now, not as they were at login.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use store::{Grant, Millis, Permissions, TokenId};

use crate::protocol::denial::Denial;

pub(crate) struct Pass {
    grant: RefCell<Arc<Grant>>,
    /// Whether any request may be refused: all that a token without limits costs.
    limited: Cell<bool>,
    /// How often the permissions have changed.
    changes: Cell<u64>,
}

/// The permissions that something long was begun with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PermissionVersion(u64);

impl Pass {
    pub(super) fn new(grant: Arc<Grant>) -> Self {
        let limited = Cell::new(grant.permissions.limits_requests());
        Self { grant: RefCell::new(grant), limited, changes: Cell::new(0) }
    }

    /// What `judge` says of the permissions; it isn't asked when they have no limits.
    pub(crate) fn denial(&self, judge: impl FnOnce(&Permissions) -> Option<Denial>) -> Option<Denial> {
        if self.limited.get() { judge(&self.grant.borrow().permissions) } else { None }
    }

    /// To be asked again later whether it has [`Pass::changed_since`].
    pub(crate) fn begun(&self) -> PermissionVersion {
        PermissionVersion(self.changes.get())
    }

    /// Whether the permissions are others by now.
    pub(crate) fn changed_since(&self, begun: PermissionVersion) -> bool {
        self.begun() != begun
    }

    /// Subject token it is.
    pub(crate) fn user_id(&self) -> String {
        self.grant.borrow().user_id.clone()
    }

    pub(crate) fn token(&self) -> TokenId {
        self.grant.borrow().token
    }

    pub(super) fn is_current(&self, now: Millis) -> bool {
        self.grant.borrow().permissions.is_current(now)
    }

    pub(super) fn ends_at(&self) -> Option<Millis> {
        self.grant.borrow().permissions.expires_at
    }

    /// Takes a grant over, unless it is older than what is known.
    pub(super) fn renew(&self, grant: &Arc<Grant>) {
        let mut known = self.grant.borrow_mut();
        if grant.read_at < known.read_at {
            return;
        }
        if grant.permissions != known.permissions {
            self.changes.set(self.changes.get().wrapping_add(1));
            self.limited.set(grant.permissions.limits_requests());
        }
        *known = grant.clone();
    }
}

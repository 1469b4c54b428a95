//! What the connections of one token are held to: its powers as they are now, not as they were at login.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use store::{Grant, Millis, Powers, TokenId};

use crate::policy::Refusal;

pub(crate) struct Pass {
    grant: RefCell<Arc<Grant>>,
    /// Whether any request may be refused: all that a token without limits costs.
    limited: Cell<bool>,
    /// How often the powers have changed.
    changes: Cell<u64>,
}

/// The powers that something long was begun with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun(u64);

impl Pass {
    pub(super) fn new(grant: Arc<Grant>) -> Self {
        let limited = Cell::new(grant.powers.limits_requests());
        Self { grant: RefCell::new(grant), limited, changes: Cell::new(0) }
    }

    /// What `judge` says of the powers; it isn't asked when they have no limits.
    pub(crate) fn refusal(&self, judge: impl FnOnce(&Powers) -> Option<Refusal>) -> Option<Refusal> {
        if self.limited.get() { judge(&self.grant.borrow().powers) } else { None }
    }

    /// To be asked again later whether it has [`Pass::changed_since`].
    pub(crate) fn begun(&self) -> Begun {
        Begun(self.changes.get())
    }

    /// Whether the powers are others by now.
    pub(crate) fn changed_since(&self, begun: Begun) -> bool {
        self.begun() != begun
    }

    /// Whose token it is.
    pub(crate) fn user_id(&self) -> String {
        self.grant.borrow().user_id.clone()
    }

    pub(crate) fn token(&self) -> TokenId {
        self.grant.borrow().token
    }

    pub(super) fn is_current(&self, now: Millis) -> bool {
        self.grant.borrow().powers.is_current(now)
    }

    pub(super) fn ends_at(&self) -> Option<Millis> {
        self.grant.borrow().powers.expires_at
    }

    /// Takes a grant over, unless it is older than what is known.
    pub(super) fn renew(&self, grant: &Arc<Grant>) {
        let mut known = self.grant.borrow_mut();
        if grant.read_at < known.read_at {
            return;
        }
        if grant.powers != known.powers {
            self.changes.set(self.changes.get().wrapping_add(1));
            self.limited.set(grant.powers.limits_requests());
        }
        *known = grant.clone();
    }
}

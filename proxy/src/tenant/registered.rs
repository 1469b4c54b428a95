//! A registered connection: one that a session serves, or one whose client logs in again. Both count in the plan and for
//! what they hold in memory, and both can be listed and ended.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use crate::buffers::HeldBytes;
use crate::metrics::usage::{StartedAt, Time};
use crate::notify::LocalNotify;
use crate::protocol::denial::Ending;
use crate::responses::ResponseQueue;

/// A connection whose client logs in again. Its session has ended, and stays registered.
pub(crate) struct Reauthentication {
    held: HeldBytes,
    was: Served,
    since: Time,
    is_closed: Cell<bool>,
    changed: LocalNotify,
}

/// What the list of connections says of a session that has ended.
pub(crate) struct Served {
    pub(crate) is_tls: bool,
    pub(crate) operations: u64,
}

/// A registered connection.
pub(super) enum Registered {
    Serving(Rc<ResponseQueue>),
    Reauthenticating(Rc<Reauthentication>),
}

/// A registered connection, which its task owns.
pub(super) enum WeakRegistered {
    Serving(Weak<ResponseQueue>),
    Reauthenticating(Weak<Reauthentication>),
}

impl Reauthentication {
    /// Takes over what a session's connection `held`, when it begins to log in at `since`. It keeps `input_bytes` for that.
    pub(crate) fn new(held: HeldBytes, input_bytes: usize, since: Time, was: Served) -> Self {
        let now = since.started_at();
        held.clear_output();
        held.set_deferred(0, now);
        held.set_input(input_bytes, true, now);
        let is_closed = Cell::new(held.ending().is_some());
        Self { held, was, since, is_closed, changed: LocalNotify::default() }
    }

    /// Waits until the connection must close. Returns why, if that is to be told to its owner.
    pub(crate) async fn closed(&self) -> Option<Ending> {
        while !self.is_closed.get() {
            self.changed.notified().await;
        }
        self.held.ending()
    }

    fn close(&self) {
        self.is_closed.set(true);
        self.changed.notify();
    }
}

impl WeakRegistered {
    /// `None` if the connection's task has ended.
    pub(super) fn upgrade(&self) -> Option<Registered> {
        Some(match self {
            Self::Serving(responses) => Registered::Serving(responses.upgrade()?),
            Self::Reauthenticating(login) => Registered::Reauthenticating(login.upgrade()?),
        })
    }
}

impl Registered {
    /// Closes the connection at once.
    pub(super) fn abort(&self) {
        match self {
            Self::Serving(responses) => responses.abort(),
            Self::Reauthenticating(login) => login.close(),
        }
    }

    /// Ends the connection; one that is served is told why.
    pub(super) fn end(&self, ending: Ending) {
        match self {
            Self::Serving(responses) => responses.end(ending),
            Self::Reauthenticating(login) => {
                login.held.end(ending);
                login.close();
            }
        }
    }

    /// Has the connection's task look for changes.
    pub(super) fn wake(&self) {
        if let Self::Serving(responses) = self {
            responses.wake();
        }
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        match self {
            Self::Serving(responses) => responses.ending(),
            Self::Reauthenticating(login) => login.held.ending(),
        }
    }

    /// For how long the connection has held something, in microseconds; `None` if it holds nothing.
    pub(super) fn held_for(&self, now: StartedAt) -> Option<u32> {
        match self {
            Self::Serving(responses) => responses.held_for(now),
            Self::Reauthenticating(login) => login.held.age(now),
        }
    }

    /// What the connection holds, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Serving(responses) => responses.held_bytes(),
            Self::Reauthenticating(login) => login.held.total(),
        }
    }

    /// See [`ResponseQueue::idle_since`].
    pub(super) fn idle_since(&self) -> Option<(bool, Time)> {
        match self {
            Self::Serving(responses) => responses.idle_since(),
            Self::Reauthenticating(login) => login.held.ending().is_none().then_some((true, login.since)),
        }
    }

    /// Why a sweep at `now` must end the connection, if so; see [`HeldBytes::overdue`]. A login has its own time limit.
    pub(super) fn overdue(&self, limit: u32, now: StartedAt) -> Option<Ending> {
        match self {
            Self::Serving(responses) => responses.overdue(limit, now),
            Self::Reauthenticating(_) => None,
        }
    }

    pub(super) fn has_unread_input(&self) -> bool {
        match self {
            Self::Serving(responses) => responses.stream().has_unread_input(),
            Self::Reauthenticating(_) => false,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Serving(responses) => responses.stream().is_tls(),
            Self::Reauthenticating(login) => login.was.is_tls,
        }
    }

    /// The requests that its session has had.
    pub(super) fn operations(&self) -> u64 {
        match self {
            Self::Serving(responses) => responses.operations(),
            Self::Reauthenticating(login) => login.was.operations,
        }
    }
}

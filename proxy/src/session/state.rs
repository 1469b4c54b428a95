//! A session's state between turns: a request that is only partly dispatched, and the lane in use.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::hold::Waited;
use super::relogin::Relogin;
use crate::lane::Lane;
use crate::notify::LocalNotify;
use crate::protocol::Then;
use crate::protocol::request::{CommandKind, Fault, KeyForm, ReplyFormat, Request};
use crate::protocol::text::classic::Keys;

/// Gets that go to a dedicated lane after a large value.
const DEDICATED_GETS: u8 = 8;

/// While others wait for a dedicated lane, the session that has one may wait for its client for this long in total, and
/// longer by what the bytes that have moved take at this many a second.
const CONTENDED_WAIT_MAX: Duration = Duration::from_secs(5);
const CONTENDED_BYTES_PER_SECOND: u64 = 16 * 1024;

/// What a session keeps between turns.
#[derive(Default)]
pub(crate) struct State {
    pub(super) lane: Option<Rc<Lane>>,
    /// The keys of a `get` line that haven't been forwarded.
    pub(super) keys: Option<OwnedKeys>,
    pub(super) swallow: Option<Swallow>,
    /// The result for the login at the front of the input, once verified.
    pub(super) relogin: Option<Relogin>,
    /// The frames of a turn that goes on when the login at the front of the input is verified.
    pub(super) turn_frames: usize,
    /// Whether to parse the front of the input as the newest memcached would: the version can't be detected.
    pub(super) reads_as_newest: bool,
    /// Whether the next request must wait until the session's gets have been answered.
    pub(super) waits_for_reads: bool,
    /// The pause before the next frame, for frames that the proxy has answered itself.
    pub(super) due_pause: Option<Duration>,
    /// Whether the login at the front of the input has been charged.
    pub(super) charged_login: bool,
    /// What its current request on a dedicated lane has taken.
    pub(super) lane_use: LaneUse,
    /// For how long the requests of the input have waited for a lane.
    pub(super) waited: Waited,
    /// Whether no request waits for a lane any more: the proxy stops, or the client has left.
    pub(super) gives_up: Cell<bool>,
    /// Whether the last pause has paid for the next frame.
    pub(super) prepaid: bool,
    /// Small replies until the session's gets use the shared lane again.
    dedicated_gets: u8,
}

impl State {
    /// Whether gets go to a dedicated lane at once, since recent values were large.
    pub(super) fn prefers_dedicated(&self) -> bool {
        self.dedicated_gets > 0
    }

    /// Whether nothing is left to be done for what was dispatched of the input.
    pub(super) fn is_between_requests(&self) -> bool {
        self.keys.is_none() && self.swallow.is_none() && self.relogin.is_none()
    }

    /// A large value was sent.
    pub(super) fn note_large(&mut self) {
        self.dedicated_gets = DEDICATED_GETS;
    }

    /// A small reply was sent.
    pub(super) fn note_small(&mut self) {
        self.dedicated_gets = self.dedicated_gets.saturating_sub(1);
    }
}

/// How long a request on a dedicated lane has waited for its client, and the bytes that moved.
#[derive(Debug, Default)]
pub(super) struct LaneUse {
    /// What cancels the lease; gone when the session has no lane any more.
    lease: RefCell<Weak<LocalNotify>>,
    pub(super) waited: Cell<Duration>,
    bytes: Cell<u64>,
}

impl LaneUse {
    /// A request gets a lane, which it has for as long as what cancels its `lease` is there.
    pub(super) fn begin(&self, lease: &Rc<LocalNotify>) {
        self.lease.replace(Rc::downgrade(lease));
        self.waited.set(Duration::ZERO);
        self.bytes.set(0);
    }

    pub(super) fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)));
    }

    /// Whether the session has a lane, and its client is too slow for one that others wait for.
    pub(super) fn is_slow(&self) -> bool {
        let has_lane = self.lease.borrow().strong_count() > 0;
        let fair = Duration::from_secs(self.bytes.get() / CONTENDED_BYTES_PER_SECOND);
        has_lane && self.waited.get() > CONTENDED_WAIT_MAX.saturating_add(fair)
    }
}

/// The keys of a `get` line that are still to be forwarded.
pub(super) struct OwnedKeys {
    line: Vec<u8>,
    pub(super) at: usize,
    with_cas: bool,
    exptime: Option<i32>,
}

/// A data block that is being dropped.
pub(super) struct Swallow {
    /// Bytes still to be dropped.
    pub(super) bytes: u64,
    pub(super) then: OwnedThen,
}

/// What to do once the data block is dropped.
pub(super) enum OwnedThen {
    LocalReply(Cow<'static, [u8]>),
    /// Only while nothing is in flight.
    Fail {
        format: ReplyFormat,
        kind: CommandKind,
        context: Vec<u8>,
        fault: Fault,
    },
    Invalidate {
        key: Vec<u8>,
        form: KeyForm,
        format: ReplyFormat,
    },
}

impl OwnedKeys {
    /// The memory of the line, in bytes.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// The next key as a request, and the offset of the key behind it, if any.
    pub(super) fn next(&self) -> Option<(Request<'_>, Option<usize>)> {
        let line = self.line.get(self.at..)?;
        let (request, rest) = Keys { line, with_cas: self.with_cas, exptime: self.exptime }.next()?;
        Some((request, (!rest.is_empty()).then(|| self.line.len() - rest.len())))
    }
}

impl From<Keys<'_>> for OwnedKeys {
    fn from(Keys { line, with_cas, exptime }: Keys<'_>) -> Self {
        Self { line: line.to_vec(), at: 0, with_cas, exptime }
    }
}

impl From<Then<'_>> for OwnedThen {
    fn from(then: Then<'_>) -> Self {
        match then {
            Then::LocalReply(bytes) => Self::LocalReply(bytes),
            Then::Request(Request { key, format, .. }) => {
                Self::Invalidate { key: key.bytes.to_vec(), form: key.form, format }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn who_holds_a_lane_that_others_wait_for_must_move_bytes() {
        let (lane_use, lease) = (LaneUse::default(), Rc::default());
        lane_use.begin(&lease);
        let wait = |seconds| lane_use.waited.update(|waited| waited + Duration::from_secs(seconds));
        wait(5);
        assert!(!lane_use.is_slow());
        // A byte now and then is not enough.
        (0..100).for_each(|_| lane_use.moved(1));
        wait(1);
        assert!(lane_use.is_slow());
        lane_use.moved(1024 * 1024);
        wait(60);
        assert!(!lane_use.is_slow());
        wait(10);
        assert!(lane_use.is_slow());
        lane_use.begin(&lease);
        assert!(!lane_use.is_slow());
        wait(10);
        assert!(lane_use.is_slow());
        drop(lease);
        assert!(!lane_use.is_slow(), "others don't wait for a lane that it hasn't");
    }
}

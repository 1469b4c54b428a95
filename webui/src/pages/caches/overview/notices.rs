//! What is wrong with a cache, or soon will be, each with where it is mended. Pure.

use std::time::Duration;

use store::{
    CertificateRow, DenialRecord, EventAction, EventCause, Instance, InstanceEvent, InstanceState, SlabClass,
    Timestamp, TokenRow,
};

use super::super::{Tab, path_of};
use super::figures::Measured;
use crate::view::date::{ago, day, time_of_day};
use crate::view::number::{bytes, grouped};

/// Denials and repairs count for this long.
const RECENT: Duration = Duration::from_hours(1);
/// A failed repair that is older is over.
const UNREPAIRED_FOR: Duration = Duration::from_mins(10);
/// Repairs within [`RECENT`] that are no coincidence.
const CRASH_LOOP_MIN: i64 = 3;
/// Tokens and certificates that expire sooner are named.
pub(super) const EXPIRY_WARNING: Duration = Duration::from_hours(14 * 24);
/// A token that was used more recently is in use.
const IN_USE: Duration = Duration::from_hours(24);
/// Tokens, certificates and sizes of items that are named.
const NAMED_MAX: usize = 3;
/// Connections in use of all, in hundredths, from which on new ones may soon be denied.
const CONNECTIONS_NEARLY_ALL: i64 = 90;

/// What the notices depend on.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) instance: &'a Instance,
    pub(super) now: Timestamp,
    pub(super) measured: &'a Measured,
    /// Newest first.
    pub(super) events: &'a [InstanceEvent],
    /// Newest first.
    pub(super) denials: &'a [DenialRecord],
    /// Active ones.
    pub(super) tokens: &'a [TokenRow],
    /// Those that expire soon, the next one first.
    pub(super) certificates: &'a [CertificateRow],
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Note,
    Warning,
    Error,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) id: &'static str,
    pub(super) level: Level,
    /// What it is about.
    pub(super) title: &'static str,
    /// A name that a user has chosen; may be empty.
    pub(super) name: String,
    pub(super) text: String,
    /// Where it is mended: an address and what is there.
    pub(super) link: Option<(String, &'static str)>,
}

impl Notice {
    fn new(id: &'static str, level: Level, title: &'static str, text: String) -> Self {
        Self { id, level, title, name: String::new(), text, link: None }
    }

    fn at(self, address: String, label: &'static str) -> Self {
        Self { link: Some((address, label)), ..self }
    }

    pub(super) fn class(&self) -> &'static str {
        match self.level {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

impl Facts<'_> {
    /// The notices, the worst first.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let mut notices: Vec<Notice> =
            [self.state(), self.repairs(), self.no_room(), self.denied(), self.connections()]
                .into_iter()
                .flatten()
                .chain(self.expiring_tokens())
                .chain(self.expiring_certificates())
                .collect();
        notices.sort_by_key(|it| std::cmp::Reverse(it.level));
        notices
    }

    fn page(&self, tab: Tab) -> String {
        path_of(&self.instance.cache_id, tab)
    }

    fn settings(&self) -> String {
        self.page(Tab::Settings)
    }

    /// With a link to the repairs, if there are any.
    fn with_repairs(&self, notice: Notice) -> Notice {
        if self.events.is_empty() { notice } else { notice.at("#events".to_owned(), "Recent repairs") }
    }

    fn state(&self) -> Option<Notice> {
        let contents = if self.instance.warm { "Its contents are kept." } else { "It will start empty." };
        match self.instance.state() {
            InstanceState::Running => None,
            InstanceState::Pending => Some(Notice::new(
                "pending",
                Level::Note,
                "Starting.",
                "You can set up your application meanwhile. Figures appear ten seconds after the start.".to_owned(),
            ).at(self.page(Tab::Connect), "Connect")),
            InstanceState::Asleep => Some(Notice::new(
                "asleep",
                Level::Note,
                "Asleep.",
                format!("No application has used the cache lately. The next command wakes it; that takes about a second. {contents}"),
            ).at(self.page(Tab::Connect), "Connect")),
            InstanceState::Restarting => Some(self.with_repairs(Notice::new(
                "restarting",
                Level::Warning,
                "Restarting.",
                "Requests wait for a moment and are then answered.".to_owned(),
            ))),
            InstanceState::Failed => Some(self.with_repairs(Notice::new(
                "failed",
                Level::Error,
                "The cache can’t be started.",
                "Your applications get errors until it runs; they should read from their database. We keep trying."
                    .to_owned(),
            ))),
            InstanceState::Suspended => Some(Notice::new(
                "cache-suspended",
                Level::Error,
                "Suspended.",
                "Logins are denied until it is resumed. Tokens and limits are kept, contents aren’t.".to_owned(),
            ).at(self.settings(), "Who has suspended it")),
            InstanceState::Deleting => Some(Notice::new(
                "deleting",
                Level::Error,
                "Being deleted.",
                "Logins are denied, and the contents are gone.".to_owned(),
            )),
        }
    }

    /// A crash loop, or the last repair if it was lately and is felt.
    fn repairs(&self) -> Option<Notice> {
        let newest = self.events.first()?;
        let age = self.now.since(newest.last_at);
        // A new size is no fault.
        let is_recent =
            |it: &&InstanceEvent| it.cause != EventCause::Resized && self.now.since(it.last_at) <= RECENT;
        let recent = || self.events.iter().filter(is_recent);
        let count = recent().fold(0, |count: i64, it| count.saturating_add(it.count));
        let lost = recent().find(|it| it.contents_lost);
        let (events, text) = ("#events".to_owned(), newest.text());
        if count >= CRASH_LOOP_MIN {
            let text = format!("{count} repairs in the last hour, the last one {}: {text}.", ago(age));
            let notice = Notice::new("crash-loop", Level::Error, "The cache keeps failing.", text);
            return Some(if newest.cause == EventCause::OutOfMemory {
                notice.at(self.settings(), "Give it more memory")
            } else {
                notice.at(events, "Recent repairs")
            });
        }
        if newest.action == EventAction::Failed && age <= UNREPAIRED_FOR {
            let text = format!("{}: {text}.", ago(age));
            return Some(
                Notice::new("unrepaired", Level::Error, "Not repaired yet.", text)
                    .at(events, "Recent repairs"),
            );
        }
        let lost = lost?;
        let text = format!(
            "{}: {}. Expect misses until your applications have stored their items again.",
            ago(self.now.since(lost.last_at)),
            lost.text()
        );
        Some(
            Notice::new("emptied", Level::Warning, "The cache was emptied.", text)
                .at(events, "Recent repairs"),
        )
    }

    /// Sizes of items for which there was no room.
    fn no_room(&self) -> Option<Notice> {
        let newest = self.measured.newest.as_ref()?;
        let mut full: Vec<SlabClass> = newest.slab_classes();
        full.retain(|class| class.out_of_memory > 0);
        full.sort_by_key(|class| std::cmp::Reverse(class.out_of_memory));
        let lately = self.measured.hour().out_of_memory;
        if full.is_empty() && lately <= 0 {
            return None;
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut sizes: Vec<String> = full
            .iter()
            .take(NAMED_MAX)
            .map(|it| {
                format!(
                    "up to {} ({} stores)",
                    bytes(number(it.chunk_size)),
                    grouped(number(it.out_of_memory))
                )
            })
            .collect();
        if full.len() > NAMED_MAX {
            sizes.push(format!("{} more sizes", full.len() - NAMED_MAX));
        }
        let failed = format!("{} stores failed in the last hour", grouped(lately.max(0)));
        let text = if sizes.is_empty() {
            format!("{failed}.")
        } else {
            format!("{failed}; since memcached started, items of {}.", sizes.join(", "))
        };
        let level = if lately > 0 { Level::Error } else { Level::Note };
        Some(Notice::new("no-room", level, "No room.", text).at(self.settings(), "Give it more memory"))
    }

    fn denied(&self) -> Option<Notice> {
        let mut recent = self.denials.iter().filter(|it| self.now.since(it.last_at) <= RECENT);
        let newest = recent.next()?;
        let others = recent.filter(|it| it.cause != newest.cause).count();
        let others = if others == 0 { "" } else { " There are other causes, too." };
        let text = format!(
            "{} Last {}. {}{others}",
            newest.cause.what(),
            ago(self.now.since(newest.last_at)),
            newest.cause.fix()
        );
        let notice = Notice::new("denied", Level::Warning, "Denied in the last hour:", text);
        Some(notice.at(self.page(Tab::Denials), "Causes, and what helps"))
    }

    fn connections(&self) -> Option<Notice> {
        let (open, max) = (self.measured.connections, self.instance.connections);
        let is_near = open.saturating_mul(100) >= max.saturating_mul(CONNECTIONS_NEARLY_ALL) && max > 0;
        let text = format!("{} of {} are open. Further ones are denied.", grouped(open.max(0)), grouped(max));
        is_near.then(|| {
            let notice =
                Notice::new("connections", Level::Warning, "Nearly all connections are in use:", text);
            notice.at(self.page(Tab::Connections), "See whose they are")
        })
    }

    /// A token that was rotated ends as it should, unless something still uses it.
    fn expiring_tokens(&self) -> Vec<Notice> {
        let until = self.now.saturating_add(EXPIRY_WARNING);
        let is_used = |it: &TokenRow| it.last_used_at.is_some_and(|at| self.now.since(at) <= IN_USE);
        let mut tokens: Vec<(Timestamp, &TokenRow)> = self
            .tokens
            .iter()
            .filter_map(|it| it.permissions.expires_at.map(|at| (at, it)))
            .filter(|(at, it)| *at <= until && (it.successor.is_none() || is_used(it)))
            .collect();
        tokens.sort_by_key(|(at, _)| *at);
        let notice = |(at, it): &(Timestamp, &TokenRow)| {
            let text = if it.successor.is_some() {
                format!(
                    "was rotated and ends {}, but is still in use. Give its successor to your application.",
                    when(*at)
                )
            } else {
                format!("expires {}. Then your application can’t log in.", when(*at))
            };
            let notice = Notice::new("token-expires", Level::Warning, "Token", text);
            Notice {
                name: it.name.clone(),
                ..notice.at(format!("/tokens/{}", it.id), "Rotate it or change its expiry")
            }
        };
        let more = tokens.len().saturating_sub(NAMED_MAX);
        let mut notices: Vec<Notice> = tokens.iter().take(NAMED_MAX).map(notice).collect();
        if more > 0 {
            let text = format!("{more} more expire within 14 days.");
            notices.push(
                Notice::new("tokens-expire", Level::Warning, "Tokens:", text)
                    .at(self.page(Tab::Tokens), "Tokens"),
            );
        }
        notices
    }

    fn expiring_certificates(&self) -> Vec<Notice> {
        let name = |id: &str| {
            self.tokens.iter().find(|it| it.id == id).map_or_else(|| format!("mg_{id}"), |it| it.name.clone())
        };
        let notice = |it: &CertificateRow| {
            let short: String = it.fingerprint.chars().take(8).collect();
            let text = format!(
                "has a certificate ({short}…) that expires {}. Issue another for the client that uses it.",
                when(it.not_after)
            );
            let notice = Notice::new("certificate-expires", Level::Warning, "Token", text);
            Notice {
                name: name(&it.token),
                ..notice.at(format!("/tokens/{}/certificates", it.token), "Certificates")
            }
        };
        let more = self.certificates.len().saturating_sub(NAMED_MAX);
        let mut notices: Vec<Notice> = self.certificates.iter().take(NAMED_MAX).map(notice).collect();
        if more > 0 {
            let text = format!("{more} more expire within 14 days.");
            let notice = Notice::new("certificates-expire", Level::Warning, "Certificates:", text);
            notices.push(notice.at(self.page(Tab::Tokens), "Tokens"));
        }
        notices
    }
}

fn when(at: Timestamp) -> String {
    format!("on {} at {} UTC", day(at), time_of_day(at))
}

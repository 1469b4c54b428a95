//! What a fault is: its name, the rule that answers it, and what that rule promises.

use crate::error::LoadError;

use super::scene::Scene;
pub(super) use super::watch::Source;

/// The replies of a proxy whose backend is away; binary replies have a status of their own.
pub(super) const UNAVAILABLE: &[&str] =
    &["backend unavailable", "backend timed out", "0x86 Temporary failure"];
/// What clients see of a proxy that ends.
pub(super) const CLOSED: &[&str] = &["closed", "connection reset", "connection refused", "broken pipe"];

/// A fault that can be injected.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// What is done, for the table.
    pub(super) does: &'static str,
    /// The rules of docs/security.md and docs/protocol.md.
    pub(super) rules: &'static str,
    /// What happened before these rules were there.
    pub(super) before: &'static str,
    pub(super) promise: Promise,
    /// Injects the fault and, if it stands for a while, ends it.
    pub(super) inject: fn(&mut Scene<'_>) -> Result<(), LoadError>,
}

/// What must hold. That no wrong value is replied, and that everything is ready again, must always hold.
pub(super) struct Promise {
    /// Seconds from the fault's begin, or from its end if it stands for a while, to the callers' last error.
    pub(super) recovery: f64,
    /// Parts of the errors that callers may see; none allows none.
    pub(super) errors: &'static [&'static str],
    pub(super) loses: Loses,
    /// What must be said while the fault stands: by whom, and a part of the text.
    pub(super) told: &'static [(Source, &'static str)],
}

/// The caches whose contents may be lost, and whose containers may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loses {
    Nothing,
    /// The first cache may lose its contents, but not its container.
    Contents,
    /// All caches may lose their contents, but not their containers.
    AllContents,
    /// The first cache may have another container.
    Victim,
}

impl Promise {
    /// No caller sees anything, and nothing is lost.
    pub(super) const UNNOTICED: Self = Self { recovery: 0.0, errors: &[], loses: Loses::Nothing, told: &[] };
}

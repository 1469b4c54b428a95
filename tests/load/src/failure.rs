//! What went wrong, and how to go on: one line.

use std::fmt;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    fix: String,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }

    /// The target has said or done something that voids the run.
    pub(crate) fn void(what: impl Into<String>) -> Self {
        Self::new(what, "the run is void; see to the target")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::void(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        std::io::Error::from(error).into()
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("unexpected JSON ({error})"), "report this")
    }
}

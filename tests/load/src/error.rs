//! Errors: what failed, and how to fix it, on one line.

use std::fmt;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LoadError {
    message: String,
    fix: String,
}

impl LoadError {
    pub(crate) fn new(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { message: message.into(), fix: fix.into() }
    }

    /// The target did something that makes the run invalid.
    pub(crate) fn invalid_run(message: impl Into<String>) -> Self {
        Self::new(message, "the run is invalid; check the target")
    }

    /// What memgate's own parts say: its store, its keys.
    pub(crate) fn unexpected(error: impl fmt::Display) -> Self {
        Self::new(error.to_string(), "run this as root, with the memgate of the same version")
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.fix)
    }
}

impl From<std::io::Error> for LoadError {
    fn from(error: std::io::Error) -> Self {
        Self::invalid_run(error.to_string())
    }
}

impl From<rustix::io::Errno> for LoadError {
    fn from(error: rustix::io::Errno) -> Self {
        std::io::Error::from(error).into()
    }
}

impl From<serde_json::Error> for LoadError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("unexpected JSON ({error})"), "report this")
    }
}

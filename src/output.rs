//! How commands speak: a result on stdout, what went wrong on stderr with the way to fix it.

pub(crate) mod table;

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

/// What went wrong, and what to do about it. Printed once, by `main`.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    fix: String,
    status: Status,
}

/// The exit status that a failure ends in.
#[derive(Debug, Clone, Copy)]
enum Status {
    Failed = 1,
    Usage = 2,
    Pending = 3,
}

impl CliError {
    /// It can't be done: exit status 1.
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), status: Status::Failed }
    }

    /// It was asked for in a way we don't understand: exit status 2.
    pub(crate) fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Usage, ..Self::new(what, fix) }
    }

    /// It is under way, but not done yet: exit status 3.
    pub(crate) fn pending(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: Status::Pending, ..Self::new(what, fix) }
    }

    /// From an error that reads `what is wrong: how to fix it`, with the causes that it names.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let text = error.to_string();
        let (what, fix) = text.split_once(": ").unwrap_or((&text, "the log says more"));
        let mut what = what.to_owned();
        let mut cause = error.source();
        while let Some(error) = cause {
            let reason = one_line(&error.to_string());
            if !what.contains(&reason) {
                let _ = write!(what, " ({reason})");
            }
            cause = error.source();
        }
        Self::new(what, one_line(fix))
    }

    /// Prints it on stderr, as a line or as JSON, and gives the exit status.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            eprintln!("{}", serde_json::json!({ "error": self.what, "fix": self.fix }));
        } else {
            eprintln!("error: {self}");
        }
        ExitCode::from(self.status as u8)
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

macro_rules! failure_from {
    ($($error:ty),*) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::from_error(&error)
            }
        }
    )*};
}
failure_from!(store::StoreError, store::KeyError, provisioner::Error, proxy::Error, webui::Error);

/// Prints a command's result: `document` as JSON, or `text` for people.
pub(crate) fn print<T: Serialize>(
    json: bool,
    document: &T,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    let out = if json {
        serde_json::to_string_pretty(document)
            .map_err(|error| CliError::new(format!("can't print the result ({error})"), "report this"))?
    } else {
        text()
    };
    write_out(&out)
}

/// Writes to stdout; a reader that has gone away (`| head`) is not an error.
pub(crate) fn write_out(text: &str) -> Result<(), CliError> {
    use std::io::{ErrorKind, Write as _};
    let mut stdout = std::io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let written = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::new(format!("can't write the result ({error})"), "check where stdout goes"))
        }
        _ => Ok(()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't do it: try again")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_and_fix_are_told_apart_and_causes_are_named() {
        let failure = CliError::from_error(&Outer(std::io::Error::other("no\nspace")));
        assert_eq!(failure.what, "can't do it (no space)");
        assert_eq!(failure.fix, "try again");
    }
}

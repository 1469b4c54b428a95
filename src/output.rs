//! How commands print: the result on stdout, an error with its fix on stderr.

pub(crate) mod table;
pub(crate) mod time;

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

pub(crate) use identity::escape_controls;

/// What went wrong and how to fix it. `main` prints it once.
#[derive(Debug)]
pub(crate) struct CliError {
    what: String,
    fix: String,
    status: ExitStatus,
    /// The store is away: the same may work later.
    is_outage: bool,
}

/// Exit status of a failed command.
#[derive(Debug, Clone, Copy)]
enum ExitStatus {
    Failed = 1,
    Usage = 2,
    Pending = 3,
}

impl CliError {
    /// The command failed: exit status 1.
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        let what = without_system_codes(&what.into());
        Self { what, fix: fix.into(), status: ExitStatus::Failed, is_outage: false }
    }

    /// The arguments are invalid: exit status 2.
    pub(crate) fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: ExitStatus::Usage, ..Self::new(what, fix) }
    }

    /// Several things at once, each with its fix; repetitions are dropped. `None` if there are none.
    pub(crate) fn all(problems: impl IntoIterator<Item = (String, String)>) -> Option<Self> {
        let (mut whats, mut fixes): (Vec<String>, Vec<String>) = Default::default();
        for (what, fix) in problems {
            for (text, all) in [(what, &mut whats), (fix, &mut fixes)] {
                if !all.contains(&text) {
                    all.push(text);
                }
            }
        }
        (!whats.is_empty()).then(|| Self::new(whats.join("; "), fixes.join("; ")))
    }

    /// What is wrong, and how to fix it.
    pub(crate) fn into_parts(self) -> (String, String) {
        (self.what, self.fix)
    }

    /// The work has started but isn't done yet: exit status 3.
    pub(crate) fn pending(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: ExitStatus::Pending, ..Self::new(what, fix) }
    }

    /// From an error that reads `what is wrong: how to fix it`; its sources are appended in parentheses.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let text = error.to_string();
        let (what, fix) = text.split_once(": ").unwrap_or((&text, "see the log for details"));
        let mut what = what.to_owned();
        let mut source = error.source();
        while let Some(error) = source {
            let reason = one_line(&error.to_string());
            if !what.contains(&reason) {
                let _ = write!(what, " ({reason})");
            }
            source = error.source();
        }
        Self::new(what, one_line(fix))
    }

    /// Whether the store is away, so that the same may work later.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_outage
    }

    /// Prints the error on stderr, as one line or as JSON. Returns the exit status.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let text = if json {
            serde_json::json!({ "error": self.what, "fix": self.fix }).to_string()
        } else {
            format!("error: {self}")
        };
        eprintln!("{}", escape_controls(&text));
        ExitCode::from(self.status as u8)
    }
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}

macro_rules! cli_error_from {
    ($($error:ty),*) => {$(
        impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::from_error(&error)
            }
        }
    )*};
}
impl From<identity::InputError> for CliError {
    fn from(error: identity::InputError) -> Self {
        Self::new(error.problem, error.fix)
    }
}

impl From<store::private_file::FileError> for CliError {
    fn from(error: store::private_file::FileError) -> Self {
        use store::private_file::FileError;
        let told = Self::from_error(&error);
        match error {
            FileError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self { fix: "run this as root, or as the user that owns the data".to_owned(), ..told }
            }
            _ => told,
        }
    }
}

impl From<store::StoreError> for CliError {
    fn from(error: store::StoreError) -> Self {
        Self { is_outage: error.is_outage(), ..Self::from_error(&error) }
    }
}

cli_error_from!(store::KeyError, provisioner::Error, proxy::Error, webui::Error);

/// Prints a command's result: `document` as JSON, or `text` for people.
pub(crate) fn print<T: Serialize>(
    json: bool,
    document: &T,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    let out = if json {
        serde_json::to_string_pretty(document)
            .map_err(|error| CliError::new(format!("can't print the result ({error})"), "report this bug"))?
    } else {
        text()
    };
    let lines: Vec<_> = out.split('\n').map(escape_controls).collect();
    write_out(&lines.join("\n"))
}

/// Writes to stdout. A closed pipe (`| head`) is not an error.
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

/// Drops the numbers of system errors: `Permission denied (os error 13)` says all in its first two words.
fn without_system_codes(text: &str) -> String {
    const START: &str = " (os error ";
    let mut parts = text.split(START);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kept.push_str(rest),
            _ => kept.extend([START, part]),
        }
    }
    kept
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
    fn error_is_split_into_what_and_fix_with_its_sources() {
        let error = CliError::from_error(&Outer(std::io::Error::other("no\nspace")));
        assert_eq!(error.what, "can't do it (no space)");
        assert_eq!(error.fix, "try again");
    }

    #[test]
    fn numbers_of_system_errors_are_dropped() {
        for (text, shown) in [
            ("can't open x (Permission denied (os error 13))", "can't open x (Permission denied)"),
            ("No such file (os error 2), twice (os error 2)", "No such file, twice"),
            ("a (os error x) b (os error", "a (os error x) b (os error"),
            ("plain", "plain"),
        ] {
            assert_eq!(CliError::new(text, "").what, shown);
        }
    }
}

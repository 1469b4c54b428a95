//! Confirmation of commands that delete: a question on a terminal, `--yes` elsewhere.

use std::io::{IsTerminal as _, Write as _};

use crate::output::CliError;

/// The options of commands that delete.
#[derive(Debug, clap::Args)]
pub(crate) struct Confirmation {
    /// Don't ask for confirmation; required unless stdin is a terminal
    #[arg(long)]
    yes: bool,
    /// Only show what would be deleted
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

impl Confirmation {
    /// Whether to show what would be deleted, and delete nothing.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Asks `question`, which ends in a question mark, unless `--yes` was given. With `--dry-run` there is no question.
    ///
    /// # Errors
    /// If the answer isn't yes, or there is no terminal to ask on.
    pub(crate) fn require(&self, question: &str) -> Result<(), CliError> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(CliError::usage("deleting needs a confirmation", "add --yes"));
        }
        ask(question)
    }
}

/// Asks `question` if stdin is a terminal; scripts aren't asked.
///
/// # Errors
/// If the answer isn't yes.
pub(crate) fn ask_on_terminal(question: &str) -> Result<(), CliError> {
    if std::io::stdin().is_terminal() { ask(question) } else { Ok(()) }
}

fn ask(question: &str) -> Result<(), CliError> {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" if read.is_ok() => Ok(()),
        _ => Err(CliError::new("nothing was deleted", "answer y to delete")),
    }
}

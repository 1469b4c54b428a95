//! Confirmation of commands that delete: a question on a terminal, `--yes` elsewhere.

use std::io::{IsTerminal as _, Write as _};

use crate::output::CliError;

/// The option of commands that delete.
#[derive(Debug, clap::Args)]
pub(crate) struct Confirmation {
    /// Don't ask for confirmation; required unless stdin is a terminal
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Asks `question`, which ends in a question mark, unless `--yes` was given.
    ///
    /// # Errors
    /// If the answer isn't yes, or there is no terminal to ask on.
    pub(crate) fn require(&self, question: &str) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::usage("deleting needs a confirmation", "add --yes"));
        }
        let mut stderr = std::io::stderr();
        let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
        let mut answer = String::new();
        let read = stdin.read_line(&mut answer);
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" if read.is_ok() => Ok(()),
            _ => Err(CliError::new("nothing was deleted", "answer y to delete")),
        }
    }
}

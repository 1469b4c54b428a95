//! The error of every parser in this crate: what is wrong with the input, and how to fix it.

use std::fmt::Display;

/// Rejected input. Displayed as two sentences for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}. {fix}.")]
pub struct InputError {
    /// What is wrong, without a full stop.
    pub problem: String,
    /// What to do about it, without a full stop.
    pub fix: String,
}

impl InputError {
    /// `problem` and `fix` have no full stop; `fix` starts with a capital letter.
    #[must_use]
    pub fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }

    /// Splits an error that reads `problem: fix`, as the store's parsers write them.
    pub(crate) fn from_parse_error(error: &impl Display) -> Self {
        let text = error.to_string();
        let (problem, fix) = text.rsplit_once(": ").unwrap_or((&text, "write it differently"));
        // The problem may start with what was typed, which must not change.
        Self::new(problem, capitalized(fix))
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_errors_become_two_sentences() {
        let error = "10.0.0.1/8 is not where a network begins: write 10.0.0.0/8";
        assert_eq!(
            InputError::from_parse_error(&error).to_string(),
            "10.0.0.1/8 is not where a network begins. Write 10.0.0.0/8."
        );
    }
}

//! The state of a user.

use crate::StoreError;

/// Whether a user may sign in and use their caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UserState {
    /// The user may.
    Active,
    /// The user may not, until an operator resumes the account.
    Suspended,
}

impl UserState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, StoreError> {
        match text {
            "active" => Ok(Self::Active),
            "suspended" => Ok(Self::Suspended),
            _ => Err(StoreError::Corrupt("user state")),
        }
    }
}

//! Tokens as values: their format, their permissions, and what verifies their secret. Queries are in `tokens.rs`.

mod cidr;
pub(crate) mod format;
mod permissions;
mod scopes;
mod scram;
mod verifier;

pub use cidr::{Cidr, ParseCidrError};
pub use format::{ParseTokenError, Token, TokenId, TokenSecret};
pub(crate) use permissions::PermissionColumns;
pub use permissions::{KeyPrefix, NetworkLimitError, ParseKeyPrefixError, Permissions};
pub use scopes::{ParseScopesError, Scope, Scopes};
pub use scram::ScramKeys;
pub(crate) use scram::scram_keys;
pub use verifier::Verifier;
pub(crate) use verifier::matches;

//! Rules that the web UI and the command line share: e-mail addresses, passwords, token names, permissions,
//! client certificates, and text that leaves memgate. Pure functions over values: never opens the store, a socket or a file.

pub mod certificate;
mod email;
mod escape;
mod input_error;
pub mod password;
pub mod permissions_text;
pub mod plan_limits;
pub mod sleep;
pub mod time_text;
mod token_name;
pub mod usage_csv;

pub use email::Email;
pub use escape::escape_controls;
pub use input_error::InputError;
pub use password::Password;
pub use token_name::{CertificateName, FIRST_TOKEN_NAME, TokenName, api_key_name};

//! Rules that the web UI and the command line share: e-mail addresses, passwords, token names, permissions
//! and client certificates. Pure functions over values: never opens the store, a socket or a file.

pub mod certificate;
mod email;
mod input_error;
pub mod password;
pub mod permissions_text;
pub mod time_text;
mod token_name;

pub use email::Email;
pub use input_error::InputError;
pub use password::Password;
pub use token_name::{FIRST_TOKEN_NAME, TokenName};

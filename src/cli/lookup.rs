//! Finds what a command's arguments name.

use store::{Store, User};

use crate::output::CliError;

/// The user with this e-mail address.
///
/// # Errors
/// If there is none, or the store fails.
pub(crate) async fn find_user(store: &Store, email: &str) -> Result<User, CliError> {
    store
        .user_by_email(email)
        .await?
        .ok_or_else(|| CliError::new(format!("no user {email}"), "`memgate user list` shows all users"))
}

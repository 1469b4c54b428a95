//! What accounts do by mail: a forgotten password, another e-mail address, sign-up with a link. A link and its mail are
//! added in one transaction, and so is what a link does and the mail that tells of it.

use std::time::Duration;

use crate::account::{DELETE_LINKS, PASSWORD_HASH, set_password};
use crate::account_link::{LinkKind, insert_link, take_link};
use crate::audit::note;
use crate::db::write;
use crate::mail::{MailKind, MailLimits, NewMail, insert_mail};
use crate::{NewPassword, Store, StoreError, now};

/// How long a link to set a new password is valid.
const RESET_PASSWORD_AGE: Duration = Duration::from_hours(1);
/// How long a link that confirms an address is valid.
const CHANGE_EMAIL_AGE: Duration = Duration::from_hours(24);
/// How long a link that makes an account is valid, unless an operator invites.
const SIGN_UP_AGE: Duration = Duration::from_hours(24);
/// Links that make an account with one address: further ones are refused. Those that visitors ask for leave room to as many
/// invitations.
const TO_ADDRESS_MAX: i64 = 20;

/// Links of one kind and user.
const DELETE_KIND: &str = "DELETE FROM account_links WHERE user_id = $1 AND kind = $2";
pub(crate) const COUNT_TO: &str = "SELECT COUNT(*) FROM account_links WHERE email = $1 AND expires_at > $2";
/// The same, without those that visitors have asked for: their mail is kept for longer than they are valid.
pub(crate) const COUNT_INVITATIONS_TO: &str = "SELECT COUNT(*) FROM account_links l \
     WHERE l.email = $1 AND l.expires_at > $2 AND NOT EXISTS \
     (SELECT 1 FROM mails m WHERE m.recipient = l.email AND m.kind = 'sign_up' AND m.link_id = l.id)";
const USER_OF_EMAIL: &str = "SELECT id FROM users WHERE email = $1 AND deleted_at IS NULL";
const EMAIL_OF_USER: &str = "SELECT email FROM users WHERE id = $1 AND deleted_at IS NULL";
const SET_EMAIL: &str = "UPDATE users SET email = $1, revision = $2 WHERE id = $3 AND deleted_at IS NULL";

/// Inserts a link that makes an account in a transaction, if those that `$count` counts leave room; returns its id.
macro_rules! insert_sign_up_link {
    ($tx:expr, $count:expr, $email:expr, $age:expr) => {{
        let links: i64 = sqlx::query_scalar($count).bind($email).bind(now()).fetch_one(&mut *$tx).await?;
        if links >= TO_ADDRESS_MAX {
            return Err(StoreError::LimitReached("mail"));
        }
        insert_link!($tx, LinkKind::SignUp, None, $email, $age)
    }};
}

impl Store {
    /// Sends a link to set a new password to an account's address. Returns whether it does: not without such an account, nor
    /// to one that has never had a password, nor over a limit.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn send_reset_link(&self, email: &str, limits: &MailLimits) -> Result<bool, StoreError> {
        // Requests for made-up addresses write nothing.
        let Some(user) = self.user_by_email(email).await? else { return Ok(false) };
        Ok(write!(self, tx, _revision => {
            let current: Option<Option<String>> =
                sqlx::query_scalar(PASSWORD_HASH).bind(&user.id).fetch_optional(&mut *tx).await?;
            if current.flatten().is_none() {
                return Ok(false);
            }
            let link = insert_link!(tx, LinkKind::ResetPassword, Some(&user.id), &user.email, RESET_PASSWORD_AGE);
            let mail = NewMail {
                kind: MailKind::ResetPassword, user_id: Some(&user.id), recipient: &user.email, link_id: Some(&link),
            };
            if !insert_mail!(tx, mail, limits) {
                return Ok(false);
            }
            note!(self, tx, "user.reset_link", format!("user {}", user.id), "a link to set a new password is sent");
            true
        }))
    }

    /// Sets a new password with a link, which is used up, and tells the owner by mail. Ends all sessions and links. Returns
    /// the account's id and how many tokens were revoked.
    ///
    /// # Errors
    /// `NotFound("link")` if it isn't valid any more.
    pub async fn reset_password(
        &self,
        link_id: &str,
        new: &NewPassword<'_>,
        limits: &MailLimits,
    ) -> Result<(String, usize), StoreError> {
        Ok(write!(self, tx, revision => {
            let (user_id, email) = take_link!(tx, link_id, LinkKind::ResetPassword);
            let user_id = user_id.ok_or(StoreError::Corrupt("link"))?;
            let tokens = set_password!(self, tx, revision, &user_id, new);
            let mail = NewMail {
                kind: MailKind::PasswordChanged, user_id: Some(&user_id), recipient: &email, link_id: None,
            };
            insert_mail!(tx, mail, limits);
            (user_id, tokens)
        }))
    }

    /// Sends a link to a new address of a user, and tells the address that the user has. Nothing else changes until the link
    /// is used. An address that somebody else has gets another mail instead, and the caller isn't told.
    ///
    /// # Errors
    /// `LimitReached("mail")`, `NotFound("user")`.
    pub async fn send_email_link(
        &self,
        user_id: &str,
        new_email: &str,
        limits: &MailLimits,
    ) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            let email: Option<String> =
                sqlx::query_scalar(EMAIL_OF_USER).bind(user_id).fetch_optional(&mut *tx).await?;
            let email = email.ok_or(StoreError::NotFound("user"))?;
            let owner: Option<String> =
                sqlx::query_scalar(USER_OF_EMAIL).bind(new_email).fetch_optional(&mut *tx).await?;
            // Only the newest link of an account confirms an address.
            sqlx::query(DELETE_KIND).bind(user_id).bind(LinkKind::ChangeEmail.as_str()).execute(&mut *tx).await?;
            let link = match owner {
                Some(_) => None,
                None => Some(insert_link!(tx, LinkKind::ChangeEmail, Some(user_id), new_email, CHANGE_EMAIL_AGE)),
            };
            let kind = if link.is_some() { MailKind::ConfirmEmail } else { MailKind::AddressTakenByChange };
            let to_new = NewMail { kind, user_id: Some(user_id), recipient: new_email, link_id: link.as_deref() };
            let to_owner = NewMail {
                kind: MailKind::EmailChangeAsked, user_id: Some(user_id), recipient: &email, link_id: None,
            };
            if !insert_mail!(tx, to_new, limits) || !insert_mail!(tx, to_owner, limits) {
                return Err(StoreError::LimitReached("mail"));
            }
            note!(self, tx, "user.email_link", format!("user {user_id}"), "another e-mail address is asked for");
        });
        Ok(())
    }

    /// Changes a user's e-mail address to the one that a link was sent to. The link is used up with all others of the account,
    /// and the former address is told. Returns the account's id.
    ///
    /// # Errors
    /// `NotFound("link")` if it isn't valid any more; `AlreadyExists("e-mail address")`.
    pub async fn change_email(&self, link_id: &str, limits: &MailLimits) -> Result<String, StoreError> {
        Ok(write!(self, tx, revision => {
            let (user_id, new_email) = take_link!(tx, link_id, LinkKind::ChangeEmail);
            let user_id = user_id.ok_or(StoreError::Corrupt("link"))?;
            let former: Option<String> =
                sqlx::query_scalar(EMAIL_OF_USER).bind(&user_id).fetch_optional(&mut *tx).await?;
            let former = former.ok_or(StoreError::NotFound("link"))?;
            sqlx::query(SET_EMAIL).bind(&new_email).bind(revision).bind(&user_id).execute(&mut *tx).await
                .map_err(|e| StoreError::unique(e, "e-mail address"))?;
            sqlx::query(DELETE_LINKS).bind(&user_id).execute(&mut *tx).await?;
            let mail = NewMail {
                kind: MailKind::EmailChanged, user_id: Some(&user_id), recipient: &former, link_id: None,
            };
            insert_mail!(tx, mail, limits);
            note!(self, tx, "user.email", format!("user {user_id}"), format!("{new_email} (was {former})"));
            user_id
        }))
    }

    /// Sends a link that makes an account. An address that has one already gets another mail instead.
    ///
    /// # Errors
    /// `LimitReached("mail")`, also if many links to that address are valid.
    pub async fn send_sign_up_link(&self, email: &str, limits: &MailLimits) -> Result<(), StoreError> {
        let email = email.to_lowercase();
        write!(self, tx, _revision => {
            let owner: Option<String> =
                sqlx::query_scalar(USER_OF_EMAIL).bind(&email).fetch_optional(&mut *tx).await?;
            let link = if owner.is_some() { None } else { Some(insert_sign_up_link!(tx, COUNT_TO, &email, SIGN_UP_AGE)) };
            let kind = if link.is_some() { MailKind::SignUp } else { MailKind::AddressTaken };
            let mail = NewMail { kind, user_id: None, recipient: &email, link_id: link.as_deref() };
            if !insert_mail!(tx, mail, limits) {
                return Err(StoreError::LimitReached("mail"));
            }
            if let Some(link) = &link {
                // Without the address: it is not that of a user yet, and entries are kept for ever.
                note!(self, tx, "user.sign_up_link", format!("link {link}"), "a link that makes an account is sent");
            }
        });
        Ok(())
    }

    /// Makes a link that makes an account, also where sign-up is closed. With `limits` it is sent by mail, too. Returns its id.
    ///
    /// # Errors
    /// `AlreadyExists("e-mail address")`; `LimitReached("mail")`, also if many invitations to that address are valid.
    pub async fn invite(
        &self,
        email: &str,
        age: Duration,
        limits: Option<&MailLimits>,
    ) -> Result<String, StoreError> {
        let email = email.to_lowercase();
        Ok(write!(self, tx, _revision => {
            let owner: Option<String> =
                sqlx::query_scalar(USER_OF_EMAIL).bind(&email).fetch_optional(&mut *tx).await?;
            if owner.is_some() {
                return Err(StoreError::AlreadyExists("e-mail address"));
            }
            let link = insert_sign_up_link!(tx, COUNT_INVITATIONS_TO, &email, age);
            if let Some(limits) = limits {
                let kind = MailKind::Invitation;
                let mail = NewMail { kind, user_id: None, recipient: &email, link_id: Some(&link) };
                if !insert_mail!(tx, mail, limits) {
                    return Err(StoreError::LimitReached("mail"));
                }
            }
            note!(self, tx, "user.invite", format!("link {link}"), format!("to {email}"));
            link
        }))
    }
}

//! Kinds of mail.

use std::time::Duration;

use crate::StoreError;

/// How long a mail without a link is tried.
const NOTICE_AGE_MAX: Duration = Duration::from_hours(3 * 24);

/// What a mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    /// A link to set a new password.
    ResetPassword,
    /// The password was changed.
    PasswordChanged,
    /// A link that confirms a new e-mail address; sent to that address.
    ConfirmEmail,
    /// Somebody has asked for another e-mail address; sent to the address that the account has.
    EmailChangeAsked,
    /// The account has another e-mail address; sent to the one that it had.
    EmailChanged,
    /// A link that makes an account, for which the recipient has asked.
    SignUp,
    /// A link that makes an account, from an operator.
    Invitation,
    /// The recipient has an account already.
    AddressTaken,
    /// The second factor is on.
    SecondFactorOn,
    /// The second factor is off.
    SecondFactorOff,
    /// Somebody has entered the right password and wrong codes.
    WrongCodes,
}

impl MailKind {
    const ALL: [Self; 11] = [
        Self::ResetPassword,
        Self::PasswordChanged,
        Self::ConfirmEmail,
        Self::EmailChangeAsked,
        Self::EmailChanged,
        Self::SignUp,
        Self::Invitation,
        Self::AddressTaken,
        Self::SecondFactorOn,
        Self::SecondFactorOff,
        Self::WrongCodes,
    ];

    /// Its name: `reset_password`, ...
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResetPassword => "reset_password",
            Self::PasswordChanged => "password_changed",
            Self::ConfirmEmail => "confirm_email",
            Self::EmailChangeAsked => "email_change_asked",
            Self::EmailChanged => "email_changed",
            Self::SignUp => "sign_up",
            Self::Invitation => "invitation",
            Self::AddressTaken => "address_taken",
            Self::SecondFactorOn => "second_factor_on",
            Self::SecondFactorOff => "second_factor_off",
            Self::WrongCodes => "wrong_codes",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(StoreError::Corrupt("kind of mail"))
    }

    /// How many of `total` mails there may be already when this one is added. What visitors ask for leaves a part to what has
    /// to reach an account's owner, and sign-ups, which need no account, leave more.
    pub(super) fn part_of(self, total: usize) -> usize {
        match self {
            Self::SignUp | Self::AddressTaken => total / 2,
            Self::ResetPassword | Self::ConfirmEmail | Self::Invitation => total - total / 4,
            Self::PasswordChanged | Self::EmailChangeAsked | Self::EmailChanged => total,
            Self::SecondFactorOn | Self::SecondFactorOff | Self::WrongCodes => total,
        }
    }

    /// How long after its creation it is sent at the latest. Mail with a link ends with its link.
    #[must_use]
    pub fn age_max(self) -> Duration {
        NOTICE_AGE_MAX
    }
}

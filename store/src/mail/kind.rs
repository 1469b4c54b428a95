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
    /// The recipient has an account already; somebody wanted to sign up with the address.
    AddressTaken,
    /// The same; somebody wanted to change their account's address to it.
    AddressTakenByChange,
    /// The second factor is on.
    SecondFactorOn,
    /// The second factor is off.
    SecondFactorOff,
    /// Somebody has entered the right password and wrong codes.
    WrongCodes,
    /// Notifications of the account are sent to another address: a webhook was created, or changed.
    WebhookAddress,
    /// A token of the account was found in public; its link's id is that of the notification.
    TokenLeaked,
    /// Any other notification; its link's id is that of the notification.
    Notification,
}

/// Mails that have a limit in total together. Those of one group take no room from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailGroup {
    /// Visitors and users ask for them.
    AskedFor,
    /// They tell of what has happened to tokens and caches.
    Notifications,
    /// They tell of what somebody has done to an account, or with a token, and are never refused.
    Notices,
}

impl MailKind {
    const ALL: [Self; 15] = [
        Self::ResetPassword,
        Self::PasswordChanged,
        Self::ConfirmEmail,
        Self::EmailChangeAsked,
        Self::EmailChanged,
        Self::SignUp,
        Self::Invitation,
        Self::AddressTaken,
        Self::AddressTakenByChange,
        Self::SecondFactorOn,
        Self::SecondFactorOff,
        Self::WrongCodes,
        Self::WebhookAddress,
        Self::TokenLeaked,
        Self::Notification,
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
            Self::AddressTakenByChange => "address_taken_by_change",
            Self::SecondFactorOn => "second_factor_on",
            Self::SecondFactorOff => "second_factor_off",
            Self::WrongCodes => "wrong_codes",
            Self::WebhookAddress => "webhook_address",
            Self::TokenLeaked => "token_leaked",
            Self::Notification => "notification",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(StoreError::Corrupt("kind of mail"))
    }

    /// What it counts with in total.
    pub(crate) fn group(self) -> MailGroup {
        match self {
            Self::SignUp | Self::AddressTaken | Self::ResetPassword => MailGroup::AskedFor,
            Self::ConfirmEmail | Self::AddressTakenByChange | Self::Invitation => MailGroup::AskedFor,
            Self::Notification => MailGroup::Notifications,
            Self::PasswordChanged | Self::EmailChangeAsked | Self::EmailChanged => MailGroup::Notices,
            Self::SecondFactorOn | Self::SecondFactorOff | Self::WrongCodes => MailGroup::Notices,
            Self::WebhookAddress | Self::TokenLeaked => MailGroup::Notices,
        }
    }

    /// How many of `total` mails of its group there may be already when this one is added. Of what is asked for, sign-ups, which
    /// need no account, leave more to others. A notification, which a user can bring about, has less room the more of them its
    /// recipient got in this hour, `to_recipient`, beside these: so the first one of everybody else still has some. `None`: any number,
    /// since a notice must reach its owner however much mail others cause.
    pub(super) fn part_of(self, total: usize, to_recipient: usize) -> Option<usize> {
        match self {
            Self::SignUp | Self::AddressTaken => Some(total / 2),
            Self::Notification => {
                let of_others = (total / 2) >> to_recipient.min(16);
                Some((of_others + to_recipient).min(total / 2))
            }
            Self::ResetPassword | Self::ConfirmEmail | Self::AddressTakenByChange | Self::Invitation => {
                Some(total - total / 4)
            }
            Self::PasswordChanged | Self::EmailChangeAsked | Self::EmailChanged => None,
            Self::SecondFactorOn | Self::SecondFactorOff | Self::WrongCodes => None,
            Self::WebhookAddress | Self::TokenLeaked => None,
        }
    }

    /// The kinds that count as one at a recipient. Whether an address is taken doesn't show in how many mails to it are left.
    pub(crate) fn counted_with(self) -> [Self; 2] {
        match self {
            Self::ConfirmEmail | Self::AddressTakenByChange => {
                [Self::ConfirmEmail, Self::AddressTakenByChange]
            }
            _ => [self, self],
        }
    }

    /// How long after its creation it is sent at the latest. Mail with a link ends with its link.
    #[must_use]
    pub fn age_max(self) -> Duration {
        NOTICE_AGE_MAX
    }
}

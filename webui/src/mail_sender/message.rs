//! The text of each mail, made when it is sent. Plain text with short lines, so that nothing in it is encoded or hidden.

use lettre::Message;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox};
use store::{ClaimedMail, MailKind, Notification, StoreError, now};

use crate::state::AppState;
use crate::view::notification;

/// Bytes of a line that isn't encoded (RFC 5322 2.1.1).
const LINE_MAX: usize = 998;
/// Characters of a line of text.
const TEXT_WIDTH: usize = 72;
/// Keeps programs that answer mail by themselves from answering this (RFC 3834).
const AUTO_SUBMITTED: (HeaderName, &str) =
    (HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated");

/// The mail, or why it isn't to be sent any more.
///
/// # Errors
///
/// If the store fails.
pub(super) async fn of(
    app: &AppState,
    sender: &Mailbox,
    mail: &ClaimedMail,
) -> Result<Result<Message, String>, StoreError> {
    if now().since(mail.created_at) > mail.kind.age_max() {
        return Ok(Err("it waited for too long".to_owned()));
    }
    let base_url = app.config.base_url.as_deref().unwrap_or_default();
    let Some(kind) = AccountMail::of(mail.kind) else {
        let id = mail.link_id.as_deref().unwrap_or_default();
        let Some(notification) = app.store.notification(id).await? else {
            return Ok(Err("its notification was deleted".to_owned()));
        };
        let (subject, body) = of_notification(base_url, &notification);
        return Ok(build(sender, mail, subject, body));
    };
    let link = match &mail.link_id {
        None => None,
        Some(id) => match app.store.account_link(id).await? {
            Some(link) => Some(app.token_key.link_code(&link.id)),
            None => return Ok(Err("its link isn't valid any more".to_owned())),
        },
    };
    let text = Text { base_url, link: link.as_deref(), contact: app.config.contact.as_deref() };
    let (subject, body) = text.of(kind);
    Ok(build(sender, mail, subject, body))
}

/// Subject and body of a mail about a notification. It has no word that a user has written.
fn of_notification(base_url: &str, notification: &Notification) -> (&'static str, String) {
    let text = wrapped(&notification::mail_text(notification));
    let body = format!(
        "{text}\n\nMore about it, with the names that you gave:\n{base_url}/account/notifications\n\n\
         There you also choose what you get by mail.\n"
    );
    (notification::title(notification.kind), body)
}

/// A text in lines of at most 72 characters, unless a word is longer.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= TEXT_WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn build(sender: &Mailbox, mail: &ClaimedMail, subject: &str, body: String) -> Result<Message, String> {
    let recipient = mail.recipient.parse().map_err(|error| format!("invalid recipient ({error})"))?;
    let (name, value) = AUTO_SUBMITTED;
    Message::builder()
        .from(sender.clone())
        .to(Mailbox::new(None, recipient))
        .subject(subject)
        // The same at each attempt: of two that arrive, one is shown.
        .message_id(Some(format!("<{}@{}>", mail.id, sender.email.domain())))
        .raw_header(HeaderValue::new(name, value.to_owned()))
        .header(ContentType::TEXT_PLAIN)
        .body(encode(body))
        .map_err(|error| format!("can't be written ({error})"))
}

/// ASCII stays as it is, so that a link isn't broken by a program that reads the mail.
fn encode(body: String) -> Body {
    if body.is_ascii() && body.lines().all(|line| line.len() <= LINE_MAX) {
        let body = body.replace('\n', "\r\n");
        return Body::dangerous_pre_encoded(body.into_bytes(), ContentTransferEncoding::SevenBit);
    }
    Body::new(body)
}

/// A mail that isn't about a notification.
#[derive(Debug, Clone, Copy)]
enum AccountMail {
    ResetPassword,
    PasswordChanged,
    ConfirmEmail,
    EmailChangeAsked,
    EmailChanged,
    SignUp,
    Invitation,
    SecondFactorOn,
    SecondFactorOff,
    WrongCodes,
    WebhookAddress,
    AddressTaken,
}

impl AccountMail {
    /// `None` if it is made from a notification.
    fn of(kind: MailKind) -> Option<Self> {
        Some(match kind {
            MailKind::ResetPassword => Self::ResetPassword,
            MailKind::PasswordChanged => Self::PasswordChanged,
            MailKind::ConfirmEmail => Self::ConfirmEmail,
            MailKind::EmailChangeAsked => Self::EmailChangeAsked,
            MailKind::EmailChanged => Self::EmailChanged,
            MailKind::SignUp => Self::SignUp,
            MailKind::Invitation => Self::Invitation,
            MailKind::SecondFactorOn => Self::SecondFactorOn,
            MailKind::SecondFactorOff => Self::SecondFactorOff,
            MailKind::WrongCodes => Self::WrongCodes,
            MailKind::WebhookAddress => Self::WebhookAddress,
            MailKind::AddressTaken | MailKind::AddressTakenByChange => Self::AddressTaken,
            MailKind::TokenLeaked | MailKind::Notification => return None,
        })
    }
}

/// What texts are made of.
struct Text<'a> {
    base_url: &'a str,
    /// The code of the mail's link.
    link: Option<&'a str>,
    contact: Option<&'a str>,
}

impl Text<'_> {
    /// Subject and body.
    fn of(&self, kind: AccountMail) -> (&'static str, String) {
        let (base_url, link, ask) = (self.base_url, self.link(), self.ask());
        match kind {
            AccountMail::ResetPassword => (
                "Set a new password",
                format!(
                    "Somebody asked for a new password for your account at\n{base_url}\n\n\
                     To set one, open this address within an hour:\n\n{link}\n\n\
                     If that wasn't you, do nothing: your password stays as it is.\n"
                ),
            ),
            AccountMail::PasswordChanged => (
                "Your password was changed",
                format!(
                    "The password of your account at\n{base_url}\nwas changed, and all browsers were signed out.\n\n\
                     If that wasn't you, set another one at once:\n{base_url}/forgot-password\n{ask}"
                ),
            ),
            AccountMail::ConfirmEmail => (
                "Confirm your e-mail address",
                format!(
                    "Somebody wants to use this address for their account at\n{base_url}\n\n\
                     If that was you, open this address within a day, and confirm it:\n\n{link}\n\n\
                     If it wasn't, do nothing: nothing changes.\n"
                ),
            ),
            AccountMail::EmailChangeAsked => (
                "Another e-mail address was asked for",
                format!(
                    "Somebody who knows the password of your account at\n{base_url}\nwants to use another e-mail address for it. \
                     It changes once they\nhave confirmed that address.\n\n\
                     If that wasn't you, change your password now, which undoes it:\n{base_url}/account\n{ask}"
                ),
            ),
            AccountMail::EmailChanged => (
                "Your e-mail address was changed",
                format!(
                    "Your account at\n{base_url}\nhas another e-mail address now. This one no longer signs you in.\n{ask}"
                ),
            ),
            AccountMail::SignUp | AccountMail::Invitation => (
                if matches!(kind, AccountMail::SignUp) { "Create your account" } else { "You are invited" },
                format!(
                    "{} at\n{base_url}\n\n\
                     To choose a password and create it, open this address:\n\n{link}\n\n\
                     If you don't want an account, do nothing: there is none.\n",
                    if matches!(kind, AccountMail::SignUp) {
                        "Somebody wants to create an account with this address"
                    } else {
                        "You are invited to create an account"
                    }
                ),
            ),
            AccountMail::SecondFactorOn | AccountMail::SecondFactorOff | AccountMail::WrongCodes => {
                self.of_second_factor(kind)
            }
            AccountMail::WebhookAddress => (
                "Your notifications go to another address",
                format!(
                    "Somebody gave a webhook of your account at\n{base_url}\nan address. Notifications of your tokens and caches are sent there\n\
                     from now on.\n\n\
                     If that wasn't you, delete the webhook:\n{base_url}/account/webhooks\n\
                     Then change your password, and revoke the API keys that have the scope\nwebhooks:\n{base_url}/account\n{ask}"
                ),
            ),
            AccountMail::AddressTaken => (
                "You have an account already",
                format!(
                    "Somebody wanted to use this address for an account at\n{base_url}\n\n\
                     You have one with it already. If that was you, sign in there; if you\nhave forgotten your password:\n\
                     {base_url}/forgot-password\n\nIf it wasn't, do nothing: nothing changes.\n"
                ),
            ),
        }
    }

    fn of_second_factor(&self, kind: AccountMail) -> (&'static str, String) {
        let (base_url, ask) = (self.base_url, self.ask());
        let change = format!("change your password now:\n{base_url}/account\n{ask}");
        match kind {
            AccountMail::SecondFactorOn => (
                "Your second factor is on",
                format!(
                    "Signing in to your account at\n{base_url}\nnow needs a code, too.\n\nIf that wasn't you, {change}"
                ),
            ),
            AccountMail::SecondFactorOff => (
                "Your second factor is off",
                format!(
                    "Your account at\n{base_url}\nno longer asks for a code.\n\nIf that wasn't you, {change}"
                ),
            ),
            _ => (
                "Somebody knows your password",
                format!(
                    "Somebody entered the password of your account at\n{base_url}\nand then wrong codes, five or more within an hour. They are not signed in.\n\n\
                     If that wasn't you, {change}"
                ),
            ),
        }
    }

    fn link(&self) -> String {
        self.link.map_or_else(String::new, |code| format!("{}/links/{code}", self.base_url))
    }

    /// Whom to ask.
    fn ask(&self) -> String {
        self.contact.map_or_else(String::new, |contact| format!("\nIf you need help, ask {contact}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_plain_and_have_their_link() {
        let code = "a".repeat(56);
        let text = Text {
            base_url: "https://cache.example.org",
            link: Some(&code),
            contact: Some("ops@example.org"),
        };
        let sender: Mailbox = "memgate <noreply@example.org>".parse().unwrap();
        for (kind, has_link) in [
            (MailKind::ResetPassword, true),
            (MailKind::PasswordChanged, false),
            (MailKind::ConfirmEmail, true),
            (MailKind::EmailChangeAsked, false),
            (MailKind::EmailChanged, false),
            (MailKind::SignUp, true),
            (MailKind::Invitation, true),
            (MailKind::AddressTaken, false),
            (MailKind::AddressTakenByChange, false),
            (MailKind::SecondFactorOn, false),
            (MailKind::SecondFactorOff, false),
            (MailKind::WrongCodes, false),
            (MailKind::WebhookAddress, false),
        ] {
            let (subject, body) = text.of(AccountMail::of(kind).unwrap());
            assert_eq!(body.contains(&code), has_link, "{kind:?}");
            let long = body.lines().find(|line| line.len() > 76 && !line.contains(&code));
            assert_eq!(long, None, "{kind:?}");
            let mail = ClaimedMail {
                id: "m".repeat(24),
                kind,
                recipient: "ada@example.org".into(),
                link_id: None,
                created_at: now(),
                attempts: 1,
            };
            let message =
                String::from_utf8(build(&sender, &mail, subject, body).unwrap().formatted()).unwrap();
            for line in
                ["To: ada@example.org", "Auto-Submitted: auto-generated", "Content-Transfer-Encoding: 7bit"]
            {
                assert!(message.contains(line), "{message}");
            }
        }
    }
}

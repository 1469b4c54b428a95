//! Mail that tells users what an operator has changed.

use store::{MailKind, MailLimits, NewMail, StoreError, User};

use crate::cli::context::Context;
use crate::output::CliError;

/// How many mails there may be.
pub(super) fn limits(context: &Context) -> MailLimits {
    let limits = &context.settings.webui.limits;
    MailLimits {
        to_recipient_per_hour: limits.mails_per_hour,
        in_total_per_hour: limits.mails_in_total_per_hour,
    }
}

/// Tells a user of a change that was made, if there is a mail server.
///
/// # Errors
/// If the store fails. Over a limit nothing is sent, and that is no error.
pub(super) async fn tell(context: &Context, user: &User, kind: MailKind) -> Result<(), CliError> {
    if context.settings.webui.mail.server.is_none() {
        return Ok(());
    }
    let mail = NewMail { kind, user_id: Some(&user.id), recipient: &user.email, link_id: None };
    match context.store.add_mail(&mail, &limits(context)).await {
        Ok(()) | Err(StoreError::LimitReached(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

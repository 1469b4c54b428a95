//! `memgate user reset-second-factor`: for users who have lost their device and their recovery codes.

use serde::Serialize;
use store::MailKind;

use super::mail;
use crate::cli::context::Context;
use crate::cli::lookup::find_user;
use crate::output::CliError;

pub(super) const EXAMPLES: &str = "\
Example:
  memgate user reset-second-factor ada@example.org

Make sure who asks: afterwards the password alone signs in. Applications and tokens are not affected.";

/// Switch a user's second factor off
#[derive(Debug, clap::Args)]
pub(crate) struct ResetSecondFactor {
    /// The user's e-mail address
    email: String,
}

#[derive(Debug, Serialize)]
struct Reset {
    email: String,
    /// Whether it was on.
    was_on: bool,
}

impl ResetSecondFactor {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let user = find_user(&context.store, &self.email).await?;
        let was_on = context.store.remove_second_factor(&user.id).await?;
        let reset = Reset { email: user.email.clone(), was_on };
        context.print(&reset, || {
            let what = if reset.was_on { "is switched off" } else { "was off already" };
            format!("the second factor of {} {what}", reset.email)
        })?;
        if was_on { mail::tell(context, &user, MailKind::SecondFactorOff).await } else { Ok(()) }
    }
}

//! `memgate user invite`: a link with which somebody creates an account.

use std::time::Duration;

use identity::{Email, time_text};
use serde::Serialize;
use store::{StoreError, Timestamp, now};

use super::mail;
use crate::cli::context::Context;
use crate::output::CliError;
use crate::output::table;
use crate::settings::local_address;

pub(super) const EXAMPLES: &str = "\
Examples:
  memgate user invite ada@example.org
  memgate user invite ada@example.org --expires 14d --no-mail --json | jq -r .link

The link is for one use. It also works where webui.sign_up is \"closed\". With [webui.mail] it is sent to the address, too.";

/// Invite somebody: a link to choose a password and create an account
#[derive(Debug, clap::Args)]
pub(crate) struct Invite {
    /// The e-mail address of the new account
    email: String,
    /// How long the link is valid, like 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = store::parse_duration)]
    expires: Duration,
    /// Don't send the link by mail, only print it
    #[arg(long)]
    no_mail: bool,
}

/// No `Debug`: that would print the link.
#[derive(Serialize)]
struct Invited {
    email: String,
    /// Shown only once.
    link: String,
    expires_at: Timestamp,
    /// Whether it is sent by mail.
    mail: bool,
}

impl Invite {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let webui = &context.settings.webui;
        let email = Email::parse(&self.email)?;
        let key = context.token_key().await?;
        let limits = mail::limits(context);
        let has_mail = webui.mail.server.is_some() && !self.no_mail;
        let id = context.store.invite(email.as_str(), self.expires, has_mail.then_some(&limits)).await;
        let id = id.map_err(|error| invite_error(error, &email))?;
        let base_url =
            webui.base_url.clone().unwrap_or_else(|| format!("http://{}", local_address(webui.listen)));
        let invited = Invited {
            email: email.as_str().to_owned(),
            link: format!("{base_url}/links/{}", key.link_code(&id)),
            expires_at: now().saturating_add(self.expires),
            mail: has_mail,
        };
        context.print(&invited, || describe(&invited))
    }
}

fn describe(invited: &Invited) -> String {
    let pairs = table::pairs(&[
        ("email", invited.email.clone()),
        ("link", invited.link.clone()),
        ("valid until", time_text::rfc3339(invited.expires_at)),
        ("sent by mail", if invited.mail { "yes" } else { "no" }.to_owned()),
    ]);
    format!("{pairs}\nThe link creates one account. It is not shown again.\n")
}

fn invite_error(error: StoreError, email: &Email) -> CliError {
    match error {
        StoreError::AlreadyExists(_) => CliError::new(
            format!("{email} has an account already"),
            format!(
                "see `memgate user show {email}`; `memgate user reset-password {email}` sets a new password"
            ),
        ),
        StoreError::LimitReached(_) => CliError::new(
            "too many mails were sent lately, or too many links to that address are valid",
            "try again in an hour, or use --no-mail and send the link yourself",
        ),
        other => other.into(),
    }
}

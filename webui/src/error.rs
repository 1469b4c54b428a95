//! Why the web UI can't start. Errors that browsers see are in `http/reject.rs`.

use std::net::SocketAddr;

/// Startup error: what is wrong, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can't be bound.
    #[error(
        "can't listen on {address} ({source}): stop what uses it, or set webui.listen to another address"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// `webui.endpoint` is not `host:port`.
    #[error("webui.endpoint is `{0}`, which is not host:port: write it like `cache.example.com:11211`")]
    Endpoint(String),
    /// `webui.base_url` is not an origin.
    #[error(
        "webui.base_url is `{0}`: write it like `https://cache.example.com`, in lower case, with no path"
    )]
    BaseUrl(String),
    /// `webui.mail.server` is no address of a mail server. Not shown: it may hold a password.
    #[error(
        "webui.mail.server can't be used: write it like `smtps://user@smtp.example.org:465` or \
         `smtp://user@smtp.example.org:587`, with the password in webui.mail.password_file"
    )]
    MailServer,
    /// A user without a password, or the other way round.
    #[error(
        "webui.mail needs both a user in webui.mail.server and webui.mail.password or webui.mail.password_file, or neither: \
         set what is missing"
    )]
    MailLogin,
    /// `webui.mail.from` is missing or no address.
    #[error("webui.mail.from is missing or no address: write it like `memgate <noreply@example.org>`")]
    MailSender,
    /// Links in mails would lead nowhere.
    #[error("mails have links, which need an address: set webui.base_url to the one that browsers use")]
    MailBaseUrl,
    /// `webui.sign_up_domains` is empty or has something else.
    #[error("webui.sign_up is \"domains\": set webui.sign_up_domains to some, like [\"example.org\"]")]
    SignUpDomains,
    /// Addresses at these domains prove nothing.
    #[error(
        "webui.sign_up is \"domains\", and anybody can name such an address: set webui.confirm_email too"
    )]
    UnconfirmedDomains,
    /// Nothing can be confirmed.
    #[error("webui.confirm_email needs mail: set webui.mail.server")]
    ConfirmWithoutMail,
    /// A file that `webui.mail` names can't be used.
    #[error("{0}")]
    MailFile(String),
    /// TLS can't be set up.
    #[error("can't use TLS for mail ({0}): check webui.mail.server and webui.mail.ca_certificate")]
    MailTls(String),
    /// The file that `webui.webhooks.ca_certificate` names can't be used.
    #[error("{0}")]
    WebhookFile(String),
    /// TLS can't be set up.
    #[error("can't use TLS for webhooks ({0}): check webui.webhooks.ca_certificate")]
    WebhookTls(String),
    /// No password can be hashed, or no worker can be started.
    #[error("can't hash passwords ({0}): check that the system's random numbers work")]
    Passwords(String),
}

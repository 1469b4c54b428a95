//! The connection to the mail server, one for each mail.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use identity::escape_controls;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::{Category, Code, Severity};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use store::private_file;

use crate::Error;
use crate::config::{Mail, Security, ServerAddress};

/// Bytes that are read of a file with a password.
const PASSWORD_FILE_MAX: u64 = 1024;
/// Bytes that are read of CA certificates.
const CERTIFICATE_FILE_MAX: u64 = 1 << 20;
/// Time limit of a connection attempt, and of each reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit of a whole attempt.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Replies that are about the login, not about a mail (RFC 4954 6): needed, too weak, wrong, or without encryption.
const LOGIN_NEEDED: [u16; 4] = [530, 534, 535, 538];

/// Sends mail through the server that the settings name.
pub(super) struct Transport {
    smtp: AsyncSmtpTransport<Tokio1Executor>,
    sender: Mailbox,
}

/// Why a mail wasn't sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The server refuses connections: no other mail can be sent either.
    Unreachable(String),
    /// The server can't be used now, or fails at this mail.
    Server(String),
    /// The server doesn't take this mail now.
    Temporary(String),
    /// The server never takes this mail.
    Permanent(String),
}

impl fmt::Debug for Transport {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    /// `None` if no mail server is set.
    ///
    /// # Errors
    ///
    /// [`Error`] if a setting or a file can't be used.
    pub(super) fn new(config: &Mail) -> Result<Option<Self>, Error> {
        let Some(server) = &config.server else { return Ok(None) };
        let address = ServerAddress::parse(server).ok_or(Error::MailServer)?;
        let sender = config.sender().ok_or(Error::MailSender)?;
        let tls = match address.security {
            Security::Tls => Tls::Wrapper(tls(&address.host, config)?),
            Security::StartTls => Tls::Required(tls(&address.host, config)?),
            Security::Plain => Tls::None,
        };
        let hello = ClientId::Domain(sender.email.domain().to_owned());
        // Nothing is dangerous about this one: `tls` is always set.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&address.host)
            .port(address.port)
            .tls(tls)
            .hello_name(hello)
            .timeout(Some(REPLY_TIMEOUT));
        if let Some(user) = address.user {
            builder = builder.credentials(Credentials::new(user, password(config)?));
        }
        Ok(Some(Self { smtp: builder.build(), sender }))
    }

    pub(super) fn sender(&self) -> &Mailbox {
        &self.sender
    }

    /// Sends a mail.
    ///
    /// # Errors
    ///
    /// [`SendError`] if the server doesn't take it within a minute.
    pub(super) async fn send(&self, message: Message) -> Result<(), SendError> {
        match tokio::time::timeout(SEND_TIMEOUT, self.smtp.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let text = escape_controls(&error.to_string()).into_owned();
                Err(if is_refused(&error) {
                    SendError::Unreachable(text)
                } else {
                    SendError::new(error.status(), text)
                })
            }
            Err(_) => Err(SendError::Server(format!("no reply within {} s", SEND_TIMEOUT.as_secs()))),
        }
    }
}

impl SendError {
    /// The same, without an address in the server's words.
    pub(crate) fn without(self, address: &str) -> Self {
        let hide = |text: String| text.replace(address, "...");
        match self {
            Self::Unreachable(text) => Self::Unreachable(hide(text)),
            Self::Server(text) => Self::Server(hide(text)),
            Self::Temporary(text) => Self::Temporary(hide(text)),
            Self::Permanent(text) => Self::Permanent(hide(text)),
        }
    }

    /// By the code of the reply; none came if the connection failed.
    fn new(code: Option<Code>, text: String) -> Self {
        match code {
            Some(code) if LOGIN_NEEDED.contains(&u16::from(code)) => Self::Server(text),
            // Also 501 (bad address), 504 and 521 (the recipient's domain takes no mail): one recipient doesn't stop the others.
            Some(Code { severity: Severity::PermanentNegativeCompletion, .. }) => Self::Permanent(text),
            // About this mail, its recipient or its sender (RFC 5321 4.2.3).
            Some(Code { category: Category::MailSystem, .. }) => Self::Temporary(text),
            // Such as 421 (shutting down).
            _ => Self::Server(text),
        }
    }
}

/// Whether nothing listens at the server's address.
fn is_refused(error: &lettre::transport::smtp::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = cause.source();
    }
    false
}

fn tls(host: &str, config: &Mail) -> Result<TlsParameters, Error> {
    let failed = |error: lettre::transport::smtp::Error| Error::MailTls(error.to_string());
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(file) = &config.ca_certificate {
        builder = builder.certificate_store(CertificateStore::None);
        builder = builder.add_root_certificate(Certificate::from_pem(&read(file)?).map_err(failed)?);
    }
    builder.build_rustls().map_err(failed)
}

fn password(config: &Mail) -> Result<String, Error> {
    if let Some(password) = &config.password {
        return Ok(password.clone());
    }
    let file = config.password_file.as_deref().ok_or(Error::MailLogin)?;
    let bytes = private_file::read_secret(file, PASSWORD_FILE_MAX);
    let bytes = bytes.map_err(|error| Error::MailFile(format!("webui.mail.password_file: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::MailFile(format!(
            "webui.mail.password_file: {} is no text: write the password",
            file.display()
        ))
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(CERTIFICATE_FILE_MAX).read_to_end(&mut bytes));
    read.map_err(|error| {
        let file = file.display();
        Error::MailFile(format!(
            "webui.mail.ca_certificate: can't read {file} ({error}): name an existing file"
        ))
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::response::Detail;

    use super::*;

    #[test]
    fn replies_tell_whether_to_try_again() {
        use Category::{Connections, MailSystem, Syntax, Unspecified3};
        use Severity::{PermanentNegativeCompletion as Permanent, TransientNegativeCompletion as Transient};
        for (severity, category, detail, expected) in [
            (Permanent, MailSystem, Detail::Zero, SendError::Permanent("x".into())),
            (Permanent, Syntax, Detail::One, SendError::Permanent("x".into())),
            (Permanent, Syntax, Detail::Four, SendError::Permanent("x".into())),
            (Permanent, Connections, Detail::One, SendError::Permanent("x".into())),
            (Transient, MailSystem, Detail::Zero, SendError::Temporary("x".into())),
            (Transient, Connections, Detail::One, SendError::Server("x".into())),
            (Permanent, Unspecified3, Detail::Zero, SendError::Server("x".into())),
            (Permanent, Unspecified3, Detail::Five, SendError::Server("x".into())),
        ] {
            let code = Code { severity, category, detail };
            assert_eq!(SendError::new(Some(code), "x".into()), expected, "{code}");
        }
        assert_eq!(SendError::new(None, "x".into()), SendError::Server("x".into()));
        let told = SendError::Permanent("550 <a@example.org>: unknown".into()).without("a@example.org");
        assert_eq!(told, SendError::Permanent("550 <...>: unknown".into()));
    }
}

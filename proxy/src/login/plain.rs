//! SASL PLAIN by the `sasl` crate, after a strict check: the crate ignores the authorization identity and anything after a
//! third NUL, and accepts an empty user.

use std::cell::RefCell;
use std::rc::Rc;

use sasl::common::Identity;
use sasl::secret;
use sasl::server::mechanisms::Plain;
use sasl::server::{Mechanism, MechanismError, Response, Validator, ValidatorError};

use super::Credential;

/// RFC 4616 sets no limits; every token fits in these.
const IDENTITY_MAX: usize = 255;
const PASSWORD_MAX: usize = 1024;

/// PLAIN with strict parsing. Success means "well-formed": the secret is checked against the grant later.
pub(super) struct StrictPlain {
    inner: Plain<Collect>,
    found: Rc<RefCell<Option<Credential>>>,
}

/// Collects the credential that the mechanism parsed; a validator can't do I/O.
struct Collect(Rc<RefCell<Option<Credential>>>);

impl Default for StrictPlain {
    fn default() -> Self {
        let found = Rc::new(RefCell::new(None));
        Self { inner: Plain::new(Collect(found.clone())), found }
    }
}

impl StrictPlain {
    /// The credential of the last success.
    pub(super) fn into_credential(self) -> Option<Credential> {
        self.found.take()
    }
}

impl Mechanism for StrictPlain {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn respond(&mut self, message: &[u8]) -> Result<Response, MechanismError> {
        let mut fields = message.split(|byte| *byte == 0);
        let (Some(authzid), Some(authcid), Some(password), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(MechanismError::FailedToDecodeMessage);
        };
        let is_own_identity = authzid.is_empty() || authzid == authcid;
        let fits = (1..=IDENTITY_MAX).contains(&authcid.len()) && password.len() <= PASSWORD_MAX;
        if !is_own_identity || !fits {
            return Err(MechanismError::AuthenticationFailed);
        }
        self.inner.respond(message)
    }
}

impl Validator<secret::Plain> for Collect {
    fn validate(&self, identity: &Identity, value: &secret::Plain) -> Result<(), ValidatorError> {
        let Identity::Username(username) = identity else {
            return Err(ValidatorError::AuthenticationFailed);
        };
        let credential = Credential::from_pair(username.as_bytes(), value.0.as_bytes())
            .ok_or(ValidatorError::AuthenticationFailed)?;
        self.0.replace(Some(credential));
        Ok(())
    }
}

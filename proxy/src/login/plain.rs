//! SASL PLAIN on the `sasl` crate, behind a strict check: the crate's PLAIN ignores the authorization
//! identity and what follows a third NUL, and takes an empty user.

use std::cell::RefCell;
use std::rc::Rc;

use sasl::common::Identity;
use sasl::secret;
use sasl::server::mechanisms::Plain;
use sasl::server::{Mechanism, MechanismError, Response, Validator, ValidatorError};

use super::Credential;

/// RFC 4616 gives no limits; these hold every token.
const IDENTITY_MAX: usize = 255;
const PASSWORD_MAX: usize = 1024;

/// PLAIN as we accept it. Its success means "well-formed": the secret is checked against the grant.
pub(super) struct StrictPlain {
    inner: Plain<Collect>,
    found: Rc<RefCell<Option<Credential>>>,
}

/// Takes the pair that the mechanism has read; no I/O can happen inside a validator.
struct Collect(Rc<RefCell<Option<Credential>>>);

impl Default for StrictPlain {
    fn default() -> Self {
        let found = Rc::new(RefCell::new(None));
        Self { inner: Plain::new(Collect(found.clone())), found }
    }
}

impl StrictPlain {
    /// What the last success was about.
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
        let own = authzid.is_empty() || authzid == authcid;
        let lengths = (1..=IDENTITY_MAX).contains(&authcid.len()) && password.len() <= PASSWORD_MAX;
        if !own || !lengths {
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

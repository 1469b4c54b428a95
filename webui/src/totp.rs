//! Codes of second factors: one-time passwords by time (RFC 6238), recovery codes, and what a user's device reads.

use qrcode::QrCode;
use qrcode::render::svg;
use rand::RngExt as _;
use store::{CodeProof, StoreError, Timestamp};
use totp_rs::{Builder, Secret, Totp};

use crate::state::AppState;

/// Recovery codes of a user.
const RECOVERY_CODES: usize = 10;
/// Characters of a recovery code without its dash: 32^10 = 2^50.
const RECOVERY_CODE_LEN: usize = 10;
/// Without those that look alike.
const RECOVERY_CHARACTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Bytes of a code that somebody enters.
const ENTERED_MAX: usize = 64;
/// Pixels of a module of the QR code.
const MODULE_SIZE: u32 = 6;
/// What devices show beside a code.
const ISSUER: &str = "memgate";

/// The secret of a user's second factor. No `Debug`: that would print it.
pub(crate) struct CodeSecret([u8; 20]);

impl CodeSecret {
    pub(crate) fn new(app: &AppState, user_id: &str, seed: &str) -> Self {
        Self(app.token_key.second_factor_secret(user_id, seed))
    }

    /// The time step that a code belongs to: the current one, the one before or the one after, since clocks differ.
    pub(crate) fn step(&self, code: &str, at: Timestamp) -> Option<i64> {
        let seconds = u64::try_from(at.as_millis() / 1000).ok()?;
        self.totp().check(code, seconds).and_then(|step| i64::try_from(step).ok())
    }

    /// As people type it: in groups of four.
    pub(crate) fn text(&self) -> String {
        let text = self.base32();
        let groups: Vec<&str> =
            text.as_bytes().chunks(4).filter_map(|it| std::str::from_utf8(it).ok()).collect();
        groups.join(" ")
    }

    /// A picture of the address that devices read; `None` if it doesn't fit.
    pub(crate) fn qr_code(&self, email: &str) -> Option<String> {
        let code = QrCode::new(self.address(email)).ok()?;
        Some(code.render::<svg::Color<'_>>().module_dimensions(MODULE_SIZE, MODULE_SIZE).build())
    }

    /// `otpauth://totp/...`, as authenticator apps read it.
    fn address(&self, email: &str) -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._@".contains(&b);
        let escape = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
        let email: String = email.bytes().map(escape).collect();
        format!("otpauth://totp/{ISSUER}:{email}?secret={}&issuer={ISSUER}", self.base32())
    }

    fn base32(&self) -> String {
        Secret::from(self.0.as_slice()).to_base32()
    }

    fn totp(&self) -> Totp {
        // Six digits, 30 seconds, one step before and after.
        Builder::new().with_secret(Secret::from(self.0.as_slice())).build_noncompliant()
    }
}

/// New recovery codes, to show once.
pub(crate) fn new_recovery_codes() -> Vec<String> {
    let mut rng = rand::rng();
    let mut character = || char::from(RECOVERY_CHARACTERS[rng.random_range(0..RECOVERY_CHARACTERS.len())]);
    let mut half = || (0..RECOVERY_CODE_LEN / 2).map(|_| character()).collect::<String>();
    (0..RECOVERY_CODES).map(|_| format!("{}-{}", half(), half())).collect()
}

/// What the store keeps of recovery codes.
pub(crate) fn hashes(app: &AppState, user_id: &str, codes: &[String]) -> Vec<String> {
    codes
        .iter()
        .filter_map(|code| Some(app.token_key.recovery_code_hash(user_id, &recovery_code(code)?)))
        .collect()
}

/// Whether somebody has a user's second factor: uses the code up, of a device or a recovery code.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn verify(
    app: &AppState,
    user_id: &str,
    entered: &str,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let factor = app.store.second_factor(user_id).await?.filter(|factor| factor.confirmed_at.is_some());
    let Some(factor) = factor else { return Ok(false) };
    if entered.len() > ENTERED_MAX {
        return Ok(false);
    }
    let digits: String = entered.chars().filter(|c| !c.is_whitespace()).collect();
    let used = if let Some(step) = CodeSecret::new(app, user_id, &factor.seed).step(&digits, at) {
        app.store.acting_as_user(user_id).use_code(user_id, CodeProof::Step(step)).await
    } else if let Some(code) = recovery_code(entered) {
        let hash = app.token_key.recovery_code_hash(user_id, &code);
        app.store.acting_as_user(user_id).use_code(user_id, CodeProof::RecoveryCode(&hash)).await
    } else {
        return Ok(false);
    };
    match used {
        Ok(()) => Ok(true),
        Err(StoreError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a recovery code was entered, which may be wrong, and not a code of a device.
pub(crate) fn is_recovery_code(entered: &str) -> bool {
    entered.len() <= ENTERED_MAX && recovery_code(entered).is_some()
}

/// A recovery code in the form in which it is hashed; `None` if it can't be one.
fn recovery_code(entered: &str) -> Option<String> {
    let code: String =
        entered.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>().to_ascii_lowercase();
    let is_code = code.len() == RECOVERY_CODE_LEN && code.bytes().all(|b| RECOVERY_CHARACTERS.contains(&b));
    is_code.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The test vectors of RFC 6238, appendix B, for SHA-1, of which six digits are used.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = CodeSecret(*b"12345678901234567890");
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
            let step = Some(seconds / 30);
            assert_eq!(secret.step(code, at(seconds)), step);
            assert_eq!(secret.step(code, at(seconds + 30)), step, "one step later");
            assert_eq!(secret.step(code, at(seconds + 60)), None);
            assert_eq!(secret.step(code, at(seconds - 60)), None);
        }
        for bad in ["", "28708", "2870822", "28708a", "２87082"] {
            assert_eq!(secret.step(bad, Timestamp::from_millis(59_000)), None, "{bad}");
        }
        assert_eq!(secret.text(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
        let address = secret.address("a+b@example.org");
        assert!(address.starts_with("otpauth://totp/memgate:a%2Bb@example.org?secret=GEZDGNBV"), "{address}");
        let image = secret.qr_code(&format!("{}@{}", "x".repeat(64), "y".repeat(180))).unwrap();
        assert!(image.starts_with("<?xml") && image.contains("<svg"));
    }

    #[test]
    fn recovery_codes_are_read_as_people_write_them() {
        let codes = new_recovery_codes();
        assert_eq!(codes.len(), RECOVERY_CODES);
        for code in &codes {
            assert_eq!(code.len(), 11);
            let plain = recovery_code(code).unwrap();
            assert_eq!(recovery_code(&format!(" {} ", code.to_uppercase().replace('-', " "))), Some(plain));
        }
        for bad in ["", "123456", "aaaaa-aaaa", "aaaaa-aaaaaa", "aaaaa-aaaa1", "aaaaa-aaaaé"] {
            assert_eq!(recovery_code(bad), None, "{bad}");
        }
    }
}

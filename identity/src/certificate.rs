//! Client certificates for tokens.
//!
//! The proxy identifies a certificate by its fingerprint alone, so any key may sign it: its own key, or one
//! that is thrown away after signing. This module stores nothing.

use std::fmt;
use std::time::Duration;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose,
};
use store::{Fingerprint, Timestamp, TokenId, now};
use time::OffsetDateTime;

/// Validity of a certificate whose token doesn't expire earlier: a year.
const VALIDITY_MAX: Duration = Duration::from_hours(365 * 24);
/// How far `not_before` lies in the past, for clients and proxies whose clocks differ.
const CLOCK_SKEW: Duration = Duration::from_hours(24);

/// A new client certificate. It works once the store knows its fingerprint.
pub struct IssuedCertificate {
    /// PEM.
    pub certificate: String,
    /// Private key in PEM; `None` if the certificate was issued for a certificate request.
    pub key: Option<String>,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: Fingerprint,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Hides the private key.
impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCertificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request can't be parsed, or its key isn't supported.
    #[error(
        "invalid certificate request: make one in PEM with a new key (RSA with at least 2048 bits, P-256, P-384 or Ed25519)"
    )]
    InvalidRequest(#[source] rcgen::Error),
    /// Signing failed.
    #[error("failed to make a certificate: report this")]
    Failed(#[from] rcgen::Error),
}

impl IssuedCertificate {
    /// Issues a certificate for a token, valid for a year or until `expires_at`. With a certificate request
    /// (PEM) the certificate is for its key, and nothing else of the request is used; without one it is for
    /// a new key.
    ///
    /// # Errors
    ///
    /// [`IssueError`] if the request is invalid or signing fails.
    pub fn new(
        token: TokenId,
        expires_at: Option<Timestamp>,
        request: Option<&str>,
    ) -> Result<Self, IssueError> {
        let latest = now().saturating_add(VALIDITY_MAX);
        let not_after = expires_at.map_or(latest, |expires_at| expires_at.min(latest));
        let params = params(&token.username(), not_after)?;
        let signer = KeyPair::generate()?;
        let (certificate, key) = match request {
            None => (params.self_signed(&signer)?, Some(signer.serialize_pem())),
            Some(pem) => {
                let mut request = CertificateSigningRequestParams::from_pem(pem.trim())
                    .map_err(IssueError::InvalidRequest)?;
                request.params = params;
                let issuer = Issuer::new(self::params("memgate", not_after)?, signer);
                (request.signed_by(&issuer)?, None)
            }
        };
        let fingerprint = Fingerprint::of(certificate.der());
        Ok(Self { certificate: certificate.pem(), key, fingerprint, not_after })
    }
}

fn params(common_name: &str, not_after: Timestamp) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time(now().saturating_sub(CLOCK_SKEW));
    params.not_after = date_time(not_after);
    Ok(params)
}

fn date_time(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_millis() / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use store::Token;

    use super::*;

    #[test]
    fn without_a_request_a_key_is_generated() {
        let issued = IssuedCertificate::new(Token::generate().id(), None, None).unwrap();
        assert!(issued.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(KeyPair::from_pem(issued.key.as_ref().unwrap()).is_ok());
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_request_keeps_its_key_and_each_certificate_differs() {
        let id = Token::generate().id();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::new(["x".to_owned()]).unwrap().serialize_request(&key).unwrap();
            let request = format!("\r\n {}", request.pem().unwrap());
            let one = IssuedCertificate::new(id, None, Some(&request)).unwrap();
            let other = IssuedCertificate::new(id, None, Some(&request)).unwrap();
            assert!(one.key.is_none() && one.fingerprint != other.fingerprint);
        }
    }

    #[test]
    fn validity_ends_with_the_token_or_after_a_year() {
        let id = Token::generate().id();
        let soon = now().saturating_add(Duration::from_mins(1));
        assert_eq!(IssuedCertificate::new(id, Some(soon), None).unwrap().not_after, soon);
        let year = IssuedCertificate::new(id, Some(Timestamp::MAX), None).unwrap().not_after.since(now());
        assert!((VALIDITY_MAX - Duration::from_mins(1)..=VALIDITY_MAX).contains(&year), "{year:?}");
    }

    #[test]
    fn invalid_requests_are_rejected() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem();
        for text in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"]
            .into_iter()
            .chain([certificate.as_str(), &key.serialize_pem()])
        {
            let error = IssuedCertificate::new(Token::generate().id(), None, Some(text)).unwrap_err();
            assert!(matches!(error, IssueError::InvalidRequest(_)), "{error:?}");
        }
    }
}

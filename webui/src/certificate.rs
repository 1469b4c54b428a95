//! Client certificates for tokens, for the pages here and for the command line. The proxy knows them by their
//! fingerprint alone, so any key may sign them: their own, or one that is thrown away. Nothing is kept here.

use std::fmt;

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose,
};
use store::{Fingerprint, Millis, TokenId, now};
use time::OffsetDateTime;

/// How long one is good, if its token is.
const LIFETIME: Millis = 365 * 24 * 60 * 60 * 1000;
/// Clocks differ.
const EARLIER: Millis = 24 * 60 * 60 * 1000;

/// A certificate that nobody knows of yet: the store has to be told first, its owner second.
pub struct Issued {
    /// In PEM.
    pub certificate: String,
    /// Its private key in PEM, if it was made here.
    pub key: Option<String>,
    /// What the store knows it by.
    pub fingerprint: Fingerprint,
    /// From then on it lets nobody in.
    pub not_after: Millis,
}

/// The key isn't for logs.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// What was given as a request isn't one.
    #[error(
        "that is no certificate request: make one in PEM with a new key (RSA from 2048 bits on, P-256, P-384 or Ed25519)"
    )]
    Request(#[source] rcgen::Error),
    /// The library doesn't make one.
    #[error("can't make a certificate: report this")]
    Failed(#[from] rcgen::Error),
}

impl Issued {
    /// For a token that ends then, if ever, and for the key of a request in PEM, of which nothing else counts;
    /// without one for a key that is made here.
    pub fn new(
        token: TokenId,
        expires_at: Option<Millis>,
        request: Option<&str>,
    ) -> Result<Self, IssueError> {
        let longest = now().saturating_add(LIFETIME);
        let not_after = expires_at.map_or(longest, |end| end.min(longest));
        let params = params(&token.username(), not_after)?;
        let signer = KeyPair::generate()?;
        let (certificate, key) = match request {
            None => (params.self_signed(&signer)?, Some(signer.serialize_pem())),
            Some(text) => {
                let mut request =
                    CertificateSigningRequestParams::from_pem(text.trim()).map_err(IssueError::Request)?;
                request.params = params;
                let issuer = Issuer::new(self::params("memgate", not_after)?, signer);
                (request.signed_by(&issuer)?, None)
            }
        };
        let fingerprint = Fingerprint::of(certificate.der());
        Ok(Self { certificate: certificate.pem(), key, fingerprint, not_after })
    }
}

fn params(name: &str, not_after: Millis) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date(now().saturating_sub(EARLIER));
    params.not_after = date(not_after);
    Ok(params)
}

fn date(at: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use store::Token;

    use super::*;

    #[test]
    fn with_a_key_of_ours_or_of_theirs() {
        let id = Token::generate().id();
        let made = Issued::new(id, None, None).unwrap();
        assert!(made.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(KeyPair::from_pem(made.key.as_ref().unwrap()).is_ok());
        assert!(!format!("{made:?}").contains("PRIVATE"));
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateParams::new(["x".to_owned()]).unwrap().serialize_request(&key).unwrap();
            let request = format!("\r\n {}", request.pem().unwrap());
            let one = Issued::new(id, None, Some(&request)).unwrap();
            let other = Issued::new(id, None, Some(&request)).unwrap();
            assert!(one.key.is_none() && one.fingerprint != other.fingerprint);
        }
    }

    #[test]
    fn it_ends_with_its_token_or_in_a_year() {
        let id = Token::generate().id();
        let soon = now() + 60_000;
        assert_eq!(Issued::new(id, Some(soon), None).unwrap().not_after, soon);
        let year = Issued::new(id, Some(Millis::MAX), None).unwrap().not_after - now();
        assert!((LIFETIME - 60_000..=LIFETIME).contains(&year), "{year}");
    }

    #[test]
    fn what_is_no_request_is_told() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem();
        for text in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"]
            .into_iter()
            .chain([certificate.as_str(), &key.serialize_pem()])
        {
            let error = Issued::new(Token::generate().id(), None, Some(text)).unwrap_err();
            assert!(matches!(error, IssueError::Request(_)), "{error:?}");
        }
    }
}

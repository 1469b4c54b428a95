//! Which token a client certificate was issued for: looked up once, like a grant, and again when it is revoked. Whether the
//! token is active is up to its grant.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use store::{Fingerprint, StoreError, Timestamp, TokenId};
use tokio::time::timeout;

use super::{Grants, STALENESS_MAX, STORE_TIMEOUT, Unavailable, Verdict};
use crate::client_certificate::ClientCertificate;
use crate::login::outcome::LoginOutcome;

/// Certificates of ours in memory, and fingerprints known not to be ours.
const KNOWN_MAX: usize = 100_000;
const UNKNOWN_MAX: usize = 10_000;
/// A look-up is repeated if something changed meanwhile.
const LOOKUPS_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Certificates {
    known: DashMap<Fingerprint, CertificateBinding>,
    unknown: DashMap<Fingerprint, ()>,
}

#[cfg(test)]
impl Certificates {
    /// As when they have made room for others.
    pub(super) fn forget_all(&self) {
        evict(&self.known, 0);
    }
}

/// The token that a certificate was issued for, and when the certificate expires.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CertificateBinding {
    pub(crate) token: TokenId,
    pub(crate) not_after: Timestamp,
}

impl Grants {
    /// Takes note of a certificate that was issued or revoked just now. Returns whether connections that it has authenticated must
    /// end.
    ///
    /// # Errors
    /// If it must be read again, and can't be.
    pub(super) async fn renew_certificate(&self, fingerprint: &Fingerprint) -> Result<bool, StoreError> {
        let Certificates { known, unknown } = &self.certificates;
        unknown.remove(fingerprint);
        if !known.contains_key(fingerprint) {
            // One that was known may have made room for others, and has connections still. One that was issued has none yet.
            return Ok(true);
        }
        let read = timeout(STORE_TIMEOUT, self.store.token_of_certificate(fingerprint)).await;
        match read.map_err(|_| StoreError::Timeout)? {
            Ok(Some((token, not_after))) => {
                known.insert(*fingerprint, CertificateBinding { token, not_after });
                Ok(not_after <= self.now())
            }
            Ok(None) | Err(StoreError::Corrupt(_)) => {
                known.remove(fingerprint);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a certificate that has authenticated a connection hasn't been revoked meanwhile.
    pub(crate) fn is_current(&self, certificate: &ClientCertificate) -> bool {
        let binding = self.certificates.known.get(&certificate.fingerprint);
        binding.is_some_and(|binding| self.now() < binding.not_after)
    }

    /// Checks a certificate whose private key the client at `source` has proved to hold. Returns its binding too if we
    /// issued it.
    pub(crate) async fn check_certificate(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        source: IpAddr,
    ) -> (Option<CertificateBinding>, Verdict) {
        match self.binding(fingerprint, source).await {
            Ok(Some(binding)) => (Some(binding), self.check_binding(binding, source).await),
            Ok(None) => (None, Verdict::Denied(LoginOutcome::Unknown)),
            Err(Unavailable) => (None, Verdict::Unavailable),
        }
    }

    async fn check_binding(self: &Arc<Self>, binding: CertificateBinding, source: IpAddr) -> Verdict {
        let grant = match self.find(binding.token, source).await {
            Ok(Some(grant)) => grant,
            Ok(None) => return Verdict::Denied(LoginOutcome::Unknown),
            Err(Unavailable) => return Verdict::Unavailable,
        };
        match self.deny_reason(&grant, source) {
            Some(outcome) => Verdict::Denied(outcome),
            None if binding.not_after <= self.now() => Verdict::Denied(LoginOutcome::CertificateEnded),
            None => Verdict::Granted(grant),
        }
    }

    async fn binding(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        source: IpAddr,
    ) -> Result<Option<CertificateBinding>, Unavailable> {
        if self.staleness() > STALENESS_MAX {
            return Err(Unavailable);
        }
        if let Some(binding) = self.certificates.known.get(&fingerprint) {
            return Ok(Some(*binding.value()));
        }
        if self.certificates.unknown.contains_key(&fingerprint) {
            return Ok(None);
        }
        let this = self.clone();
        let turn = self.lookups.turn(source).await?;
        self.run_lookup(turn, async move { this.look_up_certificate(fingerprint).await }).await
    }

    async fn look_up_certificate(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<CertificateBinding>, Unavailable> {
        let Certificates { known, unknown } = &self.certificates;
        for _ in 0..LOOKUPS_MAX {
            let read_at = self.position.load(Ordering::Acquire);
            let found = timeout(STORE_TIMEOUT, self.store.token_of_certificate(&fingerprint)).await;
            let found = found.map_err(|_| Unavailable)?.map_err(|error| {
                tracing::warn!(%error, "failed to look up a certificate");
                Unavailable
            })?;
            // As with tokens, the entry's lock orders this against the follower.
            let Some((token, not_after)) = found else {
                evict(unknown, UNKNOWN_MAX);
                let entry = unknown.entry(fingerprint);
                if self.position.load(Ordering::Acquire) == read_at {
                    entry.insert(());
                }
                return Ok(None);
            };
            evict(known, KNOWN_MAX);
            let entry = known.entry(fingerprint);
            if self.position.load(Ordering::Acquire) == read_at {
                let binding = CertificateBinding { token, not_after };
                entry.insert(binding);
                return Ok(Some(binding));
            }
        }
        Err(Unavailable)
    }
}

fn evict<T>(map: &DashMap<Fingerprint, T>, max: usize) {
    if map.len() >= max {
        map.clear();
    }
}

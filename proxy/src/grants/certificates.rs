//! Which token a client certificate logs in with: looked up once, like a grant. Certificates never change
//! hands, so one that is known stays right; whether its token is still good is for the grant to say.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use store::{Fingerprint, Millis, TokenId};
use tokio::time::timeout;

use super::{GRACE, Grants, PATIENCE, Unavailable, Verdict};
use crate::login::outcome::LoginOutcome;

/// Certificates that are remembered, and others that are known to be nobody's.
const KNOWN_MAX: usize = 100_000;
const NOBODYS_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Certificates {
    known: DashMap<Fingerprint, CertificateBinding>,
    nobodys: DashMap<Fingerprint, ()>,
}

/// A certificate of ours: whose it is, and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CertificateBinding {
    pub(crate) token: TokenId,
    pub(crate) not_after: Millis,
}

impl Certificates {
    /// Was issued just now: what was known of it isn't so any more.
    pub(super) fn forget(&self, fingerprint: &Fingerprint) {
        self.nobodys.remove(fingerprint);
    }
}

impl Grants {
    /// Checks a certificate whose key the caller, who is at `source`, has shown to hold; says what it is, too,
    /// if it is one of ours.
    pub(crate) async fn check_certificate(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        source: IpAddr,
    ) -> (Option<CertificateBinding>, Verdict) {
        match self.issued(fingerprint).await {
            Ok(Some(issued)) => (Some(issued), self.check_issued(issued, source).await),
            Ok(None) => (None, Verdict::Refused(LoginOutcome::Unknown)),
            Err(Unavailable) => (None, Verdict::Unavailable),
        }
    }

    async fn check_issued(self: &Arc<Self>, issued: CertificateBinding, source: IpAddr) -> Verdict {
        let grant = match self.find(issued.token).await {
            Ok(Some(grant)) => grant,
            Ok(None) => return Verdict::Refused(LoginOutcome::Unknown),
            Err(Unavailable) => return Verdict::Unavailable,
        };
        if issued.not_after <= self.now() {
            return Verdict::Refused(LoginOutcome::Expired);
        }
        match self.objection(&grant, source) {
            Some(outcome) => Verdict::Refused(outcome),
            None => Verdict::Granted(grant),
        }
    }

    async fn issued(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
    ) -> Result<Option<CertificateBinding>, Unavailable> {
        if self.silent_for() > GRACE {
            return Err(Unavailable);
        }
        if let Some(issued) = self.certificates.known.get(&fingerprint) {
            return Ok(Some(*issued.value()));
        }
        if self.certificates.nobodys.contains_key(&fingerprint) {
            return Ok(None);
        }
        let this = self.clone();
        self.when_there_is_room(async move { this.look_up_certificate(fingerprint).await }).await
    }

    async fn look_up_certificate(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<CertificateBinding>, Unavailable> {
        let read_at = self.position.load(Ordering::Acquire);
        let found = timeout(PATIENCE, self.store.token_of_certificate(&fingerprint)).await;
        let found = found.map_err(|_| Unavailable)?.map_err(|error| {
            tracing::warn!(%error, "a certificate can't be looked up");
            Unavailable
        })?;
        let Certificates { known, nobodys } = &self.certificates;
        let Some((token, not_after)) = found else {
            make_room(nobodys, NOBODYS_MAX);
            // As with tokens, the entry's lock orders this against `forget`.
            let entry = nobodys.entry(fingerprint);
            if self.position.load(Ordering::Acquire) == read_at {
                entry.insert(());
            }
            return Ok(None);
        };
        let issued = CertificateBinding { token, not_after };
        make_room(known, KNOWN_MAX);
        known.insert(fingerprint, issued);
        Ok(Some(issued))
    }
}

fn make_room<T>(map: &DashMap<Fingerprint, T>, most: usize) {
    if map.len() >= most {
        map.clear();
    }
}

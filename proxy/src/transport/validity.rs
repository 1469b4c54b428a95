//! From when to when a certificate is valid, and what that means for a new one and for the operator.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;

/// The operator is warned when the certificate ends within this time.
const WARN_BEFORE_END: Duration = Duration::from_hours(14 * 24);
const DAY: Duration = Duration::from_hours(24);

/// A certificate's validity: seconds since 1970, and the same for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validity {
    begin: i64,
    end: i64,
    begin_text: String,
    end_text: String,
}

/// What the operator should know of the certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outlook {
    Good,
    /// It ends soon.
    Ending(String),
    /// Clients refuse it.
    Invalid(String),
}

impl Validity {
    /// Of a certificate that rustls has accepted; `None` if it can't be parsed.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let (begin, end) = (parsed.validity().not_before, parsed.validity().not_after);
        Some(Self {
            begin: begin.timestamp(),
            end: end.timestamp(),
            begin_text: begin.to_string(),
            end_text: end.to_string(),
        })
    }

    /// When it ends: seconds since 1970.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// When it begins, if that is after `now`.
    pub(super) fn begins_after(&self, now: i64) -> Option<i64> {
        (self.begin > now).then_some(self.begin)
    }

    /// Why clients refuse the certificate at `now`, if they do.
    pub(super) fn refusal(&self, now: i64) -> Option<String> {
        if now < self.begin {
            return Some(format!("it is not valid before {}", self.begin_text));
        }
        (now > self.end).then(|| format!("it expired on {}", self.end_text))
    }

    pub(super) fn outlook(&self, now: i64) -> Outlook {
        if let Some(refusal) = self.refusal(now) {
            return Outlook::Invalid(refusal);
        }
        let left = Duration::from_secs(u64::try_from(self.end.saturating_sub(now)).unwrap_or(0));
        if left > WARN_BEFORE_END {
            return Outlook::Good;
        }
        let days = left.as_secs() / DAY.as_secs();
        Outlook::Ending(match days {
            0 => format!("it ends today, on {}", self.end_text),
            1 => format!("it ends in 1 day, on {}", self.end_text),
            days => format!("it ends in {days} days, on {}", self.end_text),
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    // F-31.
    #[test]
    fn end_is_announced_14_days_ahead() {
        let validity = Validity { begin: 1000, end: 100 * DAY, begin_text: "B".into(), end_text: "E".into() };
        assert_eq!(validity.refusal(999).as_deref(), Some("it is not valid before B"));
        assert_eq!(validity.outlook(999), Outlook::Invalid("it is not valid before B".into()));
        assert_eq!(validity.outlook(1000), Outlook::Good);
        assert_eq!(validity.outlook(86 * DAY - 1), Outlook::Good);
        assert_eq!(validity.outlook(86 * DAY), Outlook::Ending("it ends in 14 days, on E".into()));
        assert_eq!(validity.outlook(99 * DAY), Outlook::Ending("it ends in 1 day, on E".into()));
        assert_eq!(validity.outlook(100 * DAY), Outlook::Ending("it ends today, on E".into()));
        assert_eq!(validity.outlook(100 * DAY + 1), Outlook::Invalid("it expired on E".into()));
    }
}

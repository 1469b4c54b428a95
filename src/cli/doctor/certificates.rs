//! Checks of the certificate that clients see: how long it is valid, and whether it has the endpoint's name.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use store::{Timestamp, now};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::report::Report;
use crate::ca;
use crate::data_dir::DataDir;
use crate::output::time;
use crate::settings::Settings;

/// Bytes that are read of a certificate file.
const FILE_LENGTH_MAX: u64 = 1 << 20;
const DAY_MILLIS: i64 = 24 * 3_600_000;
/// Days before its end, from which on there is a warning: more than a renewal by hand takes.
const DAYS_WARNING: i64 = 14;

/// What a check needs of a certificate.
pub(super) struct Certificate {
    /// Names and addresses that it is for.
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Checks those of this installation.
pub(super) fn check(settings: &Settings, data_dir: &DataDir, report: &mut Report) {
    let own = ca::is_needed(settings);
    let server = match &settings.proxy.tls_certificate {
        Some(file) => file.clone(),
        None => data_dir.path().join(ca::SERVER),
    };
    let renewal = if own { "start `memgate up`, which renews it" } else { "renew it" };
    if let Some(certificate) = read("certificate", &server, own, report) {
        certificate.check_validity("certificate", renewal, report);
        let host = settings.webui.endpoint.rsplit_once(':').map_or("", |(host, _)| host);
        if !certificate.is_for(host) {
            let names = certificate.names.join(", ");
            report.warning(
                "certificate",
                format!("webui.endpoint names {host}, and the certificate is for {names}"),
                "set webui.endpoint to a name that is in the certificate, or get one for that name",
            );
        }
    }
    let authority = data_dir.path().join(ca::CA);
    if own && let Some(certificate) = read("authority", &authority, own, report) {
        let renewal = "move ca.pem and ca.key away, start `memgate up`, and let clients trust the new ca.pem";
        certificate.check_validity("authority", renewal, report);
    }
}

/// Reads the first certificate of a file. One that `memgate up` makes may be missing.
fn read(check: &'static str, file: &Path, is_own: bool, report: &mut Report) -> Option<Certificate> {
    let shown = file.display();
    let mut bytes = Vec::new();
    match File::open(file).and_then(|file| file.take(FILE_LENGTH_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if is_own && error.kind() == std::io::ErrorKind::NotFound => {
            report.warning(check, format!("there is no {shown} yet"), "start `memgate up`, which makes it");
            return None;
        }
        Err(error) => {
            report.problem(
                check,
                format!("can't read {shown} ({error})"),
                "run this as root, and check the path",
            );
            return None;
        }
    }
    let parsed = parse_x509_pem(&bytes).ok().and_then(|(_, pem)| Certificate::parse(&pem.contents));
    if parsed.is_none() {
        report.problem(check, format!("{shown} contains no certificate"), "write it in PEM");
    }
    parsed
}

impl Certificate {
    /// `None` if it is malformed.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let extension = certificate.subject_alternative_name().ok()?;
        let names = extension.map_or_else(Vec::new, |extension| {
            extension.value.general_names.iter().filter_map(name).collect()
        });
        let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        let validity = certificate.validity();
        let (not_before, not_after) =
            (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        Some(Self { names, not_before, not_after })
    }

    pub(super) fn check_validity(&self, check: &'static str, renewal: &str, report: &mut Report) {
        let days = (self.not_after.as_millis() - now().as_millis()).div_euclid(DAY_MILLIS);
        if self.not_before > now() {
            let from = time::utc(self.not_before);
            report.problem(check, format!("it is valid from {from} on"), "check this machine's clock");
        } else if days < 0 {
            report.problem(check, format!("it expired on {}", time::utc(self.not_after)), renewal);
        } else if days < DAYS_WARNING {
            report.warning(check, format!("it expires in {days} days"), renewal);
        } else {
            report.ok(check, format!("it is valid for {days} more days"));
        }
    }

    /// Whether it has a name, or a wildcard for it.
    fn is_for(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let matches = |name: &String| {
            name.eq_ignore_ascii_case(host)
                || wildcard.as_ref().is_some_and(|it| it.eq_ignore_ascii_case(name))
        };
        self.names.iter().any(matches)
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ::time::{Duration, OffsetDateTime};

    use super::*;

    fn certificate(days: i64) -> Certificate {
        let names = ["cache.example.org", "*.wild.example.org", "10.0.0.1"].map(str::to_owned);
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = OffsetDateTime::now_utc() - Duration::days(100);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days) + Duration::hours(1);
        let key = rcgen::KeyPair::generate().unwrap();
        Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn end_of_a_certificate_is_told_in_time() {
        for (days, text, problems) in
            [(30, "valid for 30 more days", 0), (5, "expires in 5 days", 0), (-2, "it expired on", 1)]
        {
            let mut report = Report::default();
            certificate(days).check_validity("certificate", "renew it", &mut report);
            assert!(report.text().contains(text) && report.problems() == problems, "{}", report.text());
        }
    }

    #[test]
    fn names_of_a_certificate_are_compared_as_clients_do() {
        let certificate = certificate(30);
        for (host, is_for) in [
            ("cache.example.org", true),
            ("CACHE.example.org", true),
            ("a.wild.example.org", true),
            ("a.b.wild.example.org", false),
            ("wild.example.org", false),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("", false),
        ] {
            assert_eq!(certificate.is_for(host), is_for, "{host}");
        }
    }
}

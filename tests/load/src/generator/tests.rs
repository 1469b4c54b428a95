//! The whole generator against a minimal memcached with faults.

use std::io::Write as _;

use clap::Parser;

use super::*;
use crate::fake_memcached::{self, Fault};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    workload: Workload,
}

/// A short workload, limited in time and count.
fn workload(target: std::net::SocketAddr, options: &str) -> Workload {
    let line = format!("load --target {target} --keys 50 --warm-up 0 --seconds 5 --count 2000 {options}");
    Line::try_parse_from(line.split_whitespace()).unwrap().workload
}

fn credentials() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "lane secret").unwrap();
    file
}

#[test]
fn every_kind_of_run_succeeds() {
    for options in [
        "--protocol text",
        "--protocol meta --connections 5 --pipeline 16",
        "--protocol binary --connections 5 --pipeline 16",
        "--protocol text --value 65536 --connections 3 --pipeline 4 --count 300",
        "--protocol text --multiget 10 --connections 2",
        "--protocol text --rate 20000 --connections 4",
        "--churn --connections 4 --count 100",
    ] {
        let workload = workload(fake_memcached::start(Fault::None, None), options);
        let outcome = run(&workload).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert!(outcome.ops >= workload.count && outcome.p50_us <= outcome.p999_us, "{options}: {outcome:?}");
        assert_eq!(outcome.sets > 0, !workload.churn, "{options}");
    }
}

#[test]
fn every_login_form_succeeds() {
    let file = credentials();
    let path = file.path().display();
    for options in ["--login text", "--login sasl --protocol binary", "--login text --churn --count 50"] {
        let workload = workload(
            fake_memcached::start(Fault::None, Some("lane secret")),
            &format!("{options} --credentials {path} --connections 3"),
        );
        run(&workload).unwrap_or_else(|error| panic!("{options}: {error}"));
    }
    let refused = workload(
        fake_memcached::start(Fault::None, Some("other")),
        &format!("--login text --credentials {path}"),
    );
    assert!(run(&refused).is_err_and(|error| error.to_string().contains("authentication failure")));
}

#[test]
fn any_error_makes_the_run_invalid() {
    for (fault, words) in [
        (Fault::OtherKey, "expected "),
        (Fault::Miss, "END"),
        (Fault::Duplicate, "an unexpected reply"),
        (Fault::Close, ""),
    ] {
        for protocol in ["text", "meta"] {
            let target = fake_memcached::start(fault, None);
            let error = run(&workload(target, &format!("--protocol {protocol} --sets 0"))).err();
            // A meta miss gives no reply here: only the timeout would notice.
            let noticed = error.as_ref().is_some_and(|error| error.to_string().contains(words));
            assert!(
                noticed || (fault == Fault::Miss && protocol == "meta"),
                "{fault:?} {protocol}: {error:?}"
            );
            if fault == Fault::Miss {
                break;
            }
        }
    }
}

#[test]
fn arguments_are_limited_and_targets_are_local() {
    let here = "127.0.0.1:1".parse().unwrap();
    for options in ["--connections 0", "--pipeline 5000", "--value 29", "--rate 0.1", "--warm-up 9000"] {
        assert!(workload(here, options).check().is_err(), "{options}");
    }
    assert!(workload(here, "--protocol meta --multiget 2").check().is_err());
    assert!(workload("192.0.2.1:11211".parse().unwrap(), "").check().is_err());
    assert!(workload(here, "").check().is_ok());
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let options = "--rate 2000 --connections 3 --pipeline 8 --seconds 0.5 --count 100000";
    let outcome = run(&workload(fake_memcached::start(Fault::None, None), options)).unwrap();
    assert!((1_500.0..=2_100.0).contains(&outcome.ops_per_s), "{outcome:?}");
}

//! The whole generator against a tiny memcached that may lie.

use std::io::Write as _;

use clap::Parser;

use super::*;
use crate::fake::{self, Lie};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    plan: Plan,
}

/// Short, and bounded in time and count.
fn plan(target: std::net::SocketAddr, options: &str) -> Plan {
    let line = format!("load --target {target} --keys 50 --warm-up 0 --seconds 5 --count 2000 {options}");
    Line::try_parse_from(line.split_whitespace()).unwrap().plan
}

fn credentials() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "lane secret").unwrap();
    file
}

#[test]
fn every_kind_of_run() {
    for options in [
        "--protocol text",
        "--protocol meta --connections 5 --pipeline 16",
        "--protocol binary --connections 5 --pipeline 16",
        "--protocol text --value 65536 --connections 3 --pipeline 4 --count 300",
        "--protocol text --multiget 10 --connections 2",
        "--protocol text --rate 20000 --connections 4",
        "--churn --connections 4 --count 100",
    ] {
        let plan = plan(fake::start(Lie::Nothing, None), options);
        let outcome = run(&plan).unwrap_or_else(|failure| panic!("{options}: {failure}"));
        assert!(outcome.ops >= plan.count && outcome.p50_us <= outcome.p999_us, "{options}: {outcome:?}");
        assert_eq!(outcome.sets > 0, !plan.churn, "{options}");
    }
}

#[test]
fn every_login() {
    let file = credentials();
    let path = file.path().display();
    for options in ["--login text", "--login sasl --protocol binary", "--login text --churn --count 50"] {
        let plan = plan(
            fake::start(Lie::Nothing, Some("lane secret")),
            &format!("{options} --credentials {path} --connections 3"),
        );
        run(&plan).unwrap_or_else(|failure| panic!("{options}: {failure}"));
    }
    let refused =
        plan(fake::start(Lie::Nothing, Some("other")), &format!("--login text --credentials {path}"));
    assert!(run(&refused).is_err_and(|failure| failure.to_string().contains("authentication failure")));
}

//
#[test]
fn any_error_voids_the_run() {
    for (lie, words) in [
        (Lie::OtherKey, "not "),
        (Lie::Miss, "END"),
        (Lie::Twice, "a reply that nobody asked for"),
        (Lie::Close, ""),
    ] {
        for protocol in ["text", "meta"] {
            let target = fake::start(lie, None);
            let failure = run(&plan(target, &format!("--protocol {protocol} --sets 0"))).err();
            // A meta miss is silent here: only the clock would tell.
            let told = failure.as_ref().is_some_and(|failure| failure.to_string().contains(words));
            assert!(told || (lie == Lie::Miss && protocol == "meta"), "{lie:?} {protocol}: {failure:?}");
            if lie == Lie::Miss {
                break;
            }
        }
    }
}

#[test]
fn nothing_is_unbounded_and_nothing_leaves_the_machine() {
    let here = "127.0.0.1:1".parse().unwrap();
    for options in ["--connections 0", "--pipeline 5000", "--value 29", "--rate 0.1", "--warm-up 9000"] {
        assert!(plan(here, options).check().is_err(), "{options}");
    }
    assert!(plan(here, "--protocol meta --multiget 2").check().is_err());
    assert!(plan("192.0.2.1:11211".parse().unwrap(), "").check().is_err());
    assert!(plan(here, "").check().is_ok());
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let options = "--rate 2000 --connections 3 --pipeline 8 --seconds 0.5 --count 100000";
    let outcome = run(&plan(fake::start(Lie::Nothing, None), options)).unwrap();
    assert!((1_500.0..=2_100.0).contains(&outcome.ops_per_s), "{outcome:?}");
}

//! The registered series, in both text formats.

use prometheus_client::encoding::text::encode;

use super::*;

fn encoded(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

#[test]
fn every_value_of_a_label_is_shown_from_the_start() {
    let mut registry = Registry::default();
    let logins = CounterBy::register(&mut registry, "logins", "Logins", "outcome", ["success", "failure"]);
    let lanes = GaugeBy::register(&mut registry, "lanes", "Lanes", "kind", ["shared"]);
    logins.inc("success");
    lanes.of("shared").inc();
    let text = encoded(&registry);
    for line in ["logins_total{outcome=\"success\"} 1", "logins_total{outcome=\"failure\"} 0"] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    assert!(text.contains("lanes{kind=\"shared\"} 1\n"), "{text}");
}

#[tokio::test]
async fn calls_that_fail_or_are_given_up_are_errors() {
    let mut registry = Registry::default();
    let store = CallMetrics::register(registry.sub_registry_with_prefix("store"), &["read"]);
    store.observe("read", async { Ok::<_, ()>(()) }).await.unwrap();
    store.observe("read", async { Err::<(), _>(()) }).await.unwrap_err();
    drop(store.begin("read"));
    let text = encoded(&registry);
    for line in [
        "store_call_errors_total{operation=\"read\"} 2",
        "store_call_duration_seconds_count{operation=\"read\"} 3",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in {text}");
    }
    assert!(!text.contains("store_last_success_timestamp_seconds{operation=\"read\"} 0.0"), "{text}");
}

#[test]
fn process_and_build_are_described() {
    let mut registry = Registry::default();
    register_process(&mut registry);
    let text = encoded(&registry);
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<f64>().unwrap()
    };
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_threads") >= 1.0);
    assert!(seconds_since_1970() - value("process_start_time_seconds") < 60.0);
    assert!(
        text.contains(concat!("memgate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"")),
        "{text}"
    );
}

#[test]
fn help_of_the_older_format_belongs_to_the_series() {
    let text = "# HELP a_b Bees.\n# TYPE a_b counter\na_b_total{x=\"# HELP\"} 1\n# HELP c_seconds Time.\n\
                # TYPE c_seconds histogram\n# UNIT c_seconds seconds\nc_seconds_count 0\n# EOF\n";
    let classic = "# HELP a_b_total Bees.\n# TYPE a_b_total counter\na_b_total{x=\"# HELP\"} 1\n\
                   # HELP c_seconds Time.\n# TYPE c_seconds histogram\nc_seconds_count 0\n";
    assert_eq!(super::text::to_classic(text), classic);
    let type_for = |accept: &str| super::encode(&[&Registry::default()], accept).unwrap().content_type;
    assert!(type_for("*/*").starts_with("text/plain"));
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert!(type_for(accept).starts_with("application/openmetrics-text"));
}

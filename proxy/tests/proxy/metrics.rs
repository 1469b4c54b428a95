//! The proxy's metrics: in the formats that Prometheus reads, and right.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use testkit::{Memcached, TestProxy, check_metrics, text};

const REPORT_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const MISS: &str = "END\r\n";

/// The value of a series.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
}

/// Waits until `count` requests are counted, and returns the metrics.
fn wait_for_requests(proxy: &TestProxy, count: f64) -> String {
    let deadline = Instant::now() + REPORT_TIMEOUT;
    loop {
        let metrics = proxy.metrics();
        let counted = value(&metrics, "memgate_proxy_request_duration_seconds_count{protocol=\"text\"}");
        if counted >= count {
            assert!(counted - count < 0.5, "{counted} of {count}");
            return metrics;
        }
        assert!(Instant::now() < deadline, "{counted} of {count}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The bounds of the buckets of the histogram that hold something.
fn buckets(metrics: &str) -> Vec<(f64, f64)> {
    let (mut found, mut lower, mut before) = (Vec::new(), 0.0, 0.0);
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("memgate_proxy_request_duration_seconds_bucket{le=\"") else {
            continue;
        };
        let Some((bound, count)) = rest.split_once("\",protocol=\"text\"} ") else { continue };
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        let count: f64 = count.parse().unwrap();
        if count > before {
            found.push((lower, bound));
        }
        (lower, before) = (bound, count);
    }
    found
}

#[test]
fn requests_that_come_with_the_login_are_as_fast_as_others() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let _memcached = Memcached::start(&proxy, &token, "10.214.7.68");
    // The clock of the cache's tenant begins with its first session.
    let _first = proxy.log_in(&token);
    std::thread::sleep(Duration::from_millis(1_500));
    let begun = Instant::now();
    let mut stream = proxy.connect();
    stream.write_all((text::login(&token) + "get a\r\n").as_bytes()).unwrap();
    let mut reply = vec![0; 8 + MISS.len()];
    stream.read_exact(&mut reply).unwrap();
    let elapsed = begun.elapsed().as_secs_f64();
    let metrics = wait_for_requests(&proxy, 1.0);
    assert!(
        value(&metrics, "memgate_proxy_request_duration_seconds_sum{protocol=\"text\"}") <= elapsed,
        "{elapsed}: {metrics}"
    );
}

#[test]
fn histogram_of_a_known_load_is_right_and_all_formats_parse() {
    const CLIENTS: usize = 20;
    const LATENCY: Duration = Duration::from_millis(700);
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let memcached = Memcached::start(&proxy, &token, "10.214.7.69");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.log_in(&token)).collect();
    let exchange = |stream: &mut std::net::TcpStream| {
        let mut reply = vec![0; MISS.len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(String::from_utf8(reply).unwrap(), MISS);
    };
    for client in &mut clients {
        client.write_all(b"get a\r\n").unwrap();
        exchange(client);
    }
    let quick = CLIENTS as f64;
    let before = wait_for_requests(&proxy, quick);
    memcached.freeze();
    let begun = Instant::now();
    clients.iter_mut().for_each(|client| client.write_all(b"get a\r\n").unwrap());
    let all_sent = begun.elapsed();
    std::thread::sleep(LATENCY.saturating_sub(all_sent));
    memcached.thaw();
    clients.iter_mut().for_each(exchange);
    let longest = begun.elapsed();
    let metrics = wait_for_requests(&proxy, 2.0 * quick);
    let sum = |metrics| value(metrics, "memgate_proxy_request_duration_seconds_sum{protocol=\"text\"}");
    // A request's latency begins when the proxy reads it, which a busy machine delays.
    let (least, most) = ((LATENCY - all_sent).as_secs_f64() - 0.1, longest.as_secs_f64());
    let mean = (sum(&metrics) - sum(&before)) / quick;
    assert!((least..=most).contains(&mean), "{mean}: not within {least} and {most}");
    // Each one in the bucket of its latency.
    let slow: Vec<_> = buckets(&metrics).into_iter().filter(|(_, upper)| *upper > 0.3).collect();
    assert!(
        !slow.is_empty() && slow.iter().all(|(lower, upper)| *lower <= most && *upper >= least),
        "{slow:?}"
    );
    assert!((value(&metrics, "memgate_proxy_active_caches") - 1.0).abs() < 0.5);
    assert!(value(&metrics, "memgate_proxy_lanes{kind=\"shared\"}") >= 1.0);
    assert!(value(&metrics, "memgate_proxy_connections_limit") >= quick);
    assert!(
        value(&metrics, "memgate_proxy_store_last_success_timestamp_seconds{operation=\"write_heartbeat\"}")
            > 1e9
    );
    assert!(
        value(&metrics, "memgate_proxy_feed_read_revision")
            >= value(&metrics, "memgate_proxy_feed_applied_revision")
    );
    check_metrics(proxy.config.health);
}

// P-1, P-2.
#[test]
fn errors_are_counted_by_cause() {
    let proxy = TestProxy::start();
    let token = proxy.sign_up("ann@example.com");
    let mut memcached = Memcached::start(&proxy, &token, "10.214.7.70");
    let mut stream = proxy.log_in(&token);
    let mut ask = |expected: &str| {
        stream.write_all(b"get a\r\n").unwrap();
        let mut reply = vec![0; expected.len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(String::from_utf8(reply).unwrap(), expected);
    };
    ask(MISS);
    memcached.freeze();
    ask("SERVER_ERROR backend timed out\r\n");
    memcached.thaw();
    memcached.kill();
    ask("SERVER_ERROR backend unavailable\r\n");
    let metrics = wait_for_requests(&proxy, 3.0);
    for cause in ["timed_out", "unavailable"] {
        let series = format!("memgate_proxy_request_errors_total{{protocol=\"text\",cause=\"{cause}\"}}");
        assert!((value(&metrics, &series) - 1.0).abs() < 0.5, "{series} in {metrics}");
    }
}

//! A cache's metrics: right, in both formats, and all that a key for them may read.

use store::{
    ApiScope, InstanceStatistics, StatisticsCounters, StatisticsGauges, StatisticsSample, Usage, UsageBatch,
    UsageReport, UsageReporterId, now,
};

use super::keys::operations;
use super::{require_problem, start};
use crate::harness::Site;

const PATH: &str = "/caches/{cache}/metrics";
const OPEN_METRICS: (&str, &str) = ("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");

/// Numbers of a proxy and of memcached, each of which shows where it came from.
async fn record(site: &Site, cache: &str) {
    let instance = site.store.instance_of_cache(cache).await.unwrap().unwrap();
    let usage = Usage {
        hits: 70,
        misses: 30,
        stores: 5,
        errors: 2,
        bytes_in: 1_000,
        bytes_out: 9_000,
        ..Usage::default()
    };
    let report = UsageReport {
        instance_id: instance.id.clone(),
        hour: now(),
        usage,
        latency: vec![(128, 90), (2_048, 15)],
        connections: 3,
        peak_connections: 4,
    };
    let batch = UsageBatch {
        reporter: UsageReporterId::new(),
        number: 1,
        proxy: "p:1".to_owned(),
        reports: vec![report],
    };
    site.store.add_usage(&batch, now()).await.unwrap();
    let newest = InstanceStatistics {
        instance_id: instance.id,
        gauges: StatisticsGauges {
            bytes: 4_096,
            limit_bytes: 64 << 20,
            items: 17,
            ..StatisticsGauges::default()
        },
        counters: StatisticsCounters { evictions: 8, ..StatisticsCounters::default() },
        uptime_seconds: 60,
        sampled_at: now(),
        ..InstanceStatistics::default()
    };
    site.store.record_statistics(&[StatisticsSample::new(newest, None)]).await.unwrap();
}

#[tokio::test]
async fn metrics_are_what_the_store_knows() {
    let (site, client) = start().await;
    let before = client.get(PATH).await;
    assert_eq!(
        (before.status, before.header("content-type")),
        (200, Some("text/plain; version=0.0.4; charset=utf-8"))
    );
    assert!(before.body.contains("memgate_cache_operations_total{kind=\"hit\"} 0\n"), "{}", before.body);
    assert!(!before.body.contains("memgate_cache_items"), "memcached has said nothing yet: {}", before.body);

    record(&site, &client.cache).await;
    let text = client.get(PATH).await.body;
    for line in [
        "memgate_cache_description_info{cache=\"default\",plan=\"default\",state=\"pending\"} 1",
        "memgate_cache_up 0",
        "memgate_cache_operations_total{kind=\"hit\"} 70",
        "memgate_cache_operations_total{kind=\"miss\"} 30",
        "memgate_cache_operations_total{kind=\"delete\"} 0",
        "memgate_cache_errors_total 2",
        "memgate_cache_traffic_bytes_total{direction=\"out\"} 9000",
        "memgate_cache_request_duration_seconds_bucket{le=\"0.000128\"} 90",
        "memgate_cache_request_duration_seconds_bucket{le=\"0.002048\"} 105",
        "memgate_cache_request_duration_seconds_bucket{le=\"+Inf\"} 105",
        "memgate_cache_request_duration_seconds_count 105",
        "memgate_cache_connections 3",
        "memgate_cache_memory_bytes 4096",
        "memgate_cache_memory_limit_bytes 67108864",
        "memgate_cache_items 17",
        "memgate_cache_evictions_total 8",
        "# TYPE memgate_cache_evictions_total counter",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in {text}");
    }
    let open = client.send("GET", PATH, &[OPEN_METRICS], "").await;
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE memgate_cache_evictions counter\n"));
}

// W-24: also if somebody reads it in a monitoring system's configuration.
#[tokio::test]
async fn key_for_metrics_does_nothing_else() {
    let (site, client) = start().await;
    let narrow = client.with_scopes(&site, [ApiScope::Metrics].into_iter().collect()).await;
    let shown = narrow.get(PATH).await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    for secret in ["ann@example.com", &*client.token, &*client.user_id] {
        assert!(!shown.body.contains(secret), "{secret} in {}", shown.body);
    }
    let mut refused = 0;
    for (method, path, scope) in operations(&client).await {
        let path = path
            .replace("{operation}", &"a".repeat(24))
            .replace("{connection}", "1-1@none")
            .replace("{webhook}", &"a".repeat(24))
            .replace("{delivery}", &"a".repeat(24))
            .replace("{fingerprint}", &"a".repeat(64));
        if !["", "metrics"].contains(&&*scope) {
            let answer = narrow.send(&method, &path, &[("Content-Type", "application/json")], "{}").await;
            require_problem(&answer, 403, "missing_scope");
            refused += 1;
        }
    }
    assert!(refused > 30, "{refused}");
}

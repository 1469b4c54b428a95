//! The usage tab: days are sums of the hours in the store, and the file has these hours.

use std::time::Duration;

use store::{
    MemoryChanges, NewCache, Plan, ReservedMemory, Store, Timestamp, Usage, UsageBatch, UsageReport,
    UsageReporterId, UsageSpan, now,
};

use crate::cache_events::Events;
use crate::harness::{Response, Site, eventually};
use crate::overview::{Recorder, rows};

const EMAIL: &str = "ann@example.com";
const HOUR: Duration = Duration::from_hours(1);
const ALWAYS: UsageSpan = UsageSpan { from: Timestamp::EPOCH, to: Timestamp::MAX };

async fn report(store: &Store, instance_id: &str, at: Timestamp, usage: Usage, peak_connections: i64) {
    let report = UsageReport {
        instance_id: instance_id.to_owned(),
        hour: at,
        usage,
        latency: Vec::new(),
        connections: 0,
        peak_connections,
    };
    let (reporter, proxy) = (UsageReporterId::new(), "p:1".to_owned());
    store.add_usage(&UsageBatch { reporter, number: 1, proxy, reports: vec![report] }, at).await.unwrap();
}

/// Meters 64 MB from `hours` ago until now.
async fn meter(store: &Store, instance_id: &str, hours: u32) {
    let ago = |hours: u32| now().hour().saturating_sub(HOUR * hours);
    let reserved = ReservedMemory { instance_id: instance_id.to_owned(), memory_mb: 64, since: ago(hours) };
    let begun = MemoryChanges { begun: vec![reserved], ..MemoryChanges::default() };
    store.meter_memory(ago(hours), &begun).await.unwrap();
    // No call meters more than two weeks.
    for hours in (0..hours).rev().filter(|hours| hours % 240 == 0) {
        store.meter_memory(ago(hours), &MemoryChanges::default()).await.unwrap();
    }
}

/// A body that was sent in chunks.
fn dechunked(response: &Response) -> String {
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let (mut text, mut rest) = (String::new(), response.body.as_str());
    while let Some((size, chunk)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return text;
        }
        text.push_str(&chunk[..size]);
        rest = &chunk[size + 2..];
    }
    panic!("the body was cut off");
}

#[tokio::test]
async fn days_are_sums_of_hours() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let page = ann.get("/caches/{cache}/usage").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("id=\"no-usage\"") && page.body.contains("id=\"usage-csv\""));

    let instance = Recorder::new(&site, EMAIL).await.instance;
    let usage = Usage {
        hits: 1_000,
        misses: 200,
        stores: 30,
        deletes: 4,
        arithmetic: 5,
        touches: 6,
        others: 7,
        errors: 8,
        bytes_in: 1 << 20,
        bytes_out: 3 << 20,
    };
    let day_ago = now().hour().saturating_sub(HOUR * 24);
    for (hours, peak) in [(0, 3), (1, 9), (24 * 40, 50)] {
        report(&site.store, &instance, day_ago.saturating_sub(HOUR * hours), usage, peak).await;
    }
    let page = ann.get("/caches/{cache}/usage").await;
    // What was 41 days ago isn't on the page.
    for (id, value) in [
        ("total-operations", "2,504"),
        ("total-in", "2.0 MB"),
        ("total-out", "6.0 MB"),
        ("total-connections", "9"),
        ("total-memory", "0.00"),
    ] {
        assert_eq!(page.text(id), Some(value), "{id}");
    }
    assert!(page.body.contains("16 of them answered with an error"));
    let operations: i64 =
        rows(&page, "operations").iter().map(|row| row[1].replace(',', "").parse::<i64>().unwrap()).sum();
    assert_eq!(operations, 2_504);
    let days = page.body.split("id=\"days\"").nth(1).unwrap();
    let days = days.split("</table>").next().unwrap().matches("<th scope=\"row\">").count();
    assert_eq!(days, rows(&page, "operations").len());

    meter(&site.store, &instance, 48).await;
    let hours = site.store.usage_hours(ALWAYS, Some(&instance), None).await.unwrap();
    let seconds: i64 = hours.iter().map(|it| it.memory_mb_seconds).sum();
    assert_eq!(seconds, 64 * 48 * 3_600);
    let page = ann.get("/caches/{cache}/usage").await;
    assert_eq!(page.text("total-memory"), Some("3.00"), "64 MB for 48 hours");
}

//
#[tokio::test]
async fn the_file_has_all_hours_of_the_cache_and_no_other() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    site.sign_up_user("bob@example.com").await;
    let empty = ann.get("/caches/{cache}/usage.csv").await;
    let header = "hour,cache,plan,memory_mb_seconds,hits,misses,stores,deletes,arithmetic,touches,others,errors,\
                  bytes_in,bytes_out,peak_connections\r\n";
    assert_eq!(dechunked(&empty), header);
    let [anns, bobs] = [Recorder::new(&site, EMAIL).await, Recorder::new(&site, "bob@example.com").await];
    meter(&site.store, &anns.instance, 1_200).await;
    let usage = Usage { hits: 12_345, ..Usage::default() };
    report(&site.store, &bobs.instance, now(), usage, 1).await;
    let file = ann.get("/caches/{cache}/usage.csv").await;
    assert_eq!(file.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(
        file.header("content-disposition"),
        Some("attachment; filename=\"memgate-usage-default.csv\"")
    );
    let text = dechunked(&file);
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        (lines.len(), lines.last()),
        (1_202, Some(&"")),
        "a header and 1,200 hours, on more than a page"
    );
    assert!(!text.contains("12345"), "hours of others");
    let row = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    assert!(lines[1..1_201].iter().all(|line| row(line)[1] == "default" && row(line)[3] == "230400"));
    assert!(lines[1..1_201].is_sorted() && lines[1].contains(":00:00Z,"));
}

// a file is read while it is sent, which a slow client may draw out.
#[tokio::test]
async fn files_are_limited() {
    let site = Site::start_with(|config| config.limits.pages_per_minute = 100_000).await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(Events::open(&ann).await);
    }
    let refused = ann.get("/caches/{cache}/usage.csv").await;
    assert_eq!((refused.status, site.limited("streams_session")), (429, 1));
    drop(open);
    eventually("a place is given back", || {
        let mut ann = ann.clone();
        async move { ann.get("/caches/{cache}/usage.csv").await.status == 200 }
    })
    .await;
    for _ in 1..10 {
        assert_eq!(ann.get("/caches/{cache}/usage.csv").await.status, 200);
    }
    assert_eq!(ann.get("/caches/{cache}/usage.csv").await.status, 429);
    assert_eq!(site.limited("downloads"), 1);
}

//
#[tokio::test]
async fn no_name_in_the_file_is_a_formula() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let user = site.store.user_by_email(EMAIL).await.unwrap().unwrap();
    let name = "=1+1,\"<b>\"";
    let plan = site.store.plans().await.unwrap().into_iter().next().unwrap();
    site.store.create_plan(&Plan { name: name.to_owned(), ..plan }).await.unwrap();
    let cache_name = "other".parse().unwrap();
    let cache = NewCache { user_id: &user.id, name: &cache_name, plan: Some(name) };
    let cache = site.store.create_cache(&cache, 9).await.unwrap();
    let instance = site.store.instance_of_cache(&cache.id).await.unwrap().unwrap();
    report(&site.store, &instance.id, now(), Usage { hits: 5, ..Usage::default() }, 1).await;
    let file = dechunked(&ann.get(&format!("/caches/{}/usage.csv", cache.id)).await);
    assert!(file.contains(",other,\"'=1+1,\"\"<b>\"\"\",0,5,0,"), "{file}");
    let page = ann.get(&format!("/caches/{}/usage", cache.id)).await;
    assert!(page.body.contains("=1+1") && !page.body.contains("<b>"), "{}", page.body);
}

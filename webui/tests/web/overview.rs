//! Overview of a cache: its figures are those of the store, and it says what is wrong.

use std::time::Duration;

use store::{
    DenialCause, DenialRecord, EventAction, EventCause, Fingerprint, InstanceState, InstanceStatistics,
    NewInstanceEvent, NewToken, SlabClass, StatisticsCounters, StatisticsGauges, StatisticsSample, Timestamp,
    TokenId, TokenKey, TokenUse, Usage, UsageBatch, UsageReport, UsageReporterId, now,
};

use crate::harness::{Response, Site, Visitor};

const EMAIL: &str = "ann@example.com";
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Plays the sampler and a proxy of one cache.
pub(crate) struct Recorder<'a> {
    site: &'a Site,
    pub(crate) instance: String,
    before: Option<InstanceStatistics>,
    samples: i64,
    /// What samples are counted back from, so that they are whole seconds apart.
    began_at: Timestamp,
}

impl<'a> Recorder<'a> {
    pub(crate) async fn new(site: &'a Site, email: &str) -> Self {
        let user = site.store.user_by_email(email).await.unwrap().unwrap();
        let instance = site.store.first_instance_of(&user.id).await.unwrap().unwrap().id;
        Self { site, instance, before: None, samples: 0, began_at: now() }
    }

    /// Each sample counts 90 hits, 10 misses, 20 stores, 3 evictions, 10 KB received and 30 KB sent more than the one before.
    fn sample(&mut self, seconds_ago: u64) -> InstanceStatistics {
        self.samples += 1;
        let count = self.samples;
        let counters = StatisticsCounters {
            hits: 90 * count,
            misses: 10 * count,
            sets: 20 * count,
            evictions: 3 * count,
            evicted_unfetched: count,
            bytes_read: 10_240 * count,
            bytes_written: 30_720 * count,
            ..StatisticsCounters::default()
        };
        let gauges = StatisticsGauges {
            bytes: 12 << 20,
            limit_bytes: 64 << 20,
            items: 1_234,
            connections: 2,
            container_bytes: 0,
        };
        InstanceStatistics {
            instance_id: self.instance.clone(),
            gauges,
            counters,
            uptime_seconds: i64::try_from(100 * DAY - seconds_ago).unwrap(),
            sampled_at: self.began_at.saturating_sub(Duration::from_secs(seconds_ago)),
            slab_text: String::new(),
        }
    }

    pub(crate) async fn record(&mut self, seconds_ago: u64) {
        let sample = self.sample(seconds_ago);
        self.record_sample(sample).await;
    }

    /// An hour of a busy cache, for pictures.
    pub(crate) async fn record_busy_hour(&mut self) {
        let mut total = StatisticsCounters::default();
        for step in 0..120 {
            let wave = (step % 40 - 20i64).abs();
            total.hits += 20_000 + 900 * wave;
            total.misses += 1_500 + 60 * (step % 17);
            total.sets += 1_400 + 70 * (step % 13);
            total.evictions += (step - 70).max(0) * 3;
            total.bytes_read += 4_000_000 + 100_000 * wave;
            total.bytes_written += 9_000_000 + 300_000 * wave;
            let mut sample = self.sample(u64::try_from((119 - step) * 30).unwrap());
            sample.counters = total;
            sample.gauges.bytes = (20 << 20) + step.min(70) * (600 << 10);
            sample.gauges.items = 50_000 + step * 113;
            self.record_sample(sample).await;
        }
        let hour = Usage { hits: 2_500_000, misses: 190_000, stores: 160_000, ..Usage::default() };
        let hour = Usage { deletes: 900, bytes_in: 500 << 20, bytes_out: 1_200 << 20, ..hour };
        self.report(hour, vec![(128, 5_000), (256, 4_900), (2_048, 90), (16_384, 10)], 41).await;
    }

    async fn record_sample(&mut self, newest: InstanceStatistics) {
        let sample = StatisticsSample::new(newest.clone(), self.before.as_ref());
        self.site.store.record_statistics(&[sample]).await.unwrap();
        self.before = Some(newest);
    }

    async fn report(&self, usage: Usage, latency: Vec<(i64, i64)>, connections: i64) {
        let report = UsageReport {
            instance_id: self.instance.clone(),
            hour: now(),
            usage,
            latency,
            connections,
            peak_connections: connections,
        };
        let (reporter, proxy) = (UsageReporterId::new(), "p:1".to_owned());
        let batch = UsageBatch { reporter, number: 1, proxy, reports: vec![report] };
        self.site.store.add_usage(&batch, now()).await.unwrap();
    }

    async fn happened(&self, cause: EventCause, action: EventAction, contents_lost: bool, at: Timestamp) {
        let (instance_id, detail) = (self.instance.clone(), "exit code 137".to_owned());
        let event = NewInstanceEvent { instance_id, cause, action, contents_lost, detail, at };
        self.site.store.add_instance_events(&[event]).await.unwrap();
    }
}

/// The rows of the table of a chart: its cells, with tags taken away.
pub(crate) fn rows(page: &Response, chart: &str) -> Vec<Vec<String>> {
    let Some((_, rest)) = page.body.split_once(&format!("id=\"chart-{chart}\"")) else { return Vec::new() };
    let chart = rest.split("</figure>").next().unwrap();
    let Some((_, body)) = chart.split_once("<tbody>") else { return Vec::new() };
    let cells = |row: &str| {
        let cells = row.split(['<', '>']).skip(2).step_by(4);
        cells.map(str::to_owned).collect()
    };
    body.split("<tr>").skip(1).map(|row| cells(row.split("</tr>").next().unwrap())).collect()
}

/// The ids of the notices.
fn notices(page: &Response) -> Vec<&str> {
    page.body.split("data-notice=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// The text of a notice, with its link.
fn notice<'a>(page: &'a Response, id: &str) -> &'a str {
    let (_, rest) =
        page.body.split_once(&format!("data-notice=\"{id}\"")).unwrap_or_else(|| panic!("no {id}"));
    rest.split("</p>").next().unwrap()
}

fn detail<'a>(page: &'a Response, id: &str) -> &'a str {
    let (_, rest) = page.body.split_once(&format!("id=\"{id}-detail\"")).unwrap();
    rest.split("<span>").nth(1).unwrap().split('<').next().unwrap()
}

async fn running() -> (Site, Visitor) {
    let site = Site::start().await;
    let (ann, _) = site.sign_up_user(EMAIL).await;
    site.set_state(EMAIL, InstanceState::Running).await;
    (site, ann)
}

#[tokio::test]
async fn figures_are_those_of_the_store() {
    let (site, mut ann) = running().await;
    let mut recorder = Recorder::new(&site, EMAIL).await;
    for seconds_ago in [30, 20, 10, 0] {
        recorder.record(seconds_ago).await;
    }
    let usage = Usage { hits: 270, misses: 30, stores: 60, deletes: 5, errors: 1, ..Usage::default() };
    recorder.report(usage, vec![(128, 500), (1_024, 490), (4_096, 9), (2_000_000, 1)], 7).await;
    for path in ["/caches/{cache}", "/caches/{cache}/figures"] {
        let page = ann.get(path).await;
        for (id, value, of) in [
            ("memory-used", "12.0 MB", "of 64 MB"),
            ("hit-rate", "90.0 %", "of 300 reads in the last hour"),
            ("operations", "12.0", "in the last minute; 365 since the cache was created"),
            ("items", "1,234", ""),
            ("evictions", "9", "in the last hour, 3 of items that nobody had read"),
            ("connections", "7", "of 20,000"),
            ("network", "1.0 KB/s", "out 3.0 KB/s, in the last minute"),
        ] {
            assert_eq!(page.text(id), Some(value), "{path} {id}");
            assert_eq!(detail(&page, id), of, "{path} {id}");
        }
        assert_eq!(page.text("latency"), Some("under 128 µs"));
        assert!(detail(&page, "latency").starts_with("p99 under 1.0 ms, p99.9 under 4.0 ms; since "));
        assert!(page.body.contains("<meter min=\"0\" max=\"67108864\" value=\"12582912\""));
        assert_eq!(notices(&page), [""; 0], "{path}");
        assert!(!page.body.contains("id=\"unused\""), "{path}");
    }
    let page = ann.get("/caches/{cache}").await;
    let sum = |chart: &str| rows(&page, chart).iter().map(|row| row[1].parse::<i64>().unwrap()).sum::<i64>();
    assert_eq!(sum("evictions"), 9);
    let of_last = |chart: &str| rows(&page, chart).last().unwrap()[1..].to_vec();
    assert_eq!(of_last("memory"), ["12.0 MB", "64.0 MB"]);
    assert_eq!(of_last("operations"), ["9.0", "1.0", "2.0"]);
    assert_eq!(of_last("network"), ["1.0 KB/s", "3.0 KB/s"]);
    assert_eq!(of_last("hit-rate"), ["90.0 %"]);
}

#[tokio::test]
async fn ranges_show_what_was_recorded_in_them() {
    let (site, mut ann) = running().await;
    let mut recorder = Recorder::new(&site, EMAIL).await;
    for seconds_ago in [40 * DAY, 20 * DAY, 3 * DAY, 2 * HOUR, 600, 10] {
        recorder.record(seconds_ago).await;
    }
    // Each sample within the range has three evictions.
    for (range, evictions, points) in [("hour", 6, 2), ("day", 9, 3), ("week", 12, 3), ("month", 15, 3)] {
        let page = ann.get(&format!("/caches/{{cache}}?range={range}")).await;
        let rows = rows(&page, "evictions");
        let sum: i64 = rows.iter().map(|row| row[1].parse::<i64>().unwrap()).sum();
        assert_eq!(sum, evictions, "{range}: {rows:?}");
        assert!((points - 1..=points + 1).contains(&rows.len()), "{range}: {rows:?}");
        assert!(page.body.contains(&format!("?range={range}#charts\" aria-current=\"true\"")), "{range}");
        assert_eq!(page.body.matches("<svg viewBox=\"0 0 1000 1000\"").count(), 5, "{range}");
    }
    for range in ["range=%22%3E%3Cscript%3E", "range=%ff", "range=day&range=week"] {
        let unknown = ann.get(&format!("/caches/{{cache}}?{range}")).await;
        assert_eq!(unknown.status, 200, "{range}");
        assert!(unknown.body.contains("?range=hour#charts\" aria-current=\"true\""), "{range}");
        assert!(!unknown.body.contains("<script>"), "{range}");
    }
}

#[tokio::test]
async fn states_have_words_of_their_own() {
    let site = Site::start().await;
    let (mut ann, _) = site.sign_up_user(EMAIL).await;
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page), ["pending"]);
    assert!(
        page.body.contains("id=\"unused\"") && !page.body.contains("id=\"charts\""),
        "it says how to begin"
    );
    for id in ["memory-used", "hit-rate", "operations", "items", "network", "latency"] {
        assert_eq!(page.text(id), Some("–"), "{id}");
    }
    site.set_state(EMAIL, InstanceState::Running).await;
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page), [""; 0]);
    let unused = page.body.split("id=\"unused\"").nth(1).unwrap().split("</section>").next().unwrap();
    for tab in ["tokens", "connect", "denials"] {
        assert!(unused.contains(&ann.path(&format!("/caches/{{cache}}/{tab}"))), "{tab}");
    }

    let mut recorder = Recorder::new(&site, EMAIL).await;
    for seconds_ago in [2 * HOUR + 60, 2 * HOUR] {
        recorder.record(seconds_ago).await;
    }
    recorder.report(Usage { hits: 90, ..Usage::default() }, Vec::new(), 0).await;
    for (state, notice_id) in [
        (InstanceState::Asleep, "asleep"),
        (InstanceState::Restarting, "restarting"),
        (InstanceState::Failed, "failed"),
        (InstanceState::Suspended, "cache-suspended"),
    ] {
        site.set_state(EMAIL, state).await;
        let page = ann.get("/caches/{cache}").await;
        assert_eq!(notices(&page), [notice_id]);
        assert_eq!(page.text("memory-used"), Some("–"));
        assert_eq!(detail(&page, "memory-used"), "12.0 MB of 64 MB when last measured, 2 hours ago");
        assert_eq!(page.text("operations"), Some(if state == InstanceState::Asleep { "0.0" } else { "–" }));
        assert!(page.body.contains("id=\"no-history\""), "nothing in the last hour");
        assert!(ann.get("/caches/{cache}?range=day").await.body.contains("id=\"chart-memory\""));
    }
    // The cache begins empty after its sleep, as its plan isn't warm.
    site.set_state(EMAIL, InstanceState::Asleep).await;
    assert!(notice(&ann.get("/caches/{cache}").await, "asleep").contains("It will start empty."));
    // What was measured a moment ago isn't so any more. Repairs are linked where there are some.
    recorder.record(0).await;
    let page = ann.get("/caches/{cache}").await;
    assert_eq!((page.text("memory-used"), page.text("items")), (Some("–"), Some("–")));
    site.set_state(EMAIL, InstanceState::Failed).await;
    assert!(!ann.get("/caches/{cache}").await.body.contains("href=\"#events\""));
    recorder.happened(EventCause::NotStarted, EventAction::Failed, false, now()).await;
    let page = ann.get("/caches/{cache}").await;
    assert!(notice(&page, "failed").contains("href=\"#events\"") && page.body.contains("id=\"events\""));
}

#[tokio::test]
async fn repairs_are_noticed_while_they_matter() {
    let (site, mut ann) = running().await;
    let recorder = Recorder::new(&site, EMAIL).await;
    let ago = |minutes: u64| now().saturating_sub(Duration::from_mins(minutes));
    recorder.happened(EventCause::Crashed, EventAction::Started, true, ago(90)).await;
    assert_eq!(notices(&ann.get("/caches/{cache}").await), [""; 0], "over an hour ago");
    recorder.happened(EventCause::Crashed, EventAction::Started, true, ago(30)).await;
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page), ["emptied"]);
    assert!(
        notice(&page, "emptied")
            .contains("30 minutes ago: memcached ended by itself: started again, its contents are lost.")
    );
    recorder.happened(EventCause::Hung, EventAction::Failed, false, ago(1)).await;
    assert_eq!(notices(&ann.get("/caches/{cache}").await), ["unrepaired"]);
    for _ in 0..2 {
        recorder.happened(EventCause::OutOfMemory, EventAction::Started, true, ago(0)).await;
    }
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page), ["crash-loop"]);
    let text = notice(&page, "crash-loop");
    assert!(text.contains("4 repairs in the last hour") && text.contains("/settings\""), "{text}");
    assert!(!page.body.contains("exit code"));
}

#[tokio::test]
async fn denials_of_the_last_hour_are_noticed() {
    let (site, mut ann) = running().await;
    let token_id = ann.get("/caches/{cache}/tokens").await.tokens().pop().unwrap();
    let denial = |cause: DenialCause, minutes: u64| {
        let at = now().saturating_sub(Duration::from_mins(minutes));
        DenialRecord {
            token_id: token_id.clone(),
            cause,
            source: Some("192.0.2.7".into()),
            detail: "SASL PLAIN".into(),
            protocol: "binary".into(),
            tls: false,
            count: 3,
            first_at: at,
            last_at: at,
        }
    };
    site.store.add_denials(&[denial(DenialCause::Mistyped, 61)]).await.unwrap();
    assert_eq!(notices(&ann.get("/caches/{cache}").await), [""; 0]);
    site.store.add_denials(&[denial(DenialCause::Expired, 5)]).await.unwrap();
    let page = ann.get("/caches/{cache}").await;
    let text = notice(&page, "denied");
    for part in [DenialCause::Expired.what(), "Last 5 minutes ago.", DenialCause::Expired.fix()] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.contains(&ann.path("href=\"/caches/{cache}/denials\"")) && !text.contains("other causes"));
    site.store.add_denials(&[denial(DenialCause::Rate, 6)]).await.unwrap();
    assert!(notice(&ann.get("/caches/{cache}").await, "denied").contains("There are other causes, too."));
}

#[tokio::test]
async fn tokens_and_certificates_that_expire_soon_are_named() {
    let (site, mut ann) = running().await;
    let first = ann.get("/caches/{cache}/tokens").await.tokens().pop().unwrap();
    let id = TokenId::parse(&first).unwrap();
    let days = |days: u64| now().saturating_add(Duration::from_secs(days * DAY));
    site.store.update_permissions(&id, |it| it.expires_at = Some(days(15))).await.unwrap();
    site.store.add_certificate(&id, Fingerprint::of(b"late"), days(15), "").await.unwrap();
    assert_eq!(notices(&ann.get("/caches/{cache}").await), [""; 0]);
    site.store.update_permissions(&id, |it| it.expires_at = Some(days(13))).await.unwrap();
    site.store.add_certificate(&id, Fingerprint::of(b"soon"), days(3), "").await.unwrap();
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page), ["token-expires", "certificate-expires"]);
    let text = notice(&page, "token-expires");
    assert!(text.contains("First token") && text.contains(&format!("href=\"/tokens/{first}\"")), "{text}");
    let text = notice(&page, "certificate-expires");
    assert!(text.contains(&Fingerprint::of(b"soon").to_string()[..8]), "{text}");
    assert!(text.contains(&format!("href=\"/tokens/{first}/certificates\"")), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_create(&folder.path().join("token.key")).unwrap();
    for number in 0..5 {
        let token = NewToken::generate(&key, &format!("<b>{number}</b>"));
        site.store.create_token(&ann.cache, &token).await.unwrap();
        site.store.update_permissions(&token.token.id(), |it| it.expires_at = Some(days(5))).await.unwrap();
    }
    let page = ann.get("/caches/{cache}").await;
    assert_eq!(notices(&page).iter().filter(|id| **id == "token-expires").count(), 3);
    assert!(notice(&page, "tokens-expire").contains("3 more expire"));
    assert!(!page.body.contains("<b>0</b>"));
    // A rotated token ends as it should.
    let rotated = ann.post(&format!("/tokens/{first}/rotate"), &[("grace", "24h")]).await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let is_named = |page: &Response| page.body.contains(&format!("href=\"/tokens/{first}\""));
    let page = ann.get("/caches/{cache}").await;
    assert!(!is_named(&page), "{}", page.body);
    // Unless something still uses it.
    let used = TokenUse { token: id, at: now(), source: "192.0.2.7".parse().unwrap() };
    site.store.record_token_uses(&[used]).await.unwrap();
    let page = ann.get("/caches/{cache}").await;
    assert!(is_named(&page) && notice(&page, "token-expires").contains("still in use"), "{}", page.body);
}

#[tokio::test]
async fn sizes_without_room_are_named() {
    let (site, mut ann) = running().await;
    let mut recorder = Recorder::new(&site, EMAIL).await;
    recorder.record(20).await;
    assert_eq!(notices(&ann.get("/caches/{cache}").await), [""; 0]);
    let mut sample = recorder.sample(10);
    sample.counters.out_of_memory = 42;
    let class = |class, chunk_size, out_of_memory| SlabClass {
        class,
        chunk_size,
        out_of_memory,
        ..SlabClass::default()
    };
    sample.set_slab_classes(&[class(1, 96, 0), class(5, 240, 2), class(39, 512 << 10, 40)]);
    recorder.record_sample(sample).await;
    let page = ann.get("/caches/{cache}").await;
    let text = notice(&page, "no-room");
    assert!(text.contains("42 stores failed in the last hour"), "{text}");
    assert!(text.contains("items of up to 512.0 KB (40 stores), up to 240 bytes (2 stores)."), "{text}");
    assert!(text.contains(&ann.path("href=\"/caches/{cache}/settings\"")), "{text}");
}

#[tokio::test]
async fn nearly_all_connections_are_noticed() {
    let (site, mut ann) = running().await;
    let recorder = Recorder::new(&site, EMAIL).await;
    recorder.report(Usage::default(), Vec::new(), 17_999).await;
    assert_eq!(notices(&ann.get("/caches/{cache}").await), [""; 0]);
    recorder.report(Usage::default(), Vec::new(), 18_000).await;
    let page = ann.get("/caches/{cache}").await;
    assert!(notice(&page, "connections").contains("18,000 of 20,000 are open."));
}

// W-11.
#[tokio::test]
async fn figures_and_usage_of_other_users_are_not_found() {
    let (site, mut ann) = running().await;
    let (mut bob, _) = site.sign_up_user("bob@example.com").await;
    ann.get("/caches/{cache}").await;
    for page in ["", "?range=day", "/figures", "/usage", "/usage.csv"] {
        let path = ann.path(&format!("/caches/{{cache}}{page}"));
        let unknown = format!("/caches/none{page}");
        let (own, others, none) = (ann.get(&path).await, bob.get(&path).await, bob.get(&unknown).await);
        assert_eq!((own.status, others.status, none.status), (200, 404, 404), "{page}");
        assert_eq!(others.body, none.body, "{page}");
        let signed_out = site.visitor().get(&path).await;
        assert_eq!(signed_out.status, 303, "{page}");
        assert!(signed_out.location().starts_with("/sign-in?next=/caches/"), "{page}");
        // Where the instance runs.
        for internal in ["10.213.7", "c0ffee0123456789"] {
            assert!(!own.body.contains(internal), "{page}");
        }
    }
}

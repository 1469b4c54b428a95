//! Event streams of cache pages.

use serde_json::Value;
use store::InstanceState;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, PASSWORD, Site, Visitor, eventually};

/// An open event stream.
pub(crate) struct Events {
    pub(crate) head: String,
    lines: tokio::io::Lines<BufReader<TcpStream>>,
}

impl Events {
    pub(crate) async fn open(visitor: &Visitor) -> Self {
        let mut stream = TcpStream::connect(visitor.address).await.unwrap();
        let request = visitor.request_head("GET", "/caches/{cache}/events") + "\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut head = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.is_empty() {
                break;
            }
            head += &line;
            head.push('\n');
        }
        Self { head, lines }
    }

    /// The next event's data, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let read = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                if let Some(data) = line.strip_prefix("data: ") {
                    return Some(serde_json::from_str(data).unwrap());
                }
            }
            None
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an event or the end")
    }
}

#[tokio::test]
async fn a_stream_sends_changes_of_its_own_cache_only() {
    let site = Site::start().await;
    let (ann, _) = site.sign_up_user("ann@example.com").await;
    site.sign_up_user("bob@example.com").await;
    let mut events = Events::open(&ann).await;
    assert!(events.head.contains("content-type: text/event-stream"), "{}", events.head);
    assert!(events.head.contains("content-security-policy"));
    assert_eq!(events.next().await.unwrap()["state"], "pending");
    site.set_state("bob@example.com", InstanceState::Failed).await;
    for state in
        [InstanceState::Running, InstanceState::Restarting, InstanceState::Failed, InstanceState::Running]
    {
        site.set_state("ann@example.com", state).await;
        let event = events.next().await.unwrap();
        assert_eq!(event["state"], state.as_str());
        assert!(!event.to_string().contains("10.213.7.99"));
    }
    let mut ann = ann;
    let polled: Value = serde_json::from_str(&ann.get("/caches/{cache}/state").await.body).unwrap();
    assert_eq!((&polled["state"], &polled["version"]), (&"running".into(), &"1.6.18".into()));
}

#[tokio::test]
async fn streams_per_session_are_limited() {
    let site = Site::start_with(|config| config.limits.pages_per_minute = 100_000).await;
    let (user, _) = site.sign_up_user("a@example.com").await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut events = Events::open(&user).await;
        assert!(events.next().await.is_some());
        open.push(events);
    }
    assert!(Events::open(&user).await.head.starts_with("HTTP/1.1 429"));
    open.pop();
    eventually("a place is given back", || async {
        Events::open(&user).await.head.starts_with("HTTP/1.1 200")
    })
    .await;
}

//
#[tokio::test]
async fn streams_per_user_are_limited() {
    let site = Site::start().await;
    let (first, _) = site.sign_up_user("a@example.com").await;
    let (other, _) = site.sign_up_user("b@example.com").await;
    let mut open = Vec::new();
    for session in 0..2 {
        let mut user = if session == 0 { first.clone() } else { site.visitor() };
        if session > 0 {
            assert_eq!(user.sign_in("a@example.com", PASSWORD).await.status, 303);
            user.cache.clone_from(&first.cache);
        }
        for _ in 0..4 {
            let mut events = Events::open(&user).await;
            assert!(events.next().await.is_some());
            open.push(events);
        }
    }
    let mut third = site.visitor();
    assert_eq!(third.sign_in("a@example.com", PASSWORD).await.status, 303);
    third.cache.clone_from(&first.cache);
    let refused = Events::open(&third).await.head;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 5"), "{refused}");
    assert_eq!(site.limited("streams_user"), 1);
    assert!(Events::open(&other).await.next().await.is_some());
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let site = Site::start().await;
    let (mut user, _) = site.sign_up_user("a@example.com").await;
    let mut events = Events::open(&user).await;
    assert!(events.next().await.is_some());
    user.get("/caches/{cache}").await;
    user.post("/sign-out", &[]).await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_page_without_scripts_reloads_while_pending() {
    let site = Site::start().await;
    let refresh = "<noscript><meta http-equiv=\"refresh\"";
    let (mut user, first) = site.sign_up_user("a@example.com").await;
    assert!(!first.body.contains(refresh), "not while a token is on it");
    assert!(user.get("/caches/{cache}").await.body.contains(refresh));
    site.set_state("a@example.com", InstanceState::Running).await;
    assert!(!user.get("/caches/{cache}").await.body.contains(refresh));
}

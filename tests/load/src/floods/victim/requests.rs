//! Requests at a steady rate over a few open connections, each of which has one request in flight. A late request
//! counts from the time at which it was due.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ANSWER_TIMEOUT, Series, TIMED_OUT, Victim, Window, kept_key};
use crate::client::{Client, Form};

const CONNECTIONS: u64 = 4;
/// One in this many requests is a set.
const SETS: u64 = 10;
const RECONNECT_BACKOFF: Duration = Duration::from_millis(100);

pub(super) async fn measure(victim: &Arc<Victim>, window: Window) -> Series {
    let mut connections = JoinSet::new();
    for first in 0..CONNECTIONS {
        connections.spawn(connection(victim.clone(), window, first));
    }
    let mut series = Series::new();
    while let Some(Ok(of_one)) = connections.join_next().await {
        series.add(&of_one);
    }
    series
}

/// Sends every fourth request of the schedule, beginning with the `first`.
async fn connection(victim: Arc<Victim>, window: Window, first: u64) -> Series {
    let mut series = Series::new();
    let mut client = None;
    let end = window.start + window.length + ANSWER_TIMEOUT;
    for n in (first..).step_by(CONNECTIONS as usize) {
        let Some(due) = window.due(n, victim.requests_per_second) else { break };
        sleep_until(due).await;
        if Instant::now() > end {
            // Requests that are late at the window's end are still sent, but not for ever.
            series.record(due.elapsed(), Err(TIMED_OUT.into()));
            continue;
        }
        let result = request(&victim, &mut client, n).await;
        let failed = result.is_err();
        series.record(due.elapsed(), result);
        if failed {
            client = None;
            sleep(RECONNECT_BACKOFF).await;
        }
    }
    series
}

async fn request(victim: &Victim, client: &mut Option<Client>, n: u64) -> Result<(), String> {
    let client = match client {
        Some(client) => client,
        None => client.insert(victim.log_in(Form::Text).await?),
    };
    let result = if n.is_multiple_of(SETS) {
        client.set("request", b"a value of the victim").await
    } else {
        client.get(&kept_key(0)).await.map(drop)
    };
    result.map_err(|failure| failure.to_string())
}

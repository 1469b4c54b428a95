//! The web UI, as a browser sees it: the sign-in page and a sign-in, each once a second.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::{SOURCE, Series, TIMED_OUT, Victim, Window, connect};
use crate::floods::http::{self, Http};

const PER_SECOND: f64 = 1.0;
/// A page that takes longer is an error.
const PAGE_TIMEOUT: Duration = Duration::from_secs(15);

/// The next sign-in's number: users and source addresses are taken in turn over all windows, so that a limit meant
/// for attackers isn't reached.
static NEXT_SIGN_IN: AtomicU64 = AtomicU64::new(0);

/// The sign-in page, and sign-ins.
pub(super) async fn measure(victim: &Arc<Victim>, window: Window) -> (Series, Series) {
    let mut visits = JoinSet::new();
    for n in 0.. {
        let Some(due) = window.due(n, PER_SECOND) else { break };
        sleep_until(due).await;
        let visitor = victim.clone();
        visits.spawn(async move {
            let result = in_time(page(&visitor)).await;
            (false, due.elapsed(), result)
        });
        let visitor = victim.clone();
        visits.spawn(async move {
            let result = in_time(sign_in(&visitor)).await;
            (true, due.elapsed(), result)
        });
    }
    let (mut pages, mut sign_ins) = (Series::new(), Series::new());
    while let Some(Ok((is_sign_in, took, result))) = visits.join_next().await {
        if is_sign_in { &mut sign_ins } else { &mut pages }.record(took, result);
    }
    (pages, sign_ins)
}

async fn page(victim: &Victim) -> Result<(), String> {
    let stream = connect(victim.web, SOURCE).await.map_err(|error| error.kind().to_string())?;
    let answer = Http::new(stream).get("/sign-in").await.map_err(|error| error.kind().to_string())?;
    expect_status(answer.status, http::OK)
}

async fn sign_in(victim: &Victim) -> Result<(), String> {
    let n = NEXT_SIGN_IN.fetch_add(1, Ordering::Relaxed);
    let Some(email) = victim.web_users.get(n as usize % victim.web_users.len().max(1)) else {
        return Ok(());
    };
    let stream = connect(victim.web, source(n)).await.map_err(|error| error.kind().to_string())?;
    let mut http = Http::new(stream);
    let form = http.sign_in_form().await.map_err(|error| error.to_string())?;
    let answer = http.sign_in(&form, email, &victim.web_password).await;
    expect_status(answer.map_err(|error| error.kind().to_string())?.status, http::SEE_OTHER)
}

/// A source address for the `n`th sign-in.
fn source(n: u64) -> Ipv4Addr {
    let [.., high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 45, high, low.max(1))
}

fn expect_status(status: u16, expected: u16) -> Result<(), String> {
    if status == expected { Ok(()) } else { Err(format!("status {status}")) }
}

async fn in_time(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(PAGE_TIMEOUT, work).await.unwrap_or_else(|_| Err(TIMED_OUT.into()))
}

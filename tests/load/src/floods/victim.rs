//! The tenant that is attacked, or shares memgate with an attacker: what its clients and its browser feel.

mod logins;
mod pages;
mod requests;
mod series;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::Instant;

pub(super) use series::{Series, Summary};

use crate::client::{self, Client, Form, TIMED_OUT};
use crate::error::LoadError;

/// The address of the victim's clients.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 44, 0, 1);
/// An answer that takes longer is an error.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys that must survive every flood.
pub(super) const KEPT_KEYS: usize = 100;

/// The victim's credentials and the addresses that it uses.
pub(super) struct Victim {
    pub(super) proxy: SocketAddr,
    pub(super) web: SocketAddr,
    pub(super) username: String,
    pub(super) password: String,
    /// Users that sign in to the web UI in turn, so that none is limited: their addresses, and one password.
    pub(super) web_users: Vec<String>,
    pub(super) web_password: String,
    /// Logins and requests per second.
    pub(super) logins_per_second: f64,
    pub(super) requests_per_second: f64,
}

/// What the victim felt in one window.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Felt {
    /// Connecting, logging in (text and SASL PLAIN in turn), and a get.
    pub(super) login: Summary,
    /// Gets and sets on open connections.
    pub(super) request: Summary,
    /// `GET /sign-in` on a new connection.
    pub(super) page: Summary,
    /// The form, and a sign-in with the right password.
    pub(super) sign_in: Summary,
}

/// A time in which something is measured.
#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    length: Duration,
}

impl Window {
    /// When the `n`th event of a steady rate is due; `None` after the window's end.
    fn due(self, n: u64, per_second: f64) -> Option<Instant> {
        let after = Duration::from_secs_f64(n as f64 / per_second);
        (after < self.length).then(|| self.start + after)
    }
}

impl Victim {
    /// Measures everything at once, for this long. Latency counts from the time at which something was due.
    pub(super) async fn measure(self: &Arc<Self>, length: Duration) -> Felt {
        let window = Window { start: Instant::now(), length };
        let (login, request, (page, sign_in)) = tokio::join!(
            logins::measure(self, window),
            requests::measure(self, window),
            pages::measure(self, window)
        );
        Felt {
            login: login.summary(),
            request: request.summary(),
            page: page.summary(),
            sign_in: sign_in.summary(),
        }
    }

    /// Stores the keys that must be kept.
    pub(super) async fn store_kept(&self) -> Result<(), LoadError> {
        let mut client = self.log_in(Form::Text).await.map_err(failed)?;
        for n in 0..KEPT_KEYS {
            client.set(&kept_key(n), kept_value(n).as_bytes()).await.map_err(broke)?;
        }
        Ok(())
    }

    /// Counts the keys that were kept.
    pub(super) async fn count_kept(&self) -> Result<usize, LoadError> {
        let mut client = self.log_in(Form::Text).await.map_err(failed)?;
        let mut kept = 0;
        for n in 0..KEPT_KEYS {
            let value = client.get(&kept_key(n)).await.map_err(broke)?;
            kept += usize::from(value.as_deref() == Some(kept_value(n).as_bytes()));
        }
        Ok(kept)
    }

    /// Connects from the victim's address and logs in.
    async fn log_in(&self, form: Form) -> Result<Client, String> {
        let opened = client::within(ANSWER_TIMEOUT, async {
            let stream = connect(self.proxy, SOURCE).await.map_err(client::broken)?;
            Client::log_in(stream, form, (&self.username, &self.password), ANSWER_TIMEOUT).await
        });
        opened.await.map_err(|failure| failure.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broke(failure: client::Failure) -> LoadError {
    failed(failure.to_string())
}

fn failed(error: String) -> LoadError {
    LoadError::invalid_run(format!("the victim: {error}"))
}

fn kept_key(n: usize) -> String {
    format!("kept:{n}")
}

fn kept_value(n: usize) -> String {
    format!("value of {n}")
}

async fn connect(target: SocketAddr, source: Ipv4Addr) -> std::io::Result<TcpStream> {
    super::connect::connect(target, Some(source), false).await
}

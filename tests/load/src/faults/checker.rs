//! The checking client: a text and a binary connection for each cache, which store values that say what they are, and
//! check every byte that comes back. It runs in a thread of its own through all faults.

mod record;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use daemon::Shutdown;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

pub(super) use record::{Record, Seen};

use crate::account::{Account, log_in};
use crate::client::{Client, Failure, Form};
use crate::error::LoadError;
use crate::values::{Keys, Verdict};
use record::Wrong;

const RECONNECT_BACKOFF: Duration = Duration::from_millis(50);
/// Between two requests of one connection.
const REQUEST_INTERVAL: Duration = Duration::from_millis(25);
/// One in this many requests is a set.
const SETS: u64 = 3;

/// A running checking client. Stops when dropped.
pub(super) struct Checker {
    pub(super) record: Arc<Record>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

/// One connection of it.
struct Connection {
    endpoint: SocketAddr,
    account: Account,
    form: Form,
    /// The number of the cache.
    cache: usize,
    record: Arc<Record>,
    keys: Keys,
    client: Option<Client>,
}

impl Checker {
    pub(super) fn start(endpoint: SocketAddr, accounts: &[Account]) -> Result<Self, LoadError> {
        let record = Arc::new(Record::default());
        let shutdown = Shutdown::new();
        let callers: Vec<Connection> = accounts
            .iter()
            .enumerate()
            .flat_map(|(cache, account)| [Form::Text, Form::Sasl].map(|form| (cache, account, form)))
            .map(|(cache, account, form)| Connection {
                endpoint,
                account: account.clone(),
                form,
                cache,
                record: Arc::clone(&record),
                keys: Keys::new(&format!("{cache}-{form:?}")),
                client: None,
            })
            .collect();
        let until = shutdown.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for caller in callers {
                    tasks.spawn(caller.run());
                }
                until.begun().await;
                tasks.shutdown().await;
            });
        });
        Ok(Self { record, shutdown, thread: Some(thread) })
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.shutdown.begin();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Connection {
    async fn run(mut self) {
        let mut due = interval(REQUEST_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for number in 0.. {
            due.tick().await;
            match self.request(number).await {
                Ok(()) => self.record.answered(self.cache),
                Err(failure) => {
                    self.record.failed(self.cache, &failure);
                    if matches!(failure, Failure::Broken(_)) {
                        self.client = None;
                        sleep(RECONNECT_BACKOFF).await;
                    }
                }
            }
        }
    }

    async fn request(&mut self, number: u64) -> Result<(), Failure> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(log_in(self.endpoint, &self.account, self.form).await?),
        };
        if number.is_multiple_of(SETS) {
            let (key, value) = self.keys.next_set(number);
            let result = client.set(&key, &value).await;
            self.keys.set_ended(result.is_ok());
            return result;
        }
        let key = self.keys.next_get(number);
        let value = client.get(&key).await?;
        match self.keys.check(&key, value.as_deref()) {
            Verdict::Right => {}
            Verdict::Missing => self.record.missed(self.cache),
            Verdict::Stale => self.record.wrong(Wrong::Stale),
            Verdict::Foreign => self.record.wrong(Wrong::Foreign),
            Verdict::Torn => self.record.wrong(Wrong::Torn),
        }
        Ok(())
    }
}

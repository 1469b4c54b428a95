//! A user with a cache, and clients that send requests at once, all the time, and try again whatever happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::marker::{Scanner, mark};
use super::tally::Tally;
use crate::account::{Account, log_in};
use crate::client::{Client, Failure, Form, Request};
use crate::values::{Keys, Verdict};

/// Of each protocol.
const CLIENTS: usize = 3;
/// Gets that are sent with each set, at once.
const GETS: u64 = 7;
/// A key of all owners: if requests reach another one's memcached, its value is found, or replaced.
const SHARED_KEY: &str = "shared";
/// Clients of each protocol that send nothing between the deletion and the end of the container: their sessions have no request
/// in flight then, and go on at once when the address is free for the next one.
const RESTING: usize = 1;
/// All of them.
pub(super) const ALL_RESTING: usize = 2 * RESTING;
const REST_INTERVAL: Duration = Duration::from_millis(2);
const RECONNECT_BACKOFF: Duration = Duration::from_millis(20);

/// A user with a cache.
pub(super) struct Owner {
    number: usize,
    pub(super) account: Account,
    pub(super) state: Arc<State>,
    /// Stop when dropped.
    _clients: JoinSet<()>,
}

/// What the clients of one owner know of it, and it of them.
#[derive(Default)]
pub(super) struct State {
    /// Its deletion was asked for.
    pub(super) is_deleted: AtomicBool,
    /// Its deletion has been confirmed, and revocation has had its time.
    pub(super) is_revoked: AtomicBool,
    /// Its container is gone.
    pub(super) is_gone: AtomicBool,
    /// Clients that rest, see [`ALL_RESTING`].
    pub(super) resting: AtomicUsize,
    /// Sessions that are open.
    pub(super) open: AtomicUsize,
    /// Successful replies.
    pub(super) answered: AtomicU64,
}

struct ReuseClient {
    endpoint: SocketAddr,
    account: Account,
    form: Form,
    owner: usize,
    state: Arc<State>,
    tally: Arc<Tally>,
    keys: Keys,
    client: Option<Client>,
    rests: bool,
}

impl Owner {
    /// Starts the clients of an owner whose cache runs.
    pub(super) fn start(number: usize, account: Account, endpoint: SocketAddr, tally: &Arc<Tally>) -> Self {
        let state = Arc::new(State::default());
        let mut clients = JoinSet::new();
        for (form, client) in [Form::Text, Form::Sasl]
            .into_iter()
            .flat_map(|form| (0..CLIENTS).map(move |client| (form, client)))
        {
            let client = ReuseClient {
                endpoint,
                account: account.clone(),
                form,
                owner: number,
                state: Arc::clone(&state),
                tally: Arc::clone(tally),
                keys: Keys::new(&format!("{}.{form:?}-{client}", mark(number))),
                client: None,
                rests: client < RESTING,
            };
            clients.spawn(client.run());
        }
        Self { number, account, state, _clients: clients }
    }

    /// How many of these keys aren't its own.
    pub(super) fn foreign_keys(&self, keys: &[String]) -> usize {
        let own = mark(self.number);
        keys.iter().filter(|key| !key.starts_with(&own) && *key != SHARED_KEY).count()
    }
}

impl ReuseClient {
    async fn run(mut self) {
        for batch in 0_u64.. {
            if self.rests && self.state.is_deleted.load(Ordering::SeqCst) {
                self.rest().await;
            }
            if let Err(failure) = self.exchange(batch * (GETS + 1)).await {
                self.tally.failed(&failure, self.state.is_deleted.load(Ordering::SeqCst));
                if self.client.take().is_some() {
                    self.state.open.fetch_sub(1, Ordering::SeqCst);
                }
                sleep(RECONNECT_BACKOFF).await;
            }
        }
    }

    /// Waits until the container is gone, once.
    async fn rest(&mut self) {
        self.rests = false;
        self.state.resting.fetch_add(1, Ordering::SeqCst);
        while !self.state.is_gone.load(Ordering::SeqCst) {
            sleep(REST_INTERVAL).await;
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let is_late = self.state.is_revoked.load(Ordering::SeqCst);
        let mut client = log_in(self.endpoint, &self.account, self.form).await?;
        if is_late {
            self.tally.logged_in_late();
        }
        let (mut scanner, tally) = (Scanner::new(self.owner), Arc::clone(&self.tally));
        client.inspect(move |bytes| tally.crossed(scanner.scan(bytes)));
        self.client = Some(client);
        self.state.open.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Sends a set and some gets at once, and checks the replies. `number` is the first one's.
    async fn exchange(&mut self, number: u64) -> Result<(), Failure> {
        if self.client.is_none() {
            self.connect().await?;
        }
        let client = client_of(&mut self.client)?;
        let (key, value) = self.keys.next_set(number);
        let gets: Vec<String> = (1..=GETS).map(|get| self.keys.next_get(number + get)).collect();
        let own = mark(self.owner);
        let mut requests = vec![
            Request::Set(&key, &value),
            Request::Set(SHARED_KEY, own.as_bytes()),
            Request::Get(SHARED_KEY),
        ];
        requests.extend(gets.iter().map(|key| Request::Get(key)));
        let is_late = self.state.is_gone.load(Ordering::SeqCst);
        self.tally.sent(requests.len(), is_late);
        let stored = match client.send_all(&requests).await {
            Ok(()) => client.receive_stored().await,
            Err(failure) => Err(failure),
        };
        self.keys.set_ended(stored.is_ok());
        self.note(stored, is_late)?;
        let stored = client_of(&mut self.client)?.receive_stored().await;
        self.note(stored, is_late)?;
        let found = client_of(&mut self.client)?.receive_value(SHARED_KEY).await;
        if let Some(Some(value)) = self.note(found, is_late)?
            && value != own.as_bytes()
        {
            self.tally.found(Verdict::Foreign, value.len());
        }
        for key in &gets {
            let found = client_of(&mut self.client)?.receive_value(key).await;
            if let Some(value) = self.note(found, is_late)? {
                let verdict = self.keys.check(key, value.as_deref());
                self.tally.found(verdict, value.map_or(0, |value| value.len()));
            }
        }
        Ok(())
    }

    /// Counts a reply. After an error that was replied, the next reply can be read.
    fn note<T>(&self, reply: Result<T, Failure>, was_late: bool) -> Result<Option<T>, Failure> {
        match reply {
            Ok(reply) => {
                self.tally.answered(was_late);
                self.state.answered.fetch_add(1, Ordering::SeqCst);
                Ok(Some(reply))
            }
            Err(failure @ Failure::Replied(_)) => {
                self.tally.failed(&failure, self.state.is_deleted.load(Ordering::SeqCst));
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

fn client_of(client: &mut Option<Client>) -> Result<&mut Client, Failure> {
    client.as_mut().ok_or_else(|| Failure::Broken("not connected".into()))
}

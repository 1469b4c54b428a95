//! Whether anything crosses from one cache to the next when a container starts on the address of a deleted one, under load: the
//! deleted user's clients go on sending over their sessions and log in again while the next user's clients use that address.
//!
//! In every third round the proxy is stopped meanwhile, so that it goes on with what it knew of the deleted cache: sessions,
//! permissions and route. All addresses but one are leased, and released ones are used at once, which no installation should be set to.

mod marker;
mod owner;
mod row;
mod tally;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use store::{Instance, InstanceState, LaneKey, Store, TokenKey};

use crate::account::sign_up;
use crate::command::signal;
use crate::direct::DirectConnection;
use crate::error::LoadError;
use crate::installation::Installation;
use crate::interrupt;
use owner::{ALL_RESTING, Owner};
use row::Row;
use tally::Tally;

/// A pool of one network, which neither the default nor the tests use.
const SUBNETS: &str = "10.218.0.0/22";
const ADDRESSES_MAX: usize = 1_022;
/// A mark has four digits.
const ROUNDS_MAX: usize = 9_999;
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// For each step of a round.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Replies that a user's clients get before it is deleted: each has read its keys by then.
const REPLIES_MIN: u64 = 600;
/// One in so many rounds pauses the proxy.
const PAUSE_EVERY: usize = 3;
/// For less than after which it counts as hung.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// Within this time, deletion closes sessions, and refuses logins.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
/// A busy machine is given more for the sessions.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Measure whether anything crosses when a cache gets the address of a deleted one; prints a table
#[derive(Debug, clap::Args)]
pub(crate) struct AddressReuse {
    /// How often a cache is deleted, and the next one started on its address
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
}

/// A stopped proxy, which goes on when this is dropped.
struct PausedProxy(u32);

impl PausedProxy {
    /// Lets it go on when some work is done, or takes too long.
    async fn release_after<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = tokio::time::timeout(PAUSE_MAX, work.as_mut()).await {
            return done;
        }
        drop(self);
        work.await
    }
}

impl Drop for PausedProxy {
    fn drop(&mut self) {
        if let Err(error) = signal(self.0, Signal::CONT) {
            eprintln!("{error}");
        }
    }
}

struct Testbed {
    installation: Installation,
    store: Store,
    token_key: TokenKey,
    lane_key: LaneKey,
    tally: Arc<Tally>,
}

impl AddressReuse {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        if !(1..=ROUNDS_MAX).contains(&self.rounds) {
            return Err(LoadError::new("a number of rounds is out of range", format!("1 to {ROUNDS_MAX}")));
        }
        let row = interrupt::block_on(self.measure())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&row)?);
        } else {
            print!("{}", row.text());
        }
        if row.failures.is_empty() {
            return Ok(());
        }
        Err(LoadError::new("a promise doesn't hold", "see the lines FAILED, or `failures` in JSON"))
    }

    async fn measure(&self) -> Result<Row, LoadError> {
        let folder = tempfile::tempdir()?;
        let settings = vec![
            ("PROVISIONER__SUBNETS", SUBNETS.to_owned()),
            ("PROVISIONER__ADDRESS_COOLDOWN_SECONDS", "0".to_owned()),
        ];
        eprintln!("starting memgate ...");
        let installation = Installation::start(&self.memgate, folder.path(), settings).await?;
        let bed = Testbed {
            store: installation.open_store().await?,
            token_key: installation.token_key()?,
            lane_key: installation.lane_key()?,
            tally: Arc::new(Tally::default()),
            installation,
        };
        let (mut owner, mut instance) = bed.add_owner(0).await?;
        bed.lease_other_addresses().await?;
        let mut row = Row::default();
        for round in 1..=self.rounds {
            let begun = Instant::now();
            (owner, instance) = bed.round(round, owner, &instance, &mut row).await?;
            row.round_s.push(begun.elapsed().as_secs_f64());
            if round.is_multiple_of(10) {
                eprintln!("{round} rounds, {} on the same address", row.same_address);
            }
        }
        row.finish(bed.tally.read());
        bed.store.close().await;
        Ok(row)
    }
}

impl Testbed {
    /// Signs a user up, waits until the cache runs, and starts the clients.
    async fn add_owner(&self, number: usize) -> Result<(Owner, Instance), LoadError> {
        let email = format!("owner-{number}@example.org");
        let (user, account) = sign_up(&self.store, &self.token_key, email).await?;
        let mut running = None;
        until("the next cache doesn't start", async || {
            let found = self.store.first_instance_of(&user.id).await.map_err(LoadError::unexpected)?;
            running = found.filter(|instance| instance.state() == InstanceState::Running);
            Ok(running.is_some())
        })
        .await?;
        let instance = running.ok_or_else(|| LoadError::invalid_run("a user has no cache"))?;
        Ok((Owner::start(number, account, self.installation.endpoint(), &self.tally), instance))
    }

    /// So that the next cache gets the address of the one that was deleted last.
    async fn lease_other_addresses(&self) -> Result<(), LoadError> {
        for number in 0..ADDRESSES_MAX {
            let lease = self.store.lease_address(&format!("leased-{number}"), Duration::ZERO).await;
            if lease.map_err(LoadError::unexpected)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Deletes an owner's cache under load, and starts the next one's.
    async fn round(
        &self,
        round: usize,
        old: Owner,
        old_instance: &Instance,
        row: &mut Row,
    ) -> Result<(Owner, Instance), LoadError> {
        self.until_answered(&old).await?;
        old.state.is_deleted.store(true, Ordering::SeqCst);
        until("clients don't stop sending", async || {
            Ok(old.state.resting.load(Ordering::SeqCst) == ALL_RESTING)
        })
        .await?;
        let paused = if round.is_multiple_of(PAUSE_EVERY) { Some(self.pause_proxy()?) } else { None };
        let replaced = async {
            self.delete(round, &old).await?;
            self.start_next(round, &old, old_instance).await
        };
        let (next, instance) = match paused {
            Some(paused) => paused.release_after(replaced).await?,
            None => replaced.await?,
        };
        // From here on the proxy knows, or finds out.
        let known_at = Instant::now();
        let address = |instance: &Instance| instance.route.as_ref().and_then(|route| route.address.clone());
        row.rounds += 1;
        row.paused += usize::from(round.is_multiple_of(PAUSE_EVERY));
        row.same_address += usize::from(address(&instance) == address(old_instance));
        tokio::time::sleep(REVOKED_WITHIN).await;
        old.state.is_revoked.store(true, Ordering::SeqCst);
        self.until_answered(&next).await?;
        self.check_contents(&next, &instance, row).await?;
        while old.state.open.load(Ordering::SeqCst) > 0 && known_at.elapsed() < CLOSE_TIMEOUT {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        row.left_open += old.state.open.load(Ordering::SeqCst);
        Ok((next, instance))
    }

    /// Waits until the container of a deleted cache is gone, and starts the next one's.
    async fn start_next(
        &self,
        number: usize,
        old: &Owner,
        old_instance: &Instance,
    ) -> Result<(Owner, Instance), LoadError> {
        until("a deleted cache isn't removed", async || {
            let left = self.store.instance(&old_instance.id).await.map_err(LoadError::unexpected)?;
            Ok(left.is_none_or(|instance| instance.is_gone()))
        })
        .await?;
        old.state.is_gone.store(true, Ordering::SeqCst);
        self.add_owner(number).await
    }

    /// Stops the proxy.
    fn pause_proxy(&self) -> Result<PausedProxy, LoadError> {
        let pid = self.installation.role_pid("proxy");
        let pid = pid.ok_or_else(|| LoadError::invalid_run("the proxy doesn't run"))?;
        signal(pid, Signal::STOP)?;
        Ok(PausedProxy(pid))
    }

    /// Waits until an owner's clients have written and read all of their keys.
    async fn until_answered(&self, owner: &Owner) -> Result<(), LoadError> {
        until("a running cache doesn't answer", async || {
            Ok(owner.state.answered.load(Ordering::SeqCst) >= REPLIES_MIN)
        })
        .await
    }

    /// Deletes the user and the cache in turn.
    async fn delete(&self, round: usize, owner: &Owner) -> Result<(), LoadError> {
        let email = &owner.account.email;
        let command = if round.is_multiple_of(2) {
            self.installation.memgate(&["cache", "delete", email, "--yes", "--no-wait"])
        } else {
            self.installation.memgate(&["user", "delete", email, "--yes"])
        };
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await?;
        // A cache whose container isn't removed yet is deleted, too.
        if matches!(output.status.code(), Some(0 | 3)) {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(LoadError::new(format!("memgate can't delete {email}: {words}"), "see above"))
    }

    /// All keys in a cache's memcached must be the owner's.
    async fn check_contents(
        &self,
        owner: &Owner,
        instance: &Instance,
        row: &mut Row,
    ) -> Result<(), LoadError> {
        let mut direct = DirectConnection::open(instance, &self.lane_key).await?;
        let keys = direct.keys().await?;
        row.keys_checked += keys.len();
        row.empty_caches += usize::from(keys.is_empty());
        row.foreign_keys += owner.foreign_keys(&keys);
        let refused = direct.statistics("").await?.get("auth_errors").copied();
        row.lanes_refused += refused.unwrap_or_default();
        Ok(())
    }
}

/// Waits until something holds.
async fn until(
    what_fails: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, LoadError>,
) -> Result<(), LoadError> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while !holds().await? {
        if Instant::now() > deadline {
            return Err(LoadError::invalid_run(what_fails));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

//! A relay in front of Docker's socket, which can hang or be away.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::LoadError;

pub(super) const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const ACCEPT_INTERVAL: Duration = Duration::from_millis(5);
const BUFFER_BYTES: usize = 65_536;

/// Relays until it is dropped.
pub(super) struct Relay {
    path: PathBuf,
    docker: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    hangs: bool,
    /// Increases when the socket goes away: listeners of earlier times end.
    epoch: u64,
    /// Both ends of each open connection, by its number.
    open: HashMap<u64, [UnixStream; 2]>,
    accepted: u64,
}

impl Relay {
    /// Listens at `path` in place of the socket `docker`.
    pub(super) fn start(path: &Path, docker: PathBuf) -> Result<Self, LoadError> {
        let relay = Self { path: path.to_owned(), docker, state: Arc::default() };
        relay.open()?;
        Ok(relay)
    }

    /// Nothing passes from now on, or everything again. Connections stay open.
    pub(super) fn hang(&self, hangs: bool) {
        self.state.lock().hangs = hangs;
        self.state.changed.notify_all();
    }

    /// Closes everything, and removes the socket.
    pub(super) fn close(&self) {
        let _ = fs::remove_file(&self.path);
        let mut state = self.state.lock();
        state.epoch += 1;
        for (_, ends) in state.open.drain() {
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// Listens, also again.
    pub(super) fn open(&self) -> Result<(), LoadError> {
        let listener = UnixListener::bind(&self.path)?;
        listener.set_nonblocking(true)?;
        let (state, epoch) = (Arc::clone(&self.state), self.state.lock().epoch);
        let docker = self.docker.clone();
        std::thread::spawn(move || {
            while state.lock().epoch == epoch {
                match listener.accept() {
                    Ok((client, _)) => connect(client, &docker, &state),
                    // Nobody connects, or nothing can be opened for now.
                    Err(_) => std::thread::sleep(ACCEPT_INTERVAL),
                }
            }
        });
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.hang(false);
        self.close();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(client: UnixStream, docker: &Path, state: &Arc<State>) {
    let _ = client.set_nonblocking(false);
    let Ok(docker) = UnixStream::connect(docker) else { return };
    let clones = (client.try_clone(), docker.try_clone(), client.try_clone(), docker.try_clone());
    let (Ok(to_client), Ok(to_docker), Ok(kept_client), Ok(kept_docker)) = clones else { return };
    let mut inner = state.lock();
    inner.accepted += 1;
    let number = inner.accepted;
    inner.open.insert(number, [kept_client, kept_docker]);
    drop(inner);
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let replies = {
            let state = Arc::clone(&state);
            std::thread::spawn(move || copy(docker, to_client, &state))
        };
        copy(client, to_docker, &state);
        let _ = replies.join();
        state.lock().open.remove(&number);
    });
}

fn copy(mut from: UnixStream, mut to: UnixStream, state: &State) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let waited = state.changed.wait_while(state.lock(), |inner| inner.hangs);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

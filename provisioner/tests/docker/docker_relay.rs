//! A relay in front of Docker's socket that can hang, with its connections open.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// Relays until the test process ends.
pub(crate) struct DockerRelay(Arc<Frozen>);

#[derive(Default)]
struct Frozen {
    frozen: Mutex<bool>,
    changed: Condvar,
}

impl DockerRelay {
    pub(crate) fn start(path: &Path, docker: &Path) -> Self {
        let (listener, docker) = (UnixListener::bind(path).unwrap(), docker.to_owned());
        let relay = Self(Arc::default());
        let state = Arc::clone(&relay.0);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&docker)) else { return };
                copy(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&state));
                copy(server, client, Arc::clone(&state));
            }
        });
        relay
    }

    /// Nothing passes from now on.
    pub(crate) fn freeze(&self) {
        *self.0.frozen.lock().unwrap() = true;
    }

    pub(crate) fn thaw(&self) {
        *self.0.frozen.lock().unwrap() = false;
        self.0.changed.notify_all();
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream, state: Arc<Frozen>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            drop(state.changed.wait_while(state.frozen.lock().unwrap(), |frozen| *frozen));
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

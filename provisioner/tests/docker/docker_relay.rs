//! A relay in front of Docker's socket that can hang, with its connections open, and refuse requests in Docker's place.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::harness::Installation;

/// Relays until the test process ends.
pub(crate) struct DockerRelay(Arc<State>);

#[derive(Default)]
struct State {
    frozen: Mutex<bool>,
    changed: Condvar,
    /// How requests begin that are refused, what is in their lines, and how many are.
    refused: Mutex<(String, &'static str, usize)>,
}

const REFUSAL: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\
                       Connection: close\r\n\r\n{\"message\":\"not now\"}\r\n";

impl DockerRelay {
    /// Starts one that the installation's next provisioner uses.
    pub(crate) fn start(installation: &mut Installation) -> Self {
        let path = installation.dir().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let docker = std::mem::replace(&mut installation.config.docker_socket, path);
        let relay = Self(Arc::default());
        let state = Arc::clone(&relay.0);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&docker)) else { return };
                let (requests, to_docker) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                copy(requests, to_docker, Some(client.try_clone().unwrap()), Arc::clone(&state));
                copy(server, client, None, Arc::clone(&state));
            }
        });
        relay
    }

    /// Refuses the next `count` requests with a method whose lines contain `part`.
    pub(crate) fn refuse(&self, method: &str, part: &'static str, count: usize) {
        *self.0.refused.lock().unwrap() = (format!("{method} "), part, count);
    }

    /// How many requests are still to be refused.
    pub(crate) fn still_refused(&self) -> usize {
        self.0.refused.lock().unwrap().2
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

impl State {
    fn refuses(&self, sent: &[u8]) -> bool {
        let (method, part, count) = &mut *self.refused.lock().unwrap();
        let text = String::from_utf8_lossy(sent);
        let line = text.lines().next().unwrap_or_default();
        let refuses = *count > 0 && line.starts_with(method.as_str()) && line.contains(*part);
        *count -= usize::from(refuses);
        refuses
    }
}

/// `client` gets refusals, if what is copied are its requests.
fn copy(mut from: UnixStream, mut to: UnixStream, mut client: Option<UnixStream>, state: Arc<State>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            drop(state.changed.wait_while(state.frozen.lock().unwrap(), |frozen| *frozen));
            if let Some(client) = client.as_mut().filter(|_| state.refuses(&buffer[..count])) {
                let _ = client.write_all(REFUSAL.as_bytes());
                let _ = client.shutdown(std::net::Shutdown::Both);
                break;
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

//! A cache that starts on the address of a deleted one, while the deleted user's clients go on: nothing crosses between them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use testkit::SetOnDrop;

use crate::database::execute_sql;
use crate::harness::{Credentials, Product, deadline_in, signal, wait_until};

const ROUNDS: usize = 10;
/// Requests that a client sends at once.
const BATCH: usize = 20;
const KEYS: usize = 5;
/// How often, before something is changed.
const ANSWERED_MIN: usize = 20;
/// Of each user.
const CLIENTS: usize = 2;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Leases all addresses but those that are in use, so that the next cache gets the one that is released next.
const LEASE_OTHERS: &str = "UPDATE addresses SET instance_id = address WHERE instance_id IS NULL";
/// Between attempts to log in.
const LOGIN_BACKOFF: Duration = Duration::from_millis(10);

/// What the clients of one user share.
#[derive(Default)]
struct Clients {
    is_stopped: AtomicBool,
    /// Requests that were answered, those that were sent at once together.
    answered: AtomicUsize,
    /// Logins to which the proxy replied that they fail.
    refused: AtomicUsize,
}

impl Clients {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Logs in and works until the connection ends, again and again. Returns all bytes that were received.
    fn run(&self, endpoint: SocketAddr, user: &Credentials) -> Vec<u8> {
        let mut received = Vec::new();
        while !self.is_stopped() {
            match log_in(endpoint, user) {
                Ok(Some(session)) => {
                    self.exchange(session, &user.email, &mut received);
                    continue;
                }
                Ok(None) => drop(self.refused.fetch_add(1, Ordering::SeqCst)),
                // The proxy may have been restarted.
                Err(_) => {}
            }
            std::thread::sleep(LOGIN_BACKOFF);
        }
        received
    }

    /// Sets and gets, many at once.
    fn exchange(&self, mut session: TcpStream, mark: &str, received: &mut Vec<u8>) {
        let of_key = |key: &str| format!("set {key} 0 0 {}\r\n{mark}\r\nget {key}\r\n", mark.len());
        // The second is a key of both users.
        let one =
            |number: usize| format!("{}{}", of_key(&format!("{mark}-{}", number % KEYS)), of_key("shared"));
        let requests = format!("{}mn\r\n", (0..BATCH).map(one).collect::<String>());
        let mut buffer = vec![0; 64 << 10];
        while !self.is_stopped() && session.write_all(requests.as_bytes()).is_ok() {
            let begin = received.len();
            while !received[begin..].ends_with(b"MN\r\n") {
                match session.read(&mut buffer) {
                    Ok(read) if read > 0 => received.extend_from_slice(&buffer[..read]),
                    _ => return,
                }
            }
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A session, or `None` if the proxy replies that the login fails.
fn log_in(endpoint: SocketAddr, user: &Credentials) -> std::io::Result<Option<TcpStream>> {
    let mut session = TcpStream::connect(endpoint)?;
    session.set_read_timeout(Some(READ_TIMEOUT))?;
    let login = format!("{} {}", user.username, user.password);
    session.write_all(format!("set auth 0 0 {}\r\n{login}\r\n", login.len()).as_bytes())?;
    let mut reply = [0; 8];
    session.read_exact(&mut reply)?;
    Ok((&reply == b"STORED\r\n").then_some(session))
}

/// A stopped proxy, which goes on when this is dropped.
struct PausedProxy(u32);

impl PausedProxy {
    fn pause(proxy: u32) -> Self {
        signal(proxy, "STOP");
        Self(proxy)
    }
}

impl Drop for PausedProxy {
    fn drop(&mut self) {
        // It was restarted, and is gone, if it was paused for too long.
        let _ = Command::new("kill").args(["-CONT", &self.0.to_string()]).status();
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

//
#[test]
fn nothing_crosses_to_a_cache_on_the_address_of_a_deleted_one() {
    let product = Product::start_with(&[("MEMGATE_PROVISIONER__ADDRESS_COOLDOWN_SECONDS", "0")]);
    let address = |email: &str| product.json(&["instance", "show", email])["address"].clone();
    let user = |number: usize| product.add_user(&format!("owner-{number:02}@example.org"));
    let mut old = user(0);
    execute_sql(&product, LEASE_OTHERS);
    let mut same_address = 0;
    for round in 1..=ROUNDS {
        let before = address(&old.email);
        let (of_old, of_next) = (Clients::default(), Clients::default());
        old = std::thread::scope(|scope| {
            let stopped = [&of_old, &of_next].map(|clients| SetOnDrop(&clients.is_stopped));
            let old_clients = [(); CLIENTS].map(|()| scope.spawn(|| of_old.run(product.endpoint(), &old)));
            let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
            wait_until(deadline_in(20), "the first user works", || count(&of_old.answered) > ANSWERED_MIN);
            // In every other round the proxy keeps what it knew of the deleted cache, until the next one runs.
            let paused = product.role("proxy").filter(|_| round % 2 == 0).map(PausedProxy::pause);
            product.json(&["user", "delete", &old.email, "--yes"]);
            wait_until(deadline_in(20), "the deleted cache is removed", || {
                let list = product.json(&["instance", "list"]);
                list["instances"].as_array().unwrap().iter().all(|it| it["address"].is_null())
            });
            let next = user(round);
            drop(paused);
            same_address += usize::from(address(&next.email) == before);
            let refused = count(&of_old.refused);
            let next_clients = [(); CLIENTS].map(|()| {
                let (clients, product, next) = (&of_next, &product, next.clone());
                scope.spawn(move || clients.run(product.endpoint(), &next))
            });
            wait_until(deadline_in(30), "the next user works, and the deleted one is refused", || {
                count(&of_next.answered) > ANSWERED_MIN && count(&of_old.refused) > refused
            });
            drop(stopped);
            for (clients, mark, foreign) in
                [(old_clients, &old.email, &next.email), (next_clients, &next.email, &old.email)]
            {
                let received = clients.map(|client| client.join().unwrap()).concat();
                assert!(contains(&received, mark), "{mark} has read nothing");
                assert!(!contains(&received, foreign), "{mark} got what {foreign} stored");
            }
            next
        });
    }
    assert!(same_address * 2 > ROUNDS, "{same_address} of {ROUNDS} on the same address");
}

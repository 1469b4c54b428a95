//! Checks of the way from a client to its cache: name, connection, certificate, login, and the times of requests.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client_tls::{self, Stream, millis};
use super::report::Report;
use crate::output::CliError;

/// Time limit of each step.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a reply: our value, or an error.
const REPLY_MAX: usize = 2_048;
/// Bytes that are read of a file with a token.
const TOKEN_FILE_MAX: u64 = 1_024;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
const ROUNDS: usize = 10;
/// A median round trip from which on an application notices the way.
const ROUND_TRIP_WARNING: Duration = Duration::from_millis(10);
/// Seconds after which our key goes by itself, if it can't be deleted.
const KEY_SECONDS: u32 = 60;

/// What to check.
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a str,
    pub(super) token: Option<String>,
    pub(super) ca: Option<&'a Path>,
    pub(super) plaintext: bool,
    pub(super) key_prefix: &'a str,
}

/// The token in a file, or that of the environment.
///
/// # Errors
/// If the file can't be read.
pub(super) fn token(file: Option<&Path>) -> Result<Option<String>, CliError> {
    use std::io::Read as _;
    let Some(file) = file else {
        return Ok(std::env::var("CACHE_TOKEN").ok().filter(|token| !token.is_empty()));
    };
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|it| it.take(TOKEN_FILE_MAX).read_to_string(&mut text));
    read.map_err(|error| {
        let what = format!("can't read {} ({error})", file.display());
        CliError::new(what, "name a file with the whole token, mg_...")
    })?;
    Ok(Some(text.trim().to_owned()))
}

/// Goes the way step by step, and stops at the first that can't be done.
pub(super) async fn check(target: &Target<'_>, report: &mut Report) {
    let Some((host, port)) = split(target.endpoint) else {
        return report.problem(
            "endpoint",
            format!("{} is not HOST:PORT", target.endpoint),
            "write it like cache.example.org:11211",
        );
    };
    let Some(addresses) = look_up(host, port, report).await else { return };
    let Some(tcp) = connect(&addresses, report).await else { return };
    let stream: Option<Box<dyn Stream>> = if target.plaintext {
        report.warning(
            "TLS",
            "not used: everybody on the way reads the token",
            "leave out --plaintext, except on a network of your own",
        );
        Some(Box::new(tcp))
    } else {
        client_tls::connect(tcp, host, target.ca, report).await
    };
    let Some(mut stream) = stream else { return };
    let Some(token) = &target.token else {
        return report.warning(
            "login",
            "not checked: there is no token",
            "set $CACHE_TOKEN, or name a file with --token-file",
        );
    };
    if log_in(&mut stream, token, report).await {
        requests(&mut stream, target.key_prefix, report).await;
    }
}

/// Host, without the brackets of an IPv6 address, and port.
fn split(endpoint: &str) -> Option<(&str, u16)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some(())?;
    Some((host, port.parse().ok()?))
}

async fn look_up(host: &str, port: u16, report: &mut Report) -> Option<Vec<SocketAddr>> {
    let started = Instant::now();
    let fix = "check the name, and this machine's DNS (/etc/resolv.conf)";
    match timeout(TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() {
                report.problem("DNS", format!("{host} has no address"), fix);
                return None;
            }
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            report.ok("DNS", format!("{host} is {}, after {}", shown.join(", "), millis(started.elapsed())));
            Some(addresses)
        }
        Ok(Err(error)) => {
            report.problem("DNS", format!("{host} isn't found ({error})"), fix);
            None
        }
        Err(_) => {
            report.problem("DNS", format!("no answer for {host} within {TIMEOUT:?}"), fix);
            None
        }
    }
}

/// Connects to the first address that accepts. Clients differ in how many they try, so each that doesn't is told.
async fn connect(addresses: &[SocketAddr], report: &mut Report) -> Option<TcpStream> {
    let mut connected = None;
    for address in addresses {
        let started = Instant::now();
        let why = match timeout(TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                report.ok("TCP", format!("{address} accepts, after {}", millis(started.elapsed())));
                let _ = stream.set_nodelay(true);
                connected.get_or_insert(stream);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {TIMEOUT:?}"),
        };
        let fix = "check that the proxy runs and listens there (proxy.listen), and firewalls on the way";
        report.problem("TCP", format!("can't connect to {address} ({why})"), fix);
    }
    connected
}

/// Logs in as a text client does.
async fn log_in(stream: &mut Box<dyn Stream>, token: &str, report: &mut Report) -> bool {
    if token.contains(char::is_whitespace) || token.is_empty() {
        report.problem(
            "login",
            "the token has spaces, or is empty",
            "give the whole token, mg_..., and nothing else",
        );
        return false;
    }
    let started = Instant::now();
    let request = format!("set auth 0 0 {}\r\n{token}\r\n", token.len());
    match exchange(stream, &request, is_line).await {
        Ok(reply) if reply == "STORED\r\n" => {
            report.ok("login", format!("the token is accepted, after {}", millis(started.elapsed())));
            true
        }
        Ok(reply) => {
            let fix = match reply.trim() {
                "CLIENT_ERROR authentication failure" => {
                    "`memgate token show ID`, or the cache's page, says why: expired, revoked, another network, mistyped"
                }
                "CLIENT_ERROR TLS required" => "leave out --plaintext",
                _ => "check that the endpoint is memgate's, and the token whole",
            };
            report.problem("login", format!("the server answers {}", reply.trim()), fix);
            false
        }
        Err(why) => {
            report.problem("login", why, "check that the endpoint is memgate's proxy, and no other server");
            false
        }
    }
}

/// Stores, reads and deletes a key, several times.
async fn requests(stream: &mut Box<dyn Stream>, prefix: &str, report: &mut Report) {
    let key = format!("{prefix}memgate-doctor-{}-{}", std::process::id(), store::now());
    let value = "memgate doctor";
    let length = value.len();
    let steps = [
        ("set", format!("set {key} 0 {KEY_SECONDS} {length}\r\n{value}\r\n"), "STORED\r\n".to_owned()),
        ("get", format!("get {key}\r\n"), format!("VALUE {key} 0 {length}\r\n{value}\r\nEND\r\n")),
        ("delete", format!("delete {key}\r\n"), "DELETED\r\n".to_owned()),
    ];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (at, (name, request, expected)) in steps.iter().enumerate() {
            let started = Instant::now();
            let is_complete: fn(&str) -> bool = if *name == "get" { is_values } else { is_line };
            match exchange(stream, request, is_complete).await {
                Ok(reply) if reply == *expected => times[at].push(started.elapsed()),
                Ok(reply) => {
                    let fix = "the token needs the scopes read and write; for one with a key prefix, add --key-prefix";
                    return report.problem(
                        "requests",
                        format!("{name}: the server answers {}", reply.trim()),
                        fix,
                    );
                }
                Err(why) => {
                    return report.problem(
                        "requests",
                        format!("{name}: {why}"),
                        "see `memgate status`, and the cache's page",
                    );
                }
            }
        }
    }
    let [set, get, delete] = times.map(|mut times| {
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() - 1])
    });
    let shown = |name: &str, (median, longest): (Duration, Duration)| {
        format!("{name} {} (longest {})", millis(median), millis(longest))
    };
    let found = format!(
        "{}, {}, {}: medians of {ROUNDS}",
        shown("set", set),
        shown("get", get),
        shown("delete", delete)
    );
    if get.0 > ROUND_TRIP_WARNING {
        report.warning(
            "requests",
            found,
            "run the application nearer to the proxy, and let it ask for many keys at once",
        );
    } else {
        report.ok("requests", found);
    }
}

fn is_line(reply: &str) -> bool {
    reply.ends_with("\r\n")
}

/// The end of a reply to `get`, or an error.
fn is_values(reply: &str) -> bool {
    if reply.starts_with("VALUE ") { reply.ends_with("\r\nEND\r\n") } else { is_line(reply) }
}

/// Sends a request, and reads until the reply is complete.
async fn exchange(
    stream: &mut Box<dyn Stream>,
    request: &str,
    is_complete: fn(&str) -> bool,
) -> Result<String, String> {
    let exchanged = async {
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("can't send ({error})"))?;
        stream.flush().await.map_err(|error| format!("can't send ({error})"))?;
        let (mut reply, mut buffer) = (Vec::new(), [0; REPLY_MAX]);
        while reply.len() < REPLY_MAX {
            match stream.read(&mut buffer).await {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(count) => reply.extend(buffer.iter().take(count)),
                Err(error) => return Err(format!("the connection broke ({error})")),
            }
            let text = String::from_utf8_lossy(&reply);
            if is_complete(&text) {
                return Ok(text.into_owned());
            }
        }
        Err("the server answers at great length".to_owned())
    };
    timeout(TIMEOUT, exchanged).await.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_a_host_and_a_port() {
        for (endpoint, parts) in [
            ("cache.example.org:11211", Some(("cache.example.org", 11211))),
            ("[::1]:1", Some(("::1", 1))),
            ("cache.example.org", None),
            (":11211", None),
            ("a:99999", None),
        ] {
            assert_eq!(split(endpoint), parts, "{endpoint}");
        }
    }

    #[test]
    fn replies_are_read_to_their_end() {
        for (reply, complete) in [
            ("VALUE a 0 1\r\n", false),
            ("VALUE a 0 1\r\nx\r\nEND\r\n", true),
            ("END\r\n", true),
            ("CLIENT_ERROR no\r\n", true),
            ("CLIENT", false),
        ] {
            assert_eq!(is_values(reply), complete, "{reply:?}");
        }
    }

    /// A server that says one thing.
    fn server(says: &'static [u8]) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(says);
        });
        address
    }

    #[tokio::test]
    async fn other_servers_are_told_apart() {
        let endless: &'static [u8] = Box::leak(vec![b'x'; 100_000].into_boxed_slice());
        for (says, told) in [
            (&b"ERROR\r\n"[..], "the server answers ERROR"),
            (b"CLIENT_ERROR authentication failure\r\n", "memgate token show ID"),
            (endless, "at great length"),
            (b"", "closed the connection"),
        ] {
            let endpoint = server(says).to_string();
            let target = Target {
                endpoint: &endpoint,
                token: Some("mg_x".into()),
                ca: None,
                plaintext: true,
                key_prefix: "",
            };
            let mut report = Report::default();
            check(&target, &mut report).await;
            assert!(report.problems() == 1 && report.text().contains(told), "{}", report.text());
        }
    }

    #[tokio::test]
    async fn token_is_not_sent_to_a_server_without_tls() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let received = std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = listener.accept().unwrap().0;
            let mut all = vec![0; 512];
            let count = stream.read(&mut all).unwrap();
            let _ = stream.write_all(b"ERROR\r\n");
            all.truncate(count);
            let _ = stream.read_to_end(&mut all);
            all
        });
        let token = Some("mg_secret".to_owned());
        let target = Target { endpoint: &endpoint, token, ca: None, plaintext: false, key_prefix: "" };
        let mut report = Report::default();
        check(&target, &mut report).await;
        assert_eq!(report.problems(), 1, "{}", report.text());
        assert!(!String::from_utf8_lossy(&received.join().unwrap()).contains("mg_secret"));
    }
}

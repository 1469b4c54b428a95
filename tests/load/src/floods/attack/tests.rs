//! Every flood runs against a server that answers as little as it can.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;

const LOGIN_PAGE: &str = "HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\ncontent-length: 35\r\n\r\n\
                          <i name=\"csrf_token\" value=\"secret\">";
const WRONG_PASSWORD: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
const DEADLINE: Duration = Duration::from_secs(20);

/// A server that answers as far as floods need it, and closes nothing. It ends with the process.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut scratch = vec![0; 64 * 1024];
    let mut stored = 0;
    while let Ok(read @ 1..) = stream.read(&mut scratch) {
        let reply = match &scratch[..read] {
            bytes if bytes.starts_with(b"GET /sign-in") => LOGIN_PAGE,
            bytes if bytes.starts_with(b"POST") => WRONG_PASSWORD,
            bytes if bytes.starts_with(b"\x80\x21") => "Authenticated",
            // A login, or a set.
            bytes if bytes.ends_with(b"\r\n") && stored < 2 => {
                stored += 1;
                "STORED\r\n"
            }
            _ => "",
        };
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

fn job(kind: Kind, target: SocketAddr) -> Job {
    let (username, password) = ("mg_attacker0000".to_owned(), "password".to_owned());
    let scale = 3.0 / kind.connections() as f64;
    let (shard, shards) = (0, 1);
    Job {
        kind,
        target,
        username,
        password,
        shard,
        shards,
        scale,
        cpu_share: 0.0,
        seconds_max: 60.0,
        core: None,
    }
}

/// Every flood opens its connections, and sends what it is there for.
#[tokio::test]
async fn every_flood_runs() {
    for kind in Kind::all() {
        let tally = Arc::new(Tally::default());
        let job = job(kind, server());
        let sends = !matches!(
            kind,
            Kind::HalfOpenNetworks
                | Kind::HalfOpenByte
                | Kind::HalfOpenNeighbour
                | Kind::HealthProxy
                | Kind::HealthProvisioner
                | Kind::HealthWebui
                | Kind::ContainerPort
        );
        let under_way = async {
            loop {
                let report = tally.report();
                if report.opened >= 3 && (report.sent > 0 || !sends) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = run(&job, &tally) => panic!("{kind:?} ended: {done:?}"),
            under_way = tokio::time::timeout(DEADLINE, under_way) => {
                assert!(under_way.is_ok(), "{kind:?}: {:?}", tally.report());
            }
        }
        assert_eq!(tally.report().failed, 0, "{kind:?}");
    }
}

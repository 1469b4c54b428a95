//! `memgate top`: once, for scripts, beside clients that use a cache; and in a terminal, which it leaves as it was.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use testkit::SetOnDrop;

use crate::commands_with_proxy::with_ada;
use crate::harness::{Product, deadline_in, signal, wait_until};
use crate::text_client::TextClient;

#[test]
fn top_once_shows_what_clients_do() {
    let product = Product::start();
    let (ada, bob) = (product.add_user("ada@example.org"), product.add_user("bob@example.org"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (product, ada, done) = (&product, &ada, &done);
        scope.spawn(move || {
            let mut text = TextClient::log_in(product.endpoint(), ada);
            assert_eq!(text.set("key", b"value"), "STORED");
            while !done.load(Ordering::Relaxed) {
                // A hit and a miss.
                assert!(text.get("key").unwrap().is_some() && text.get("nothing").unwrap().is_none());
            }
        });
        let _done = SetOnDrop(done);
        let shown = product.json(&["top", "--window", "12"]);
        let first = &shown["caches"][0];
        assert_eq!(
            (&first["email"], &first["cache"], &first["state"]),
            (&ada.email.as_str().into(), &"default".into(), &"running".into())
        );
        assert!(first["operations_per_second"].as_f64().unwrap() > 10.0, "{shown}");
        assert!((450..=550).contains(&first["hits_per_thousand"].as_i64().unwrap()), "{shown}");
        assert!(first["p99_us"].as_i64().unwrap() > 0 && first["connections"] == 1, "{shown}");
        assert_eq!(first["memory_limit_bytes"], 64 << 20);
        assert_eq!(shown["caches"][1]["email"], bob.email);
        assert_eq!(shown["total"]["operations_per_second"], first["operations_per_second"]);
        let proxy = &shown["proxies"][0];
        assert!(proxy["lag_revisions"].as_i64().unwrap() < 10 && proxy["connections"] == 1, "{shown}");
        for (at, name) in ["proxy", "provisioner", "webui"].into_iter().enumerate() {
            let role = &shown["roles"][at];
            assert_eq!((&role["role"], &role["ready"]), (&name.into(), &true.into()));
            assert!(role["memory_bytes"].as_f64().unwrap() > 1e6 && role["cpu_percent"].is_f64(), "{role}");
        }
        let text = product.run(&["top", "--once", "--window", "1", "--sort", "name"]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("ada@example.org default"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    });
}

//
#[test]
fn top_in_a_terminal_obeys_keys_and_leaves_it_as_it_was() {
    let (installation, _) = with_ada();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let is_cooked = || tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON);
    assert!(is_cooked());
    let mut keyboard = std::fs::File::from(master);
    let mut screen = keyboard.try_clone().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let written = seen.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = screen.read(&mut bytes) {
            written.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    });
    let start = || {
        seen.lock().unwrap().clear();
        let mut top = installation.memgate(&["top"]);
        top.stdin(Stdio::from(slave.try_clone().unwrap())).stdout(Stdio::from(slave.try_clone().unwrap()));
        let top = top.spawn().unwrap();
        wait_until(deadline_in(30), "the cache is shown", || {
            seen.lock().unwrap().contains("ada@example.org default")
        });
        assert!(!is_cooked());
        top
    };
    let left = |mut top: std::process::Child| {
        wait_until(deadline_in(30), "it ends", || top.try_wait().unwrap().is_some());
        assert!(top.wait().unwrap().success() && is_cooked());
        wait_until(deadline_in(10), "the first screen is back", || {
            seen.lock().unwrap().ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l")
        });
    };

    let top = start();
    keyboard.write_all(b"x\x1b[Anc").unwrap();
    keyboard.write_all(b"q").unwrap();
    left(top);
    let shown = seen.lock().unwrap().clone();
    assert!(shown.contains("proxy        not ready: not running") && shown.contains("q quit"), "{shown:?}");
    let plain = shown.replace("\x1b[K", "").replace("\x1b[J", "").replace("\x1b[H", "\n");
    let lines = plain.lines().filter(|line| !line.contains('\x1b'));
    assert!(
        lines.clone().count() > 10 && lines.into_iter().all(|line| line.chars().count() <= 80),
        "{plain}"
    );

    // Ctrl-C is a byte in raw mode; SIGTERM isn't.
    let top = start();
    keyboard.write_all(b"\x03").unwrap();
    left(top);
    let top = start();
    signal(top.id(), "TERM");
    left(top);

    let refused = installation.run(&["top"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"), "{refused:?}");
}

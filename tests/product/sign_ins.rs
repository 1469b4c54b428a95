//! 500 sign-ins at once: the memory of the web UI stays bounded, and users sign in afterwards.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Barrier;

use crate::harness::{Product, deadline_in, wait_until};

const AT_ONCE: u16 = 500;
/// Four hashes of 19 MiB each, and 256 KiB for each connection and its request. Without a bound it would be 9,500 MiB.
const GROWTH_MAX_KIB: u64 = 4 * 19 * 1024 + 500 * 256;

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Sends a request on a connection of its own, and returns the answer.
fn exchange(web: SocketAddr, source: IpAddr, request: &str) -> String {
    let mut stream = testkit::connect_from(source, web).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Signs in from an address, together with all that wait at the barrier. Returns the status.
fn sign_in(web: SocketAddr, source: IpAddr, (email, password): (&str, &str), together: &Barrier) -> u16 {
    let head = format!("HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n");
    let form = exchange(web, source, &format!("GET /sign-in {head}\r\n"));
    let between = |before: &str, after: char| {
        let (_, rest) = form.split_once(before).unwrap_or_else(|| panic!("{form}"));
        rest.split(after).next().unwrap().to_owned()
    };
    let (token, cookie) = (between("name=\"csrf_token\" value=\"", '"'), between("set-cookie: ", ';'));
    let body = format!("csrf_token={token}&email={}&password={password}", email.replace('@', "%40"));
    together.wait();
    let answer = exchange(
        web,
        source,
        &format!(
            "POST /sign-in {head}Sec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

//
#[test]
fn sign_ins_at_once_take_bounded_memory() {
    let product = Product::start_with(&[]);
    let email = "ada@example.org";
    product.json(&["user", "add", email, "--no-wait"]);
    let printed = product.json(&["user", "reset-password", email]);
    let password = printed["password"].as_str().unwrap();
    product.register_secret(password);
    let (web, pid) = (product.web(), product.role("webui").unwrap());
    let before = memory(pid, "VmRSS");
    // The peak counts from now on.
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let together = Barrier::new(usize::from(AT_ONCE));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all = (0..AT_ONCE).map(|n| {
            let [high, low] = n.to_be_bytes();
            let source = Ipv4Addr::new(127, 79, high, low.max(1)).into();
            let together = &together;
            scope.spawn(move || sign_in(web, source, (&format!("u{n}@example.org"), "wrong horse"), together))
        });
        all.collect::<Vec<_>>().into_iter().map(|one| one.join().unwrap()).collect()
    });
    let growth = memory(pid, "VmHWM").saturating_sub(before);
    let checked = statuses.iter().filter(|status| **status == 401).count();
    println!("{growth} KiB more at most, {checked} of {AT_ONCE} passwords checked");
    assert!(growth <= GROWTH_MAX_KIB, "{growth} KiB");
    assert!(checked >= 16 && statuses.iter().all(|status| [401, 429, 503].contains(status)), "{statuses:?}");
    assert_eq!(product.role("webui"), Some(pid), "it wasn't restarted");
    let alone = Barrier::new(1);
    wait_until(deadline_in(20), "a user signs in", || {
        sign_in(web, Ipv4Addr::new(127, 80, 0, 1).into(), (email, password), &alone) == 303
    });
}

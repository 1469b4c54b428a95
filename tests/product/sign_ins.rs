//! 500 people sign in at the same moment: the web UI's memory stays within bounds. What applications feel of it is measured by
//! `deploy/measure sign-ins`.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::time::Duration;

use crate::harness::Product;

const PEOPLE: u8 = 250;
/// From each of their addresses.
const TABS: usize = 2;
/// MiB of the web UI in a debug build: four hashes of 19 MiB, and a thousand sockets. 500 hashes at once would take 9,500.
const RESIDENT_MAX: u64 = 400;

/// One request on a connection of its own. Returns the whole reply.
fn request(product: &Product, source: Ipv4Addr, request: &str) -> String {
    let mut stream = testkit::connect_from(source.into(), product.web()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    reply
}

fn field<'a>(page: &'a str, before: &str, after: char) -> &'a str {
    page.split_once(before).unwrap_or_else(|| panic!("no {before} in {page}")).1.split(after).next().unwrap()
}

/// Signs in with a wrong password when all are ready. Returns the reply's status.
fn sign_in(product: &Product, source: Ipv4Addr, all_ready: &Barrier) -> String {
    let host = format!("Host: {}\r\nConnection: close\r\n", product.web());
    let page = request(product, source, &format!("GET /sign-in HTTP/1.1\r\n{host}\r\n"));
    let cookie = field(&page, "set-cookie: ", ';');
    let token = field(&page, "name=\"csrf_token\" value=\"", '"');
    let body = format!("csrf_token={token}&email={source}@example.org&password=wrong+horse+battery");
    all_ready.wait();
    let reply = request(
        product,
        source,
        &format!(
            "POST /sign-in HTTP/1.1\r\n{host}Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    reply.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

//
#[test]
fn sign_ins_of_500_people_at_once_take_bounded_memory() {
    let product = Product::start_with(&[]);
    let all_ready = Barrier::new(usize::from(PEOPLE) * TABS);
    let statuses: Vec<String> = std::thread::scope(|scope| {
        let (product, all_ready) = (&product, &all_ready);
        let people = (1..=PEOPLE).flat_map(|person| [Ipv4Addr::new(127, 9, person, 1); TABS]);
        let people: Vec<_> =
            people.map(|source| scope.spawn(move || sign_in(product, source, all_ready))).collect();
        people.into_iter().map(|person| person.join().unwrap()).collect()
    });
    let count = |status: &str| statuses.iter().filter(|it| *it == status).count();
    // Nobody waits without an answer: the rest are told to try again.
    assert_eq!(count("401") + count("429") + count("503"), statuses.len(), "{statuses:?}");
    assert!(count("401") > 0, "{statuses:?}");
    let peak = resident_mib(product.role("webui").unwrap());
    assert!(peak < RESIDENT_MAX, "{peak} MiB");
    let waits = count("429") + count("503");
    println!("{} answered at once, {waits} told to try again; web UI {peak} MiB", count("401"));
}

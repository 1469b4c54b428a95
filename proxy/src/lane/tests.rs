//! Lanes against hostile backends: a client gets an error, never a value that it didn't ask for.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use store::LaneCredential;

use crate::metrics::Metrics;
use crate::protocol::request::{Command, Key, KeyForm, Mode, ReplyFormat, Store, TextFormat};
use crate::responses::BufferPool;
use crate::transport::Stream;

const GET: Request<'static> = Request {
    command: Command::Get { exptime: None },
    key: Key { bytes: b"a", form: KeyForm::Plain },
    format: ReplyFormat::Text(TextFormat::Value { with_cas: false, last: true }),
};
const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable\r\n";

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";

/// Refuses the lane's first request, as an instance does.
async fn refuse_first_request(stream: &mut TcpStream) {
    let mut request = [0; 128];
    let read = stream.read(&mut request).await.unwrap();
    assert_eq!(&request[..read], b"version\r\n");
    stream.write_all(UNAUTHENTICATED).await.unwrap();
}

fn faults() -> LaneFaults {
    LaneFaults::new(Metrics::default().into())
}

/// What a fake memcached replies to a lane's two requests.
struct FakeBackend {
    replies: &'static [u8],
    /// Whether it closes the connection then, or sends nothing more.
    closes: bool,
}

fn usage() -> Rc<Usage> {
    Rc::new(Usage::new())
}

/// The two sockets of one connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// A listener, and a route to it.
async fn listen() -> (TcpListener, Route) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, credential) = (listener.local_addr().unwrap(), LaneCredential::new("secret".into()));
    (listener, Route { address, generation: 1, credential, value_max: 100 })
}

/// Sends two gets of one client on one lane to `backend`. Returns what the client receives.
async fn two_gets(backend: FakeBackend) -> String {
    let (listener, route) = listen().await;
    let fake = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        refuse_first_request(&mut stream).await;
        let mut login = [0; 128];
        let read = stream.read(&mut login).await.unwrap();
        assert!(login[..read].ends_with(b"\r\nlane secret\r\n"));
        stream.write_all(b"STORED\r\n").await.unwrap();
        let read = stream.read(&mut login).await.unwrap();
        assert_eq!(&login[..read], b"version\r\n");
        stream.write_all(b"VERSION 1.6.18\r\n").await.unwrap();
        let mut requests = Vec::new();
        while requests.iter().filter(|byte| **byte == b'\n').count() < 2 {
            if stream.read_buf(&mut requests).await.unwrap() == 0 {
                return;
            }
        }
        assert_eq!(requests, b"mg a v f O0\r\nmg a v f O1\r\n");
        stream.write_all(backend.replies).await.unwrap();
        if !backend.closes {
            let _ = stream.read_buf(&mut requests).await;
        }
    };
    let (mut client, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::<BufferPool>::default());
    let lane = Lane::new(route.value_max, usage(), false);
    lane.send(&GET, &responses);
    lane.send(&GET, &responses);
    let local = LocalSet::new();
    local.spawn_local(fake);
    let (buffers, faults) = (ReadBufferPool::default(), faults());
    let run = async {
        let (stream, _) = connect::connect(&route).await.unwrap();
        lane.run(&stream, route.address, &faults, &buffers).await
    };
    local.run_until(run).await;
    assert!(!lane.is_open());
    assert_eq!(responses.in_flight(), 0);
    drop((lane, responses));
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    received
}

#[tokio::test]
async fn protocol_violation_closes_the_lane_and_nothing_else() {
    let value = "VALUE a 5 3\r\nabc\r\nEND\r\n";
    let both = format!("{UNAVAILABLE}{UNAVAILABLE}");
    let first = format!("{value}{UNAVAILABLE}");
    for (replies, expected) in [
        (&b"VA 3 f5 O0\r\nabc\r\nEN O1\r\n"[..], format!("{value}END\r\n")),
        // The tag of another request, the same tag twice, the wrong order, no tag.
        (b"VA 3 f5 O7\r\nabc\r\n", both.clone()),
        (b"VA 3 f5 O0\r\nabc\r\nVA 3 f5 O0\r\nabc\r\n", first.clone()),
        (b"VA 3 f5 O1\r\nabc\r\nVA 3 f5 O0\r\nabc\r\n", both.clone()),
        (b"VA 3 f5\r\nabc\r\n", both.clone()),
        // One reply too many.
        (b"VA 3 f5 O0\r\nabc\r\nEN O1\r\nEN O2\r\n", format!("{value}END\r\n")),
        // Invalid replies to a get.
        (b"HD O0\r\n", both.clone()),
        (b"VERSION 1\r\n", both.clone()),
        (b"SERVER_ERROR object too large for cache\r\n", both.clone()),
        (b"VALUE a 0 3\r\nabc\r\nEND\r\n", both.clone()),
        // Too large, truncated, garbage.
        (b"VA 101 f5 O0\r\n", both.clone()),
        (b"VA 3 f5 O0\r\nabcdefgh", both.clone()),
        (b"VA 3 f5 O0\r\nabc\r\nVA 3 f5 O1\r\na", first.clone()),
        (b"\0\xff\x80garbage\r\n", both.clone()),
        (&[b'x'; 3000], both.clone()),
        (b"", both.clone()),
    ] {
        let received = two_gets(FakeBackend { replies, closes: true }).await;
        assert_eq!(received, expected, "{:?}", String::from_utf8_lossy(replies));
    }
}

//
#[tokio::test]
async fn lane_opens_only_with_its_own_secret() {
    for login_reply in [&b"CLIENT_ERROR authentication failure\r\n"[..], b"ERROR\r\n\r\n", b"STOR"] {
        let (listener, route) = listen().await;
        let fake = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            refuse_first_request(&mut stream).await;
            let mut login = [0; 128];
            let read = stream.read(&mut login).await.unwrap();
            assert!(login[..read].ends_with(b"\r\nlane secret\r\n"));
            stream.write_all(login_reply).await.unwrap();
        };
        let (connected, ()) = tokio::join!(connect::connect(&route), fake);
        assert!(connected.is_err(), "{}", login_reply.escape_ascii());
    }
}

// F-21, L-4.
#[tokio::test]
async fn only_what_refuses_a_request_without_a_login_is_shown_the_secret() {
    for reply in [
        &b"VERSION 1.6.45\r\n"[..],
        b"STORED\r\n",
        b"ERROR\r\n",
        b"CLIENT_ERROR unauthenticated\r\nSTORED\r\n",
    ] {
        let (listener, route) = listen().await;
        let foreign = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = vec![0; 9];
            stream.read_exact(&mut received).await.unwrap();
            stream.write_all(reply).await.unwrap();
            // Until the lane closes.
            let _ = stream.read_to_end(&mut received).await;
            received
        };
        let (connected, received) = tokio::join!(connect::connect(&route), foreign);
        assert!(connected.is_err());
        assert_eq!(String::from_utf8_lossy(&received), "version\r\n", "{}", reply.escape_ascii());
    }
}

#[tokio::test]
async fn silent_backend_times_out() {
    let started = Instant::now();
    let received = two_gets(FakeBackend { replies: b"EN O0\r\n", closes: false }).await;
    assert_eq!(received, "END\r\nSERVER_ERROR backend timed out\r\n");
    assert!(started.elapsed() >= REPLY_TIMEOUT);
}

#[tokio::test]
async fn local_reply_keeps_its_place() {
    let (mut client, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::<BufferPool>::default());
    let mut in_flight = InFlight::new(ValueLimits { max: 100, inline_max: 100 }, usage());
    let tag = in_flight.push(&GET, responses.clone());
    in_flight.push_local(Cow::Borrowed(b"ERROR\r\n"), responses.clone());
    assert_eq!((tag, in_flight.push(&GET, responses.clone())), (0, 1));
    let mut dirty = Vec::new();
    in_flight.deliver(b"EN O0\r\nVA 1 f0 O1\r\nx\r\n", &mut dirty).unwrap();
    assert!(in_flight.is_empty());
    dirty.iter().for_each(|client| client.flush_dirty());
    drop((dirty, responses));
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "END\r\nERROR\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
}

#[tokio::test]
async fn full_lane_wakes_held_sessions_when_it_has_room() {
    let (listener, route) = listen().await;
    let (_client, stream) = pair().await;
    let (_other, idle) = pair().await;
    let (responses, idle) = (
        ResponseQueue::new(Stream::plain(stream), Rc::default()),
        ResponseQueue::new(Stream::plain(idle), Rc::default()),
    );
    let lane = Lane::new(route.value_max, usage(), false);
    let value = vec![b'v'; 256 * 1024];
    let store = Store { mode: Mode::Set, flags: 0, exptime: 0, cas: None, value: &value };
    let format = ReplyFormat::Text(TextFormat::Line { noreply: false });
    let set = Request { command: Command::Store(store), key: GET.key, format };
    for _ in 0..4 {
        assert!(!lane.is_full());
        lane.send(&set, &responses);
    }
    assert!(lane.is_full());
    lane.hold(&idle);
    let fake = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        refuse_first_request(&mut stream).await;
        let mut requests = Vec::new();
        while !requests.ends_with(b"lane secret\r\n") {
            stream.read_buf(&mut requests).await.unwrap();
        }
        stream.write_all(b"STORED\r\n").await.unwrap();
        while !requests.ends_with(b"version\r\n") {
            stream.read_buf(&mut requests).await.unwrap();
        }
        stream.write_all(b"VERSION 1.6.18\r\n").await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    };
    let (buffers, faults) = (ReadBufferPool::default(), faults());
    let _waiting = idle.wake_on_reply();
    let run = async {
        let (stream, _) = connect::connect(&route).await.unwrap();
        lane.run(&stream, route.address, &faults, &buffers).await
    };
    tokio::select! {
        () = idle.changed() => assert!(!lane.is_full()),
        () = fake => panic!("the lane was closed"),
        _ = run => panic!("the lane was closed"),
    }
    // Dropped while running, as by a panic: all requests are answered.
    assert!(!lane.is_open());
    assert_eq!(responses.in_flight(), 0);
}

//
#[tokio::test]
async fn requests_in_flight_are_bounded_and_their_memory_is_returned() {
    let (_client, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::default());
    let lane = Lane::new(100, usage(), false);
    for _ in 0..in_flight::PENDING_MAX {
        assert!(!lane.is_full());
        lane.in_flight.borrow_mut().push(&GET, responses.clone());
    }
    assert!(lane.is_full());
    lane.in_flight.borrow_mut().fail(Fault::Unavailable);
    assert!(!lane.is_full());
    assert!(lane.in_flight.borrow().capacity() < in_flight::PENDING_MAX / 16);
}

//
#[tokio::test]
async fn local_replies_that_wait_count_as_unread() {
    let (_client, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::default());
    let lane = Lane::new(100, usage(), false);
    lane.send(&GET, &responses);
    for _ in 0..256 {
        assert!(!responses.is_full());
        lane.send_local(Cow::Owned(vec![b'x'; 1024]), &responses);
    }
    assert!(responses.is_full());
    lane.in_flight.borrow_mut().fail(Fault::Unavailable);
    responses.abort();
    assert!(!responses.is_full());
}

#[tokio::test]
async fn session_that_waits_for_a_lane_is_noted_once() {
    let (_client, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::default());
    let lane = Lane::new(100, usage(), false);
    for _ in 0..3 {
        (0..100).for_each(|_| lane.hold(&responses));
        assert_eq!(lane.held.borrow().len(), 1);
        lane.wake_held();
        assert!(lane.held.borrow().is_empty());
    }
}

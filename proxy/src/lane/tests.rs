//! Lanes against backends that lie, break off or say nothing: a client gets an error, never a value
//! that isn't its own.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::protocol::request::{Command, Key, KeyForm, Mode, ReplyFormat, Store, TextFormat};
use crate::responses::BufferPool;
use crate::transport::Stream;

const GET: Request<'static> = Request {
    command: Command::Get { exptime: None },
    key: Key { bytes: b"a", form: KeyForm::Plain },
    format: ReplyFormat::Text(TextFormat::Value { with_cas: false, last: true }),
};
const UNAVAILABLE: &str = "SERVER_ERROR backend unavailable\r\n";

/// What one fake memcached does after it has read the lane's login and its requests.
struct Backend {
    welcome: &'static [u8],
    says: &'static [u8],
    /// Whether it closes then, or stays silent.
    closes: bool,
}

fn usage() -> Rc<Usage> {
    Rc::new(Usage::new())
}

/// Two sockets of one connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Two gets of one client on one lane to `backend`; returns all that the client is told.
async fn two_gets(backend: Backend) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut login = [0; 128];
        let read = stream.read(&mut login).await.unwrap();
        assert!(login[..read].ends_with(b"\r\nlane secret\r\n"));
        stream.write_all(backend.welcome).await.unwrap();
        if backend.welcome == b"STORED\r\n" {
            let read = stream.read(&mut login).await.unwrap();
            assert_eq!(&login[..read], b"version\r\n");
            stream.write_all(b"VERSION 1.6.18\r\n").await.unwrap();
        }
        let mut asked = Vec::new();
        while asked.iter().filter(|byte| **byte == b'\n').count() < 2 {
            if stream.read_buf(&mut asked).await.unwrap() == 0 {
                return;
            }
        }
        assert_eq!(asked, b"mg a v f O0\r\nmg a v f O1\r\n");
        stream.write_all(backend.says).await.unwrap();
        if !backend.closes {
            let _ = stream.read_buf(&mut asked).await;
        }
    };
    let (mut caller, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::<BufferPool>::default());
    let target = Target { address, generation: 1, secret: "secret".into(), value_max: 100 };
    let lane = Lane::new(target.value_max, usage());
    lane.send(&GET, &responses);
    lane.send(&GET, &responses);
    let local = LocalSet::new();
    local.spawn_local(fake);
    let buffers = Buffers::default();
    local.run_until(lane.run(&target, &Cell::default(), &buffers)).await;
    assert!(!lane.is_open());
    assert_eq!(responses.in_flight(), 0);
    drop((lane, responses));
    let mut told = String::new();
    caller.read_to_string(&mut told).await.unwrap();
    told
}

#[tokio::test]
async fn a_backend_that_lies_fails_its_lane_and_nothing_else() {
    let value = "VALUE a 5 3\r\nabc\r\nEND\r\n";
    let both = format!("{UNAVAILABLE}{UNAVAILABLE}");
    let first = format!("{value}{UNAVAILABLE}");
    for (says, expected) in [
        (&b"VA 3 f5 O0\r\nabc\r\nEN O1\r\n"[..], format!("{value}END\r\n")),
        // Another's tag, twice the same, in the wrong order, none at all.
        (b"VA 3 f5 O7\r\nabc\r\n", both.clone()),
        (b"VA 3 f5 O0\r\nabc\r\nVA 3 f5 O0\r\nabc\r\n", first.clone()),
        (b"VA 3 f5 O1\r\nabc\r\nVA 3 f5 O0\r\nabc\r\n", both.clone()),
        (b"VA 3 f5\r\nabc\r\n", both.clone()),
        // One reply too many.
        (b"VA 3 f5 O0\r\nabc\r\nEN O1\r\nEN O2\r\n", format!("{value}END\r\n")),
        // What a get can't be told.
        (b"HD O0\r\n", both.clone()),
        (b"VERSION 1\r\n", both.clone()),
        (b"SERVER_ERROR object too large for cache\r\n", both.clone()),
        (b"VALUE a 0 3\r\nabc\r\nEND\r\n", both.clone()),
        // Too long, cut short, garbage.
        (b"VA 101 f5 O0\r\n", both.clone()),
        (b"VA 3 f5 O0\r\nabcdefgh", both.clone()),
        (b"VA 3 f5 O0\r\nabc\r\nVA 3 f5 O1\r\na", first.clone()),
        (b"\0\xff\x80garbage\r\n", both.clone()),
        (&[b'x'; 3000], both.clone()),
        (b"", both.clone()),
    ] {
        let told = two_gets(Backend { welcome: b"STORED\r\n", says, closes: true }).await;
        assert_eq!(told, expected, "{:?}", String::from_utf8_lossy(says));
    }
}

#[tokio::test]
async fn a_lane_opens_only_with_its_own_secret() {
    for welcome in [&b"CLIENT_ERROR authentication failure\r\n"[..], b"ERROR\r\n\r\n", b"STOR"] {
        let told = two_gets(Backend { welcome, says: b"VA 3 f5 O0\r\nabc\r\n", closes: true }).await;
        assert_eq!(told, format!("{UNAVAILABLE}{UNAVAILABLE}"));
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let begun = Instant::now();
    let told = two_gets(Backend { welcome: b"STORED\r\n", says: b"EN O0\r\n", closes: false }).await;
    assert_eq!(told, "END\r\nSERVER_ERROR backend timed out\r\n");
    assert!(begun.elapsed() >= REPLY_DEADLINE);
}

#[tokio::test]
async fn words_of_ours_keep_their_place() {
    let (mut caller, stream) = pair().await;
    let responses = ResponseQueue::new(Stream::plain(stream), Rc::<BufferPool>::default());
    let mut queue = Queue::new(ValueLimits { most: 100, whole: 100 }, usage());
    let tag = queue.push(&GET, responses.clone());
    queue.push_words(Cow::Borrowed(b"ERROR\r\n"), responses.clone());
    assert_eq!((tag, queue.push(&GET, responses.clone())), (0, 1));
    let mut touched = Vec::new();
    queue.deliver(b"EN O0\r\nVA 1 f0 O1\r\nx\r\n", &mut touched).unwrap();
    assert!(queue.is_empty());
    touched.iter().for_each(|client| client.barrier());
    drop((touched, responses));
    let mut told = String::new();
    caller.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "END\r\nERROR\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
}

#[tokio::test]
async fn a_full_lane_says_when_it_takes_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        address: listener.local_addr().unwrap(),
        generation: 1,
        secret: "secret".into(),
        value_max: 100,
    };
    let (_caller, stream) = pair().await;
    let (_other, idle) = pair().await;
    let (responses, idle) = (
        ResponseQueue::new(Stream::plain(stream), Rc::default()),
        ResponseQueue::new(Stream::plain(idle), Rc::default()),
    );
    let lane = Lane::new(target.value_max, usage());
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
        stream.write_all(b"STORED\r\n").await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"version\r\n") {
            stream.read_buf(&mut asked).await.unwrap();
        }
        stream.write_all(b"VERSION 1.6.18\r\n").await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    };
    let buffers = Buffers::default();
    let (_waiting, flags) = (idle.waiting(), Cell::default());
    tokio::select! {
        () = idle.changed() => assert!(!lane.is_full()),
        () = fake => panic!("the lane ended"),
        _ = lane.run(&target, &flags, &buffers) => panic!("the lane ended"),
    }
    // Dropped half-way, as by a panic: whoever waits is answered.
    assert!(!lane.is_open());
    assert_eq!(responses.in_flight(), 0);
}

#[tokio::test]
async fn a_lane_that_must_end_does_not_finish_connecting() {
    // Accepted by the kernel, answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target { address, generation: 1, secret: "secret".into(), value_max: 100 };
    let lane = Lane::new(target.value_max, usage());
    let begun = Instant::now();
    let (buffers, flags) = (Buffers::default(), Cell::default());
    let (end, ()) =
        tokio::join!(lane.run(&target, &flags, &buffers), async { lane.close(Fault::Unavailable) });
    assert_eq!(end, End::Failed(Fault::Unavailable));
    assert!(begun.elapsed() < REPLY_DEADLINE);
}

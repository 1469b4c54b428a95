//! Requests to receivers that do what they shouldn't. Receivers over TLS are in `tests/web/webhooks`.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn client(resolver: impl Fn(u16) -> Vec<SocketAddr> + Send + Sync + 'static) -> Client {
    let resolver: Resolver = Arc::new(move |_, port| {
        let found = resolver(port);
        Box::pin(async move { Ok(found) })
    });
    Client { resolver, ..Client::new(&Webhooks::default()).unwrap() }
}

fn signed() -> Signed {
    Signed { id: "n".into(), timestamp: 1, signatures: "v1,x".into() }
}

/// Private addresses that are allowed: those of the receivers of these tests.
fn loopback() -> Destinations {
    Destinations::new(vec!["127.0.0.1".parse().unwrap()])
}

async fn send(client: &Client, url: &str, destinations: &Destinations) -> Result<u16, SendError> {
    let url = WebhookUrl::parse(url, destinations).unwrap();
    client.send(&url, destinations, &signed(), "{}".into()).await
}

/// A receiver that answers its first connection with these bytes, and then is silent.
async fn receiver(reply: &'static [u8]) -> (u16, JoinSet<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.unwrap();
        head.truncate(read);
        let _ = stream.write_all(reply).await;
        // Until the other side closes.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        head
    });
    (port, tasks)
}

// W-28: of the addresses of a name, those that were checked are connected to, and one bad one is enough.
#[tokio::test]
async fn a_name_that_leads_elsewhere_at_each_look_up_is_refused() {
    let (port, mut tasks) = receiver(b"").await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    // Public when the webhook is created, this machine when it is used.
    let rebinding = client(move |port| {
        let public: SocketAddr = ([192, 0, 1, 1], port).into();
        let private: SocketAddr = ([127, 0, 0, 1], port).into();
        if counted.fetch_add(1, Ordering::Relaxed) == 0 { vec![private] } else { vec![public, private] }
    });
    let url = format!("https://rebind.example:{port}/");
    for looked in 1..=2 {
        let sent = send(&rebinding, &url, &Destinations::default()).await;
        assert_eq!(sent, Err(SendError::NotAllowed));
        assert_eq!(looks.load(Ordering::Relaxed), looked, "one look-up for each attempt");
    }
    for address in ["169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.213.7.99", "0.0.0.0"]
    {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let sent = send(&client(move |_| vec![address]), &url, &Destinations::default()).await;
        assert_eq!(sent, Err(SendError::NotAllowed), "{address}");
    }
    assert!(tasks.try_join_next().is_none(), "nobody has connected");
    assert_eq!(send(&client(|_| vec![]), &url, &loopback()).await, Err(SendError::Unresolved));
    // A user who names a host doesn't learn which names lead to private addresses.
    assert_eq!(SendError::Unresolved.to_string(), SendError::NotAllowed.to_string());
}

// W-28.
#[tokio::test]
async fn plain_text_goes_to_networks_that_are_allowed_only() {
    let (port, mut tasks) = receiver(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let to = |address: [u8; 4]| client(move |port| vec![(address, port).into()]);
    let url = format!("http://hooks.example:{port}/a?b");
    // Public, so TLS would be needed.
    assert_eq!(send(&to([192, 0, 1, 1]), &url, &loopback()).await, Err(SendError::NotAllowed));
    assert_eq!(send(&to([127, 0, 0, 1]), &url, &loopback()).await, Ok(204));
    let head = String::from_utf8(tasks.join_next().await.unwrap().unwrap()).unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("post /a?b http/1.1\r\n"), "{head}");
    for line in [
        &*format!("host: hooks.example:{port}\r\n"),
        "content-type: application/json\r\n",
        "webhook-id: n\r\n",
        "webhook-timestamp: 1\r\n",
        "webhook-signature: v1,x\r\n",
    ] {
        assert!(head.contains(line), "{head}");
    }
}

// W-29.
#[tokio::test]
async fn replies_are_bounded_and_redirects_not_followed() {
    let to_loopback = client(|port| vec![([127, 0, 0, 1], port).into()]);
    let endless = Vec::leak([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 1 << 20]].concat());
    let body = Vec::leak([b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 1 << 20]].concat());
    for (reply, expected) in [
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".as_slice(),
            Ok(302),
        ),
        // Its end never comes, and isn't waited for.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx", Ok(200)),
        (body, Ok(200)),
        (endless, Err(SendError::Protocol)),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Err(SendError::Protocol)),
        (b"HTTP/1.1 99999 \r\n\r\n", Err(SendError::Protocol)),
    ] {
        let (port, _tasks) = receiver(reply).await;
        let sent = send(&to_loopback, &format!("http://hooks.example:{port}/"), &loopback()).await;
        assert_eq!(sent, expected, "{}", String::from_utf8_lossy(&reply[..reply.len().min(40)]));
    }
}

// W-29.
#[tokio::test]
async fn a_receiver_that_hangs_has_a_time_limit() {
    let to_loopback = client(|port| vec![([127, 0, 0, 1], port).into()]);
    assert_eq!(to_loopback.request_timeout, Duration::from_secs(10));
    let to_loopback = Client { request_timeout: Duration::from_millis(200), ..to_loopback };
    for scheme in ["http", "https"] {
        let (port, _tasks) = receiver(b"").await;
        let sent = send(&to_loopback, &format!("{scheme}://hooks.example:{port}/"), &loopback()).await;
        assert_eq!(sent, Err(SendError::Timeout), "{scheme}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let sent = send(&to_loopback, &format!("http://hooks.example:{closed}/"), &loopback()).await;
    assert_eq!(sent, Err(SendError::Unreachable));
}

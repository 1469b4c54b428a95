//! What waits to be sent, and who is woken.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

async fn pair() -> (tokio::net::TcpStream, Rc<Outbox>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, Outbox::new(Stream::plain(listener.accept().await.unwrap().0), Rc::default()))
}

#[tokio::test]
async fn what_a_slow_reader_has_read_is_not_kept() {
    let (reader, outbox) = pair().await;
    let chunk = [b'x'; 256 * 1024];
    let mut scratch = [0; 32 * 1024];
    let mut said = 0;
    while said < 200 * chunk.len() {
        if outbox.unsent() < chunk.len() {
            outbox.say(&chunk);
            said += chunk.len();
        } else {
            reader.readable().await.unwrap();
            let _ = reader.try_read(&mut scratch);
            let _ = timeout(Duration::ZERO, outbox.stream().writable()).await;
        }
        outbox.flush();
        assert!(outbox.buffer.borrow().len() <= 8 * chunk.len(), "after {said} bytes");
    }
}

#[tokio::test]
async fn a_reply_before_the_wait_has_begun_ends_it() {
    let (_reader, outbox) = pair().await;
    let waiting = outbox.waiting();
    outbox.settle();
    timeout(Duration::from_secs(5), outbox.changed()).await.unwrap();
    drop(waiting);
    // And nobody is woken who doesn't wait for replies.
    outbox.settle();
    assert!(timeout(Duration::ZERO, outbox.changed()).await.is_err());
}

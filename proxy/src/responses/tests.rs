//! What waits to be sent, and who is woken.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

async fn pair() -> (tokio::net::TcpStream, Rc<ResponseQueue>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, ResponseQueue::new(Stream::plain(listener.accept().await.unwrap().0), Rc::default()))
}

#[tokio::test]
async fn what_a_slow_reader_has_read_is_not_kept() {
    let (reader, responses) = pair().await;
    let chunk = [b'x'; 256 * 1024];
    let mut scratch = [0; 32 * 1024];
    let mut said = 0;
    while said < 200 * chunk.len() {
        if responses.unsent() < chunk.len() {
            responses.say(&chunk);
            said += chunk.len();
        } else {
            reader.readable().await.unwrap();
            let _ = reader.try_read(&mut scratch);
            let _ = timeout(Duration::ZERO, responses.stream().writable()).await;
        }
        responses.flush();
        assert!(responses.buffer.borrow().len() <= 8 * chunk.len(), "after {said} bytes");
    }
}

#[tokio::test]
async fn a_reply_before_the_wait_has_begun_ends_it() {
    let (_reader, responses) = pair().await;
    let waiting = responses.waiting();
    responses.barrier();
    timeout(Duration::from_secs(5), responses.changed()).await.unwrap();
    drop(waiting);
    // And nobody is woken who doesn't wait for replies.
    responses.barrier();
    assert!(timeout(Duration::ZERO, responses.changed()).await.is_err());
}

//! Unsent bytes, and waking the session.

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
async fn sent_bytes_of_a_slow_reader_are_freed() {
    let (reader, responses) = pair().await;
    let chunk = [b'x'; 256 * 1024];
    let mut scratch = [0; 32 * 1024];
    let mut written = 0;
    while written < 200 * chunk.len() {
        if responses.unsent() < chunk.len() {
            responses.write_raw(&chunk);
            written += chunk.len();
        } else {
            reader.readable().await.unwrap();
            let _ = reader.try_read(&mut scratch);
            let _ = timeout(Duration::ZERO, responses.stream().writable()).await;
        }
        responses.flush();
        assert!(responses.out.buffer.borrow().len() <= 8 * chunk.len(), "after {written} bytes");
    }
}

#[tokio::test]
async fn reply_before_the_wait_ends_it() {
    let (_reader, responses) = pair().await;
    let guard = responses.wake_on_reply();
    responses.flush_dirty();
    timeout(Duration::from_secs(5), responses.changed()).await.unwrap();
    drop(guard);
    // Without the guard a reply wakes no task.
    responses.flush_dirty();
    assert!(timeout(Duration::ZERO, responses.changed()).await.is_err());
}

//! One connection: its requests, its time limits, and its end.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::activity::{Activity, Timeout};
use super::admission::Slot;
use super::body::{ResponseBody, TimedBody};
use super::{Local, Peer, Server, TokioIo};

impl Server {
    pub(super) async fn serve_connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        slot: Slot,
        stop: CancellationToken,
    ) {
        self.set_options(&stream);
        let (activity, local) = (slot.activity(), stream.local_addr().ok().map(Local));
        let service = service_fn(|request: Request<Incoming>| {
            let in_progress = Activity::begin_request(slot.activity());
            let timed = |body| Body::new(TimedBody::new(body, self.limits.body_timeout, slot.activity()));
            let mut request = request.map(timed);
            request.extensions_mut().insert(Peer(peer));
            local.map(|local| request.extensions_mut().insert(local));
            let routes = self.routes.clone();
            async move {
                let response: Response<Body> = routes.oneshot(request).await?;
                Ok::<_, std::convert::Infallible>(
                    response.map(|body| ResponseBody { body, _request: in_progress }),
                )
            }
        });
        let stream = TimedStream::new(stream, self.limits.write_timeout, activity);
        let mut connection = pin!(self.http().serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = slot.evicted() => return,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        let while_idle = result.as_ref().is_err_and(hyper::Error::is_timeout);
        if let Some(timeout) = slot.activity().timeout(while_idle) {
            self.metrics.count_close(timeout.cause());
        }
        if let Err(error) = result {
            tracing::debug!(%error, "connection failed");
        }
    }
}

/// A stream whose writes fail once the peer has taken no byte for a time.
struct TimedStream {
    stream: TcpStream,
    timeout: Duration,
    /// Runs while `stalled`.
    timer: Pin<Box<Sleep>>,
    stalled: bool,
    activity: Arc<Activity>,
}

impl TimedStream {
    fn new(stream: TcpStream, timeout: Duration, activity: Arc<Activity>) -> Self {
        let timer = Box::pin(tokio::time::sleep(timeout));
        Self { stream, timeout, timer, stalled: false, activity }
    }

    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        if !self.stalled {
            self.stalled = true;
            self.activity.begin_writing();
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
        ready!(self.timer.as_mut().poll(cx));
        self.activity.record_timeout(Timeout::Write);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.record_bytes();
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.after_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called once everything has been written: often, also while a body is read.
        self.activity.end_writing();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

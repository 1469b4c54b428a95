//! Bodies of requests and responses, which tell the connection's activity how the request goes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::activity::{Activity, RequestInProgress, Timeout};

/// A request's body. It fails if it isn't complete in time.
#[derive(Debug)]
pub(super) struct TimedBody {
    body: Incoming,
    timeout: Pin<Box<Sleep>>,
    activity: Arc<Activity>,
}

impl TimedBody {
    /// The time begins now, with the request's head.
    pub(super) fn new(body: Incoming, timeout: Duration, activity: Arc<Activity>) -> Self {
        Self { body, timeout: Box::pin(tokio::time::sleep(timeout)), activity }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if frame.is_none() || self.body.is_end_stream() {
                self.activity.end_reading();
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.activity.begin_reading();
        ready!(self.timeout.as_mut().poll(cx));
        self.activity.record_timeout(Timeout::Body);
        Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.activity.end_reading();
    }
}

/// A response's body. Its request is in progress until it is dropped.
#[derive(Debug)]
pub(super) struct ResponseBody {
    pub(super) body: Body,
    pub(super) _request: RequestInProgress,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

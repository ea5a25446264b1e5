//! One connection, and the exchange of requests and answers on it.
//!
//! hyper splits a client connection into a sender and a future that does the reading and writing.
//! Usually that future is spawned. Here it is kept next to the sender and polled by the request
//! that is in progress, which has three consequences:
//!
//! - There is no task to name, count and drain for each connection, and dropping the
//!   [`Connection`] closes the socket at once.
//! - A server that closes an idle connection is noticed only by the next request. It fails before a
//!   byte is sent, and returns the request in [`Unanswered`].
//! - Nothing is read between requests: bytes that the server sends stay in the socket's buffer.

use super::failure::Failure;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use std::{
    error::Error,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The largest head of an answer, in bytes.
///
/// The bound is hyper's read buffer, which holds the head as a whole. A longer head is an error of
/// the request, so a faulty server cannot make the client buffer without end. hyper panics for a
/// bound below 8 KiB. Bodies have a bound of their own, given to [`Connection::read`].
const HEAD_LIMIT: usize = 64 * 1024;

/// An open connection, for one request at a time.
///
/// It is polled only by the futures of its methods. After an error, or after a future that was
/// dropped, it cannot be used again.
pub(crate) struct Connection {
    /// The half to which requests are given. It waits for the driver to write them.
    sender: http1::SendRequest<Full<Bytes>>,
    /// The future that drives the connection; `None` once the connection is closed.
    ///
    /// It is boxed because its type depends on the stream, TCP or TLS. Its output is empty: an
    /// error of the connection reaches the request through `sender`.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// True once a request was sent. The first request does not wait until the sender is ready,
    /// because hyper accepts one request before the driver was first polled.
    used: bool,
}

/// A request without an answer.
pub(crate) struct Unanswered {
    /// The reason, always a [`Failure::Http`].
    pub(crate) failure: Failure,
    /// The request, if no byte of it was sent, because the connection was closed before. Any other
    /// request may have been processed, so sending it again may process it twice.
    ///
    /// Boxed to keep the error, and with it every `Result` on the way, small.
    pub(crate) unsent: Option<Box<Request<Full<Bytes>>>>,
}

// === impl Connection ===

impl Connection {
    /// Begins to speak HTTP on a stream. Sends nothing yet.
    ///
    /// Allocates the driver. The stream is owned from here on, and closed when the connection is
    /// dropped.
    ///
    /// # Errors
    ///
    /// Returns an error of hyper, which makes none today.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Http)?;
        let driver = async {
            // The exchange sees the error.
            connection.await.ok();
        };
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
            used: false,
        })
    }

    /// Sends a request and waits for the head of its answer. The answer to an earlier request must
    /// have been read.
    ///
    /// Returns at the end of the head; the body arrives while [`read`](Self::read) runs. Unless the
    /// body is read, the connection cannot be used for a next request, and the caller drops it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future may leave a request half written. The connection must
    /// be dropped too.
    ///
    /// # Errors
    ///
    /// Returns the failure, with the request if it can safely be sent again.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let sender = &mut self.sender;
        let is_again = std::mem::replace(&mut self.used, true);
        let answer = async {
            // A new connection takes the first request without having asked for it.
            if is_again && let Err(error) = sender.ready().await {
                return Err(Unanswered {
                    failure: Failure::Http(error),
                    unsent: Some(Box::new(request)),
                });
            }
            sender
                .try_send_request(request)
                .await
                .map_err(|mut error| Unanswered {
                    unsent: error.take_message().map(Box::new),
                    failure: Failure::Http(error.into_error()),
                })
        };
        beside(&mut self.driver, answer).await
    }

    /// Reads the body of an answer. After that, the connection can be used for the next request.
    ///
    /// The whole body is collected in memory, at most `limit` bytes. A `Content-Length` above
    /// `limit` is not looked at in advance: the body is read until the limit is passed.
    ///
    /// # Errors
    ///
    /// Returns the `hyper::Error` of a body that is cut off, or another error if it is longer than
    /// `limit` bytes.
    pub(crate) async fn read(
        &mut self,
        body: Incoming,
        limit: usize,
    ) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        let whole = Limited::new(body, limit).collect();
        let whole = beside(&mut self.driver, whole).await?;
        Ok(whole.to_bytes())
    }

    /// Reads the body of an answer until `is_enough` returns true for what was read, or `limit` bytes
    /// or the whole body were read. Returns what was read, at most `limit` bytes.
    ///
    /// `is_enough` is called for each frame that arrives. Unless the whole body was read, the
    /// connection cannot be used again.
    ///
    /// # Errors
    ///
    /// Returns [`Failure::Http`] if the body is cut off.
    #[cfg(feature = "service")]
    pub(crate) async fn read_until(
        &mut self,
        mut body: Incoming,
        limit: usize,
        mut is_enough: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Failure> {
        let start = async {
            let mut start = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(Failure::Http)?.into_data() else {
                    continue;
                };
                let room = limit - start.len();
                start.extend_from_slice(&data[..room.min(data.len())]);
                if is_enough(&start) || start.len() == limit {
                    break;
                }
            }
            Ok(start)
        };
        beside(&mut self.driver, start).await
    }
}

/// Returns the output of `work`, and drives the connection until then.
///
/// Both are polled within one task, so neither needs a lock or a channel beyond hyper's own. `work`
/// is polled before and after the driver: before, to give it the chance to hand the driver
/// something to write; after, because progress of the driver wakes `work` only through the waker of
/// this same task, which would cost another poll.
///
/// A driver that has ended is dropped and not polled again, which would panic. `work` then gets its
/// error from the sender.
async fn beside<T>(
    driver: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if driver
            .as_mut()
            .is_some_and(|open| open.as_mut().poll(cx).is_ready())
        {
            *driver = None;
        }
        // The connection may have made progress possible. If it was closed, `work` sees the error.
        work.as_mut().poll(cx)
    })
    .await
}

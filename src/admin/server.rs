//! A small HTTP/1 server whose every resource is bounded: connections, headers, time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Reply, plain};

/// Connections at a time: a few probes and scrapers, with room.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// Connections of one address at a time: nobody can keep all others out.
pub(super) const MOST_OF_ONE_PEER: usize = 16;
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const MOST_HEADERS: usize = 64;
/// Bytes of a request line and its headers.
const LARGEST_HEAD: usize = 16 * 1024;
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// No connection lives longer, idle or not: one that nobody uses frees its place.
const CONNECTION_WITHIN: Duration = Duration::from_mins(2);
/// How long a connection may take to end its last request.
const FAREWELL: Duration = Duration::from_secs(2);

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// Answers GET requests until `stop`, then lets those under way end.
pub(super) async fn serve<A, F>(listener: TcpListener, answer: A, stop: CancellationToken)
where
    A: Fn(Request<()>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send,
{
    let places = Places::default();
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = places.take(peer.ip().to_canonical()) {
                    let (answer, stop) = (answer.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, answer, stop).await;
                        drop(place);
                    });
                } else {
                    refuse(&stream).await;
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: others have to close some first.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Who is connected, and how often.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place, until it is dropped.
struct Place {
    places: Places,
    peer: IpAddr,
}

impl Places {
    /// One more connection of a peer, if there is room for it.
    fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let of_peer = taken.get(&peer).copied().unwrap_or(0);
        if of_peer >= MOST_OF_ONE_PEER || taken.values().sum::<usize>() >= MOST_CONNECTIONS {
            return None;
        }
        taken.insert(peer, of_peer + 1);
        Some(Place {
            places: self.clone(),
            peer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

/// Best effort: whoever is refused may not be reading. A new connection's buffer is empty, so this
/// does not wait for its other end.
async fn refuse(stream: &TcpStream) {
    if let Ok(Ok(())) = timeout(Duration::from_millis(100), stream.writable()).await {
        let _ = stream.try_write(BUSY);
    }
}

async fn connection<A, F>(stream: TcpStream, answer: A, stop: CancellationToken)
where
    A: Fn(Request<()>) -> F + Clone,
    F: Future<Output = Reply>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(within_time(request, answer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What goes wrong on a connection concerns its other end alone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_WITHIN) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

async fn within_time<A, F>(request: Request<Incoming>, answer: A) -> Reply
where
    A: Fn(Request<()>) -> F,
    F: Future<Output = Reply>,
{
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n");
        response
            .headers_mut()
            .insert(header::ALLOW, http::HeaderValue::from_static("GET"));
        return response;
    }
    // A body says nothing to us; it is not read.
    let answer = answer(request.map(|_| ()));
    timeout(REQUEST_WITHIN, answer)
        .await
        .unwrap_or_else(|_| plain(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n"))
}

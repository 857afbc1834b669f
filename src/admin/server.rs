//! A small HTTP/1 server with limits on all resources: connections, headers, time. If a new connection finds
//! no room, an idle one ends. Clients that connect and send nothing therefore cannot block a probe.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, plain};

/// Most connections at a time: enough for several probes and scrapers.
pub(super) const MOST_CONNECTIONS: usize = 64;
/// Connections that have lost their seats and are about to close.
const CLOSING: usize = 8;
/// Most connections of one address at a time.
pub(super) const MOST_OF_ONE_PEER: usize = 16;
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const MOST_HEADERS: usize = 64;
/// Most bytes of a request line and its headers.
const LARGEST_HEAD: usize = 16 * 1024;
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Longest life of a connection, idle or not, so that unused ones free their seats.
const CONNECTION_WITHIN: Duration = Duration::from_mins(2);
/// How long a connection may take to finish its last request.
const FAREWELL: Duration = Duration::from_secs(2);

/// Answers GET requests until `stop`, then waits for those in flight.
pub(super) async fn serve<A, F>(listener: TcpListener, answer: A, stop: CancellationToken)
where
    A: Fn(Request<()>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let seats = Seats::default();
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                // Connections that have lost their seats close their sockets first.
                while connections.len() >= MOST_CONNECTIONS + CLOSING {
                    sleep(Duration::from_millis(1)).await;
                }
                let place = seats.take(peer.ip().to_canonical());
                let (answer, stop) = (answer.clone(), stop.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, &place, answer, stop) => {}
                        // A newer connection took this seat: the socket closes here.
                        () = place.leave.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                // Most likely there are no file descriptors left: other connections have to close first.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// The current connections.
#[derive(Clone, Default)]
struct Seats(Arc<Mutex<Table>>);

/// One connection's seat, until it is dropped.
struct Guest {
    seats: Seats,
    number: u64,
    /// Cancelled when another connection takes this seat.
    leave: CancellationToken,
}

impl Seats {
    /// Takes a seat for a new connection of a peer.
    fn take(&self, peer: IpAddr) -> Guest {
        let mut table = self.lock();
        let leave = CancellationToken::new();
        let (number, evicted) = table.take(peer, leave.clone());
        drop(table);
        if let Some(evicted) = evicted {
            evicted.cancel();
        }
        Guest {
            seats: self.clone(),
            number,
            leave,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }
}

impl Guest {
    /// Marks the connection as busy with a complete request, until the result is dropped.
    fn busy(&self) -> Busy<'_> {
        self.seats.lock().set_busy(self.number, true);
        Busy(self)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

struct Busy<'a>(&'a Guest);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.seats.lock().set_busy(self.0.number, false);
    }
}

/// The connections in the order of their arrival. `E` is the means to end one.
#[derive(Default)]
struct Table<E = CancellationToken> {
    seats: BTreeMap<u64, Seat<E>>,
    /// The number of the next connection. Numbers are never reused, because a closing connection removes its
    /// number.
    next: u64,
}

struct Seat<E> {
    peer: IpAddr,
    /// Whether it is busy with a complete request. Otherwise it is idle, or its request is incomplete.
    busy: bool,
    end: E,
}

impl<E> Table<E> {
    /// Adds a connection, and returns its number and the connection that has to end for it. The oldest idle
    /// one ends: a probe sends its request at once, so its connection is among the youngest. A peer with too
    /// many connections loses one of its own. If all are busy, a peer with fewer connections replaces one of
    /// a peer with more. If none has more, the oldest ends. No client is refused: the new one may be the
    /// kubelet, which gets a quick answer. The connection that has been busy longest waits for Vault.
    fn take(&mut self, peer: IpAddr, end: E) -> (u64, Option<E>) {
        let of_peer = self.count(peer);
        let evicted = if of_peer >= MOST_OF_ONE_PEER {
            self.oldest(|seat| seat.peer == peer && !seat.busy)
                .or_else(|| self.oldest(|seat| seat.peer == peer))
        } else if self.seats.len() >= MOST_CONNECTIONS {
            let greedy = |seat: &Seat<E>| self.count(seat.peer) > of_peer + 1;
            self.oldest(|seat| !seat.busy)
                .or_else(|| self.oldest(greedy))
                .or_else(|| self.oldest(|_| true))
        } else {
            None
        };
        let evicted = evicted.and_then(|number| self.seats.remove(&number));
        let number = self.next;
        self.next += 1;
        let busy = false;
        self.seats.insert(number, Seat { peer, busy, end });
        (number, evicted.map(|seat| seat.end))
    }

    fn count(&self, peer: IpAddr) -> usize {
        self.seats.values().filter(|seat| seat.peer == peer).count()
    }

    fn oldest(&self, such: impl Fn(&Seat<E>) -> bool) -> Option<u64> {
        self.seats
            .iter()
            .find(|(_, seat)| such(seat))
            .map(|(number, _)| *number)
    }

    fn set_busy(&mut self, number: u64, busy: bool) {
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.busy = busy;
        }
    }
}

async fn connection<A, F>(stream: TcpStream, place: &Guest, answer: A, stop: CancellationToken)
where
    A: Fn(Request<()>) -> F + Clone,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let _busy = place.busy();
            Ok::<_, Infallible>(within_time(request, answer).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors on a connection matter only to its client.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(CONNECTION_WITHIN) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

async fn within_time<A, F>(request: Request<Incoming>, answer: A) -> Answer
where
    A: Fn(Request<()>) -> F,
    F: Future<Output = Answer>,
{
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is allowed\n");
        response
            .headers_mut()
            .insert(header::ALLOW, http::HeaderValue::from_static("GET"));
        return response;
    }
    // The body is not needed, and is not read.
    let answer = answer(request.map(|_| ()));
    timeout(REQUEST_WITHIN, answer)
        .await
        .unwrap_or_else(|_| plain(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// A table whose places are all taken: the connections of four peers, named by peer and order.
    fn full() -> Table<(u8, usize)> {
        let mut table = Table {
            seats: BTreeMap::new(),
            next: 0,
        };
        for order in 0..MOST_OF_ONE_PEER {
            for number in 1..=4 {
                let taken = table.take(peer(number), (number, order));
                assert!(matches!(taken, (_, None)));
            }
        }
        assert_eq!(table.seats.len(), MOST_CONNECTIONS);
        table
    }

    fn evicted((_, evicted): (u64, Option<(u8, usize)>)) -> Option<(u8, usize)> {
        evicted
    }

    #[test]
    fn the_oldest_idle_connection_ends_for_a_new_one() {
        let mut table = full();
        assert_eq!(evicted(table.take(peer(5), (5, 0))), Some((1, 0)));
        assert_eq!(evicted(table.take(peer(6), (6, 0))), Some((2, 0)));
        assert_eq!(table.seats.len(), MOST_CONNECTIONS);
    }

    #[test]
    fn a_peer_with_too_many_connections_loses_its_own() {
        let mut table = full();
        assert_eq!(evicted(table.take(peer(3), (3, 16))), Some((3, 0)));
        assert_eq!(evicted(table.take(peer(3), (3, 17))), Some((3, 1)));
    }

    #[test]
    fn a_connection_that_has_a_request_to_answer_stays_before_idle_ones() {
        let mut table = full();
        table.set_busy(0, true);
        assert_eq!(evicted(table.take(peer(5), (5, 0))), Some((2, 0)));
        table.set_busy(0, false);
        assert_eq!(evicted(table.take(peer(5), (5, 1))), Some((1, 0)));
    }

    #[test]
    fn while_all_are_busy_the_peers_with_most_connections_make_room_for_others_only() {
        let mut table = full();
        for seat in table.seats.values_mut() {
            seat.busy = true;
        }
        assert_eq!(
            evicted(table.take(peer(2), (2, 16))),
            Some((2, 0)),
            "too many of its own"
        );
        let newest = table.seats.last_key_value().map(|(number, _)| *number);
        table.set_busy(newest.unwrap(), true);
        assert_eq!(evicted(table.take(peer(5), (5, 0))), Some((1, 0)));
        let newest = table.seats.last_key_value().map(|(number, _)| *number);
        table.set_busy(newest.unwrap(), true);
        assert_eq!(evicted(table.take(peer(5), (5, 1))), Some((3, 0)));
    }

    #[test]
    fn while_as_many_peers_as_there_are_places_are_busy_the_newest_is_let_in() {
        let mut table = Table {
            seats: BTreeMap::new(),
            next: 0,
        };
        for number in 0..64 {
            table.take(peer(number), (number, 0));
        }
        for seat in table.seats.values_mut() {
            seat.busy = true;
        }
        assert_eq!(evicted(table.take(peer(64), (64, 0))), Some((0, 0)));
    }

    #[test]
    fn whoever_was_evicted_takes_away_no_seat_but_its_own() {
        let mut table = Table {
            seats: BTreeMap::new(),
            next: 0,
        };
        for order in 0..MOST_OF_ONE_PEER {
            let (number, _) = table.take(peer(1), (1, order));
            table.set_busy(number, order < 15);
        }
        // The youngest is the idle one, so it is the one that goes.
        let gone = table.seats.last_key_value().map(|(number, _)| *number).unwrap();
        let (number, evicted) = table.take(peer(1), (1, 16));
        assert_eq!(evicted, Some((1, 15)));
        assert_ne!(number, gone);
        table.seats.remove(&gone);
        assert_eq!(table.count(peer(1)), MOST_OF_ONE_PEER);
    }
}

//! The wire to an API server, as a service under a client.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::{HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::sleep;
use tower::{BoxError, Service};

use super::{Cable, Loss};
use crate::kubernetes::Answer;

impl Cable {
    /// A client for the API server of the process's cluster.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    async fn ask(self, request: Request<Body>) -> Result<Response<BoxBody<Bytes, BoxError>>, BoxError> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if let Ok(who) = HeaderValue::from_str(&self.who) {
            head.headers.insert("x-sim-actor", who);
        }
        let request = Request::from_parts(head, body);
        let what = format!("{} {}", request.method(), request.uri());
        let (cluster, who) = (self.cluster, Arc::clone(&self.who));
        let served = self
            .send(
                |weather| &weather.kubernetes,
                what,
                move |state, now| {
                    let answer = state.clusters[cluster].handle(now, &request);
                    if request.method() == Method::GET
                        && let Answer::Whole(reply) = &answer
                    {
                        let (server, path) = (&state.clusters[cluster], request.uri().path());
                        match reply.status().as_u16() {
                            200 => state.promises.has_read(cluster, path, now),
                            404 => state.promises.asked_in_vain(cluster, server, &who, path, now),
                            _ => {}
                        }
                    }
                    answer
                },
            )
            .await;
        match served {
            Ok(Answer::Whole(response)) => Ok(response.map(whole)),
            Ok(Answer::Watch(events)) => {
                let response = Response::builder().header("content-type", "application/json");
                Ok(response.body(self.forward(events))?)
            }
            Err(Loss::Interfered(status)) => Ok(Response::builder()
                .status(status)
                .body(whole(Bytes::from_static(b"interfered")))?),
            Err(loss) => Err(format!("no connection: {loss:?}").into()),
        }
    }

    /// Brings the events of a watch, one after the other, until the wire breaks: that nobody hears.
    fn forward(&self, mut events: UnboundedReceiver<Bytes>) -> BoxBody<Bytes, BoxError> {
        let (arrive, arrived) = mpsc::unbounded_channel();
        let cable = self.clone();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    biased;
                    () = cable.power.cancelled() => return,
                    event = events.recv() => event,
                };
                let (way, lost) = {
                    let mut state = cable.world.look();
                    let sky = state.weather.kubernetes.clone();
                    let micros = u64::try_from(sky.way.as_micros()).unwrap_or(u64::MAX);
                    let way = Duration::from_micros(state.chance.u64(50..=micros.max(50)));
                    (way, (sky.lost == 1000, sky.silent))
                };
                sleep(way).await;
                match (event, lost) {
                    (_, (true, true)) => {
                        // Nobody is told.
                        cable.power.cancelled().await;
                        return;
                    }
                    (None, _) | (_, (true, false)) => return,
                    (Some(event), _) => {
                        if arrive.send(event).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let frames = stream::unfold(arrived, |mut arrived| async move {
            let event = arrived.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(event)), arrived))
        });
        StreamBody::new(frames).boxed()
    }
}

fn whole(body: Bytes) -> BoxBody<Bytes, BoxError> {
    Full::new(body).map_err(|never| match never {}).boxed()
}

impl Service<Request<Body>> for Cable {
    type Response = Response<BoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}

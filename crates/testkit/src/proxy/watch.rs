//! A watch's answer on its way to the operator, event by event.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::plan::{Fault, Step};
use super::{Body, Process, broken, status_object};

/// How late a delayed event comes: a reconcile is over long before.
const DELAY: Duration = Duration::from_millis(400);

/// How many events are sent again.
const AGAIN: usize = 3;

/// The body of the answer to the operator.
pub(super) fn passed_on(reply: reqwest::Response, path: String, process: Arc<Process>) -> Body {
    let (sender, receiver) = channel(1);
    let watched = path.split('?').next().unwrap_or_default().to_owned();
    let mut wire = Wire {
        watched,
        process,
        sender,
        sent: VecDeque::new(),
    };
    tokio::spawn(async move {
        if let Err(error) = wire.pass_on(reply).await {
            let _ = wire.sender.send(Err(error)).await;
        }
    });
    StreamBody::new(frames(receiver)).boxed_unsync()
}

fn frames(
    mut receiver: Receiver<io::Result<Frame<Bytes>>>,
) -> impl futures_util::Stream<Item = io::Result<Frame<Bytes>>> {
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

struct Wire {
    watched: String,
    process: Arc<Process>,
    sender: Sender<io::Result<Frame<Bytes>>>,
    /// The last events, oldest first.
    sent: VecDeque<Bytes>,
}

impl Wire {
    /// Until either side ends it. An error breaks the connection to the operator.
    async fn pass_on(&mut self, mut reply: reqwest::Response) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let chunk = tokio::select! {
                () = self.sender.closed() => return Ok(()),
                chunk = reply.chunk() => chunk.map_err(broken)?,
            };
            let Some(chunk) = chunk else { return Ok(()) };
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Bytes = buffer.drain(..=end).collect();
                if self.process.dead.load(Ordering::SeqCst) || !self.event(line).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Whether the watch goes on after it.
    async fn event(&mut self, line: Bytes) -> io::Result<bool> {
        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
        let step = Step::of_event(&event, &self.watched);
        match step.and_then(|step| self.process.plan.step(step)) {
            Some(Fault::Delay) => tokio::time::sleep(DELAY).await,
            Some(Fault::Drop) => return Err(broken(())),
            Some(Fault::Expire) => {
                let status = status_object(410, "Expired", "too old resource version: 1 (2)");
                let error = format!("{}\n", json!({"type": "ERROR", "object": status}));
                self.send(error.into()).await?;
                return Ok(false);
            }
            Some(_) => {
                self.send(line.clone()).await?;
                for earlier in self.sent.clone() {
                    self.send(earlier).await?;
                }
            }
            None => {}
        }
        if event["type"] != "BOOKMARK" {
            self.sent.push_back(line.clone());
        }
        if self.sent.len() >= AGAIN {
            self.sent.pop_front();
        }
        self.send(line).await?;
        self.process.plan.end_of_step();
        Ok(true)
    }

    async fn send(&self, line: Bytes) -> io::Result<()> {
        self.sender.send(Ok(Frame::data(line))).await.map_err(broken)
    }
}

//! The wires between the operators and the servers: what is sent arrives late, twice as late as something sent after
//! it, or not at all; and so does the answer.

mod kubernetes;
mod vault;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::world::{State, World};

/// How the wires fare.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// On the way to each API server.
    pub kubernetes: Sky,
    /// On the way to Vault.
    pub vault: Sky,
    /// How long a login takes in Vault.
    pub login: Duration,
}

/// How one kind of wire fares. Chances are in thousandths.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sky {
    /// Longest way of most messages.
    pub way: Duration,
    /// How many take longer, and how long at most.
    pub slow: (u16, Duration),
    /// There is no connection.
    pub refused: u16,
    /// A request is lost.
    pub lost: u16,
    /// A reply is lost: the request was served.
    pub unanswered: u16,
    /// Something between answers with an error of its own.
    pub interfered: u16,
    /// What is lost is lost in silence: nobody is told that the connection is gone.
    pub silent: bool,
}

impl Default for Sky {
    fn default() -> Self {
        Self {
            way: Duration::from_millis(2),
            slow: (0, Duration::ZERO),
            refused: 0,
            lost: 0,
            unanswered: 0,
            interfered: 0,
            silent: false,
        }
    }
}

impl Sky {
    /// Whether anything can get lost.
    pub fn loses(&self) -> bool {
        self.refused + self.lost + self.unanswered + self.interfered > 0
    }

    /// Whether anything can come so late that nobody waits for it.
    pub fn is_slow(&self) -> bool {
        self.slow.0 > 0
    }

    /// Nothing comes through.
    pub fn away(silent: bool) -> Self {
        Self {
            refused: if silent { 0 } else { 1000 },
            lost: 1000,
            silent,
            ..Self::default()
        }
    }

    /// Something is lost now and then.
    pub fn stormy(silent: bool) -> Self {
        Self {
            slow: (100, Duration::from_secs(4)),
            refused: 30,
            lost: 40,
            unanswered: 80,
            interfered: 30,
            silent,
            ..Self::default()
        }
    }

    /// Much comes late, and nothing is lost.
    pub fn late() -> Self {
        Self {
            way: Duration::from_millis(20),
            slow: (300, Duration::from_secs(20)),
            ..Self::default()
        }
    }

    /// Everything takes its time, and overtakes.
    pub fn slow() -> Self {
        Self {
            way: Duration::from_millis(400),
            slow: (100, Duration::from_secs(20)),
            ..Self::default()
        }
    }
}

/// What has become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// There was no connection: nothing was sent.
    Refused,
    /// The connection broke; whether the request was served nobody knows.
    Broken,
    /// Something between has answered with this status.
    Interfered(u16),
}

/// What a message meets.
struct Fate {
    out: Duration,
    back: Duration,
    loss: Option<Loss>,
    /// It is served, whatever its sender hears.
    arrives: bool,
    silent: bool,
}

impl Fate {
    fn of(sky: &Sky, chance: &mut fastrand::Rng) -> Self {
        let mut way = || {
            let most = if chance.u16(..1000) < sky.slow.0 {
                sky.slow.1
            } else {
                sky.way
            };
            let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(chance.u64(50..=micros.max(50)))
        };
        let (out, back) = (way(), way());
        let status = [429, 500, 502, 503][chance.usize(..4)];
        let mut happens = |thousandths: u16| thousandths > 0 && chance.u16(..1000) < thousandths;
        let (loss, arrives) = if happens(sky.refused) {
            (Some(Loss::Refused), false)
        } else if happens(sky.lost) {
            (Some(Loss::Broken), false)
        } else if happens(sky.interfered) {
            (Some(Loss::Interfered(status)), false)
        } else if happens(sky.unanswered) {
            (Some(Loss::Broken), true)
        } else {
            (None, true)
        };
        Self {
            out,
            back,
            loss,
            arrives,
            silent: sky.silent,
        }
    }
}

/// The wires of one process. When its power is off, nothing new is sent and nothing is heard; what is on its way
/// goes on.
#[derive(Clone)]
pub struct Cable {
    world: Arc<World>,
    who: Arc<str>,
    cluster: usize,
    power: CancellationToken,
}

impl Cable {
    /// The wires of this process in this cluster.
    pub fn new(world: &Arc<World>, who: &str, cluster: usize, power: CancellationToken) -> Self {
        Self {
            world: Arc::clone(world),
            who: who.into(),
            cluster,
            power,
        }
    }

    /// Sends a message, has it served where it arrives, and brings what comes back. A loss in silence is waited for
    /// for ever.
    async fn send<R: Send + 'static>(
        &self,
        sky: impl FnOnce(&Weather) -> &Sky,
        what: String,
        serve: impl FnOnce(&mut State, SystemTime) -> R + Send + 'static,
    ) -> Result<R, Loss> {
        if self.power.is_cancelled() {
            return std::future::pending().await;
        }
        let (fate, number) = {
            let mut state = self.world.look();
            let sky = sky(&state.weather).clone();
            let mut fate = Fate::of(&sky, &mut state.chance);
            if what.ends_with("/login") {
                fate.back += state.weather.login;
            }
            (fate, state.call_begins(format!("{}: {what}", self.who)))
        };
        let _waiting = Waiting(&self.world, number);
        let (answer, answered) = oneshot::channel();
        let (world, who) = (Arc::clone(&self.world), Arc::clone(&self.who));
        // On its way it needs nobody who waits for it.
        tokio::spawn(async move {
            sleep(fate.out).await;
            let served = fate.arrives.then(|| world.act(serve));
            world.tell(&who, || match fate.loss {
                None => what,
                Some(loss) if fate.arrives => format!("{what} (the answer is lost: {loss:?})"),
                Some(loss) => format!("{what} (not served: {loss:?})"),
            });
            sleep(fate.back).await;
            let result = match (served, fate.loss) {
                (Some(reply), None) => Ok(reply),
                (_, loss) => Err(loss.unwrap_or(Loss::Broken)),
            };
            if matches!(result, Err(Loss::Broken)) && fate.silent {
                std::future::pending::<()>().await;
            }
            // Nobody may wait any more.
            let _ = answer.send(result);
        });
        tokio::select! {
            biased;
            () = self.power.cancelled() => std::future::pending().await,
            answer = answered => answer.unwrap_or(Err(Loss::Broken)),
        }
    }
}

/// A call that is waited for, until it is dropped.
struct Waiting<'a>(&'a World, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.look().call_ends(self.1);
    }
}

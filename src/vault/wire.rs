//! The wire to Vault: carries a request there, and brings what came back. In production that is HTTP, by a client
//! that is built anew when its certificates change or its connections seem dead. A test can put a Vault of its
//! own at the other end.
//!
//! Must not know what is asked, nor what replies mean.

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use reqwest::{Client, Request, Response};

use super::setup::{self, Access, SetupError};

/// What carries requests to Vault.
pub trait Wire: Send + Sync {
    /// Sends a request, and brings the reply's head; its body follows. Takes no longer than the request's own
    /// timeout allows, the body included.
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Broken>>;

    /// Takes new certificates into use, if there are any.
    fn refresh(&self) {}

    /// Counts the sets of connections, so that many who find one dead replace it once.
    fn number(&self) -> u64 {
        0
    }

    /// From now on requests go out on new connections, if these are still those with this number. Requests under
    /// way stay where they are.
    fn reconnect(&self, _number: u64) {}
}

/// There is no reply, or not all of it.
#[derive(Debug)]
pub struct Broken {
    /// In words for people.
    pub message: String,
    /// There was none in time.
    pub timed_out: bool,
    /// Nothing of the request has left.
    pub unsent: bool,
}

impl From<reqwest::Error> for Broken {
    fn from(error: reqwest::Error) -> Self {
        let timed_out = error.is_timeout();
        let message = if timed_out {
            "timed out".to_owned()
        } else {
            setup::in_words(&error)
        };
        Self {
            message,
            timed_out,
            unsent: error.is_connect() || error.is_builder(),
        }
    }
}

/// HTTP, with a pool of connections.
pub(super) struct Http {
    settings: Access,
    client: RwLock<Built>,
}

/// A client with its connections.
struct Built {
    client: Client,
    /// When its files were changed.
    stamp: Vec<Option<SystemTime>>,
    number: u64,
}

impl Http {
    pub(super) fn new(settings: Access) -> Result<Self, SetupError> {
        let stamp = setup::stamp(&settings);
        let client = setup::client(&settings)?;
        let number = 0;
        Ok(Self {
            client: RwLock::new(Built {
                client,
                stamp,
                number,
            }),
            settings,
        })
    }

    /// Puts a new client in the place of the one with this number, if it still has it.
    fn rebuild(&self, number: u64, stamp: Vec<Option<SystemTime>>) -> Result<(), SetupError> {
        if self.number() != number {
            return Ok(());
        }
        let client = setup::client(&self.settings)?;
        let mut built = self.client.write();
        if built.number == number {
            *built = Built {
                client,
                stamp,
                number: number + 1,
            };
        }
        Ok(())
    }
}

impl Wire for Http {
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Broken>> {
        let client = self.client.read().client.clone();
        Box::pin(async move { Ok(client.execute(request).await?) })
    }

    /// While the new certificates are not usable (half written), the old client goes on.
    fn refresh(&self) {
        let stamp = setup::stamp(&self.settings);
        let number = {
            let built = self.client.read();
            if built.stamp == stamp {
                return;
            }
            built.number
        };
        match self.rebuild(number, stamp) {
            Ok(()) => tracing::info!("certificates for Vault have changed and are in use"),
            Err(error) => {
                tracing::warn!(%error, "certificates for Vault have changed and are not usable yet");
            }
        }
    }

    fn number(&self) -> u64 {
        self.client.read().number
    }

    fn reconnect(&self, number: u64) {
        // Files that are not usable now are complained about elsewhere.
        let _ = self.rebuild(number, setup::stamp(&self.settings));
    }
}

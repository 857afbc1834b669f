//! The wire to Vault: sends a request, and returns the reply. In production, that is HTTP. Its client is
//! rebuilt when certificates change or connections seem dead. A test can connect its own Vault.
//!
//! Must not know the meaning of requests or replies.

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use reqwest::{Client, Request, Response};

use super::setup::{self, Access, SetupError};

/// Sends requests to Vault.
pub trait Wire: Send + Sync {
    /// Sends a request, and returns the reply's head; its body follows. Takes no longer than the request's
    /// own timeout, including the body.
    fn carry(&self, request: Request) -> BoxFuture<'static, Result<Response, Broken>>;

    /// Starts to use new certificates, if there are any.
    fn refresh(&self) {}

    /// The number of the current set of connections, so that many callers with a dead connection replace it
    /// once.
    fn number(&self) -> u64 {
        0
    }

    /// Sends further requests on new connections, if the current ones still have this number. Requests in
    /// flight stay on theirs.
    fn reconnect(&self, _number: u64) {}
}

/// There is no reply, or only a part of one.
#[derive(Debug)]
pub struct Broken {
    /// The reason, in words for users.
    pub message: String,
    /// The request timed out.
    pub timed_out: bool,
    /// No part of the request was sent.
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

/// HTTP with a pool of connections.
pub(super) struct Http {
    settings: Access,
    client: RwLock<Built>,
}

/// A client with its connections.
struct Built {
    client: Client,
    /// When the files of its settings were last changed.
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

    /// Replaces the client that has this number, if it is still current.
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

    /// If the new certificates are not usable, such as half-written files, the old client stays in use.
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
        // `refresh` reports files that are not usable now.
        let _ = self.rebuild(number, setup::stamp(&self.settings));
    }
}

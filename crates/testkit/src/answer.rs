//! What a [`Gate`](super::Gate) says in the server's place: what only Vault Enterprise says, and what only a
//! broken server does.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;

#[derive(Clone)]
pub struct Answer {
    bytes: Arc<[u8]>,
    then: Then,
}

/// How it goes on after the bytes.
#[derive(Clone, Copy)]
enum Then {
    /// As if the server had said them.
    GoOn,
    /// The connection ends.
    HangUp,
    /// A blank now and then, for ever.
    Trickle,
    /// As many bytes as the other end takes.
    Flood,
}

impl Answer {
    /// A well-formed reply.
    pub fn new(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let mut text = format!("HTTP/1.1 {status} Fake\r\n");
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        Self::raw(&text)
    }

    /// Vault's form of an error; no words: its form of "nothing here".
    pub fn errors(status: u16, words: &[&str]) -> Self {
        let body = serde_json::json!({"errors": words}).to_string();
        Self::new(status, &[("Content-Type", "application/json")], &body)
    }

    /// Whatever it is.
    pub fn raw(text: &str) -> Self {
        Self {
            bytes: text.as_bytes().into(),
            then: Then::GoOn,
        }
    }

    pub fn and_hangs_up(self) -> Self {
        Self {
            then: Then::HangUp,
            ..self
        }
    }

    pub fn and_trickles(self) -> Self {
        Self {
            then: Then::Trickle,
            ..self
        }
    }

    pub fn and_floods(self) -> Self {
        Self {
            then: Then::Flood,
            ..self
        }
    }

    /// Says it; `sent` is told of each piece. An error: the connection is to end.
    pub(super) async fn say(self, to: &mut OwnedWriteHalf, sent: impl Fn(usize)) -> std::io::Result<()> {
        to.write_all(&self.bytes).await?;
        match self.then {
            Then::GoOn => Ok(()),
            Then::HangUp => {
                to.shutdown().await?;
                Err(std::io::Error::other("all is said"))
            }
            Then::Trickle => loop {
                to.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            Then::Flood => {
                let piece = vec![b' '; 64 * 1024];
                loop {
                    to.write_all(&piece).await?;
                    sent(piece.len());
                }
            }
        }
    }
}

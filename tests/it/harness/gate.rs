//! A wire between the operator and a server: it can be cut, and what the operator said over it read;
//! single requests can be held up, their replies lost, or answered in the server's place.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::{check, eventually, free_port, runtime};

pub struct Gate {
    /// Where the operator connects.
    pub port: u16,
    target: u16,
    wire: Arc<Wire>,
    open: Mutex<Option<AbortHandle>>,
}

/// What happens on the wire.
#[derive(Default)]
struct Wire {
    /// Bytes from the operator, one buffer a connection.
    heard: Mutex<Vec<Vec<u8>>>,
    /// What is done to requests with these words in them.
    trick: Mutex<Option<(String, Trick)>>,
    /// Requests that were held up.
    held: Mutex<Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trick {
    /// The server gets it; the reply is lost, and the connection breaks.
    LoseReply,
    /// The server does not get it before [`Gate::land`].
    Hold,
    /// The server does not get it; the reply is an error that quotes all of it.
    Quote,
}

impl Wire {
    fn trick_on(&self, sent: &[u8]) -> Option<Trick> {
        let trick = self.trick.lock().unwrap();
        let (words, trick) = trick.as_ref()?;
        String::from_utf8_lossy(sent).contains(words).then_some(*trick)
    }
}

impl Gate {
    /// An open one.
    pub fn to(target: u16) -> Self {
        // Another process may take a free port before we do.
        let (port, listener) = std::iter::repeat_with(free_port)
            .find_map(|port| Some((port, Self::listen(port).ok()?)))
            .expect("ports without end");
        let gate = Self {
            port,
            target,
            wire: Arc::default(),
            open: Mutex::default(),
        };
        gate.serve(listener);
        gate
    }

    fn listen(port: u16) -> std::io::Result<TcpListener> {
        runtime().block_on(TcpListener::bind(("127.0.0.1", port)))
    }

    fn serve(&self, listener: TcpListener) {
        let task = runtime().spawn(forward_all(listener, self.target, Arc::clone(&self.wire)));
        *self.open.lock().unwrap() = Some(task.abort_handle());
    }

    /// From now on connections are refused; those that exist break.
    pub fn cut(&self) {
        if let Some(task) = self.open.lock().unwrap().take() {
            task.abort();
            eventually("a cut wire lets go of its port", || {
                if task.is_finished() {
                    Ok(())
                } else {
                    Err("still listening".to_owned())
                }
            });
        }
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        self.serve(Self::listen(self.port).expect("the port is ours"));
    }

    /// From now on the server gets requests with these words, and their replies are lost: the
    /// connection breaks in their place.
    pub fn lose_replies_to(&self, words: &str) {
        self.play(words, Trick::LoseReply);
    }

    /// From now on requests with these words are held up on their way.
    pub fn hold(&self, words: &str) {
        self.play(words, Trick::Hold);
    }

    /// From now on requests with these words are refused by an error that quotes them.
    pub fn quote(&self, words: &str) {
        self.play(words, Trick::Quote);
    }

    fn play(&self, words: &str, trick: Trick) {
        *self.wire.trick.lock().unwrap() = Some((words.to_owned(), trick));
    }

    /// An honest wire again; what is held up stays so.
    pub fn behave(&self) {
        *self.wire.trick.lock().unwrap() = None;
    }

    /// Waits until requests are held up.
    pub fn holds(&self, count: usize) {
        eventually(format!("{count} requests are held up"), || {
            let held = self.wire.held.lock().unwrap().len();
            check(held >= count, held)
        });
    }

    /// What was held up reaches the server now, whether or not anybody waits for the reply.
    pub fn land(&self) -> Vec<String> {
        let held = std::mem::take(&mut *self.wire.held.lock().unwrap());
        held.iter()
            .map(|request| runtime().block_on(land(request, self.target)).unwrap())
            .collect()
    }

    /// Everything the operator sent, as text, one a connection.
    pub fn heard(&self) -> Vec<String> {
        self.wire
            .heard
            .lock()
            .unwrap()
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    /// Method and path of each plain HTTP request so far, in order within a connection.
    pub fn requests(&self) -> Vec<String> {
        const METHODS: [&str; 7] = ["GET", "HEAD", "LIST", "PUT", "POST", "PATCH", "DELETE"];
        // A request's first line stands behind the body of the one before it, without a break.
        let begins = |line: &str| {
            METHODS
                .iter()
                .filter_map(|method| line.rfind(&format!("{method} /")))
                .max()
        };
        self.heard()
            .iter()
            .flat_map(|text| text.lines())
            .filter_map(|line| line.trim_end().strip_suffix(" HTTP/1.1"))
            .filter_map(|line| Some(line[begins(line)?..].to_owned()))
            .collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(task) = self.open.lock().unwrap().take() {
            task.abort();
        }
    }
}

/// Sends a request, and returns the first line of the reply.
async fn land(request: &[u8], target: u16) -> std::io::Result<String> {
    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
    server.write_all(request).await?;
    let mut reply = vec![0; 16 * 1024];
    let read = server.read(&mut reply).await?;
    let text = String::from_utf8_lossy(&reply[..read]).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

async fn forward_all(listener: TcpListener, target: u16, wire: Arc<Wire>) {
    // Dropped, and all connections with it, when the gate is cut.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, target, Arc::clone(&wire)));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(client: TcpStream, target: u16, wire: Arc<Wire>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = tokio::sync::Mutex::new(to_client);
    let lost = std::sync::atomic::AtomicBool::new(false);
    let index = {
        let mut heard = wire.heard.lock().unwrap();
        heard.push(Vec::new());
        heard.len() - 1
    };
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let n = from_client.read(&mut buffer).await?;
            if n == 0 {
                return to_server.shutdown().await;
            }
            wire.heard.lock().unwrap()[index].extend_from_slice(&buffer[..n]);
            match wire.trick_on(&buffer[..n]) {
                None => {}
                Some(Trick::LoseReply) => lost.store(true, std::sync::atomic::Ordering::SeqCst),
                Some(trick) => {
                    let request = whole(&mut from_client, buffer[..n].to_vec()).await?;
                    wire.heard.lock().unwrap()[index].extend_from_slice(&request[n..]);
                    if trick == Trick::Quote {
                        let reply = quoting(&request);
                        to_client.lock().await.write_all(&reply).await?;
                        continue;
                    }
                    wire.held.lock().unwrap().push(request);
                    // No reply comes; the client gives up some time.
                    while from_client.read(&mut buffer).await? > 0 {}
                    return to_server.shutdown().await;
                }
            }
            to_server.write_all(&buffer[..n]).await?;
        }
    };
    let down = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let n = from_server.read(&mut buffer).await?;
            if lost.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(std::io::Error::other("the reply is lost"));
            }
            let mut to_client = to_client.lock().await;
            if n == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&buffer[..n]).await?;
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}

/// A request up to the end of its body, of which the beginning was read already.
async fn whole(from: &mut OwnedReadHalf, mut request: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.trim().parse::<usize>().unwrap_or(0));
        let head = request.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if head.is_some_and(|head| request.len() >= head + 4 + length) {
            return Ok(request);
        }
        match from.read(&mut buffer).await? {
            0 => return Ok(request),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Vault's form of an error, which repeats the whole request.
fn quoting(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let body = serde_json::json!({"errors": [format!("cannot parse the request: {text}"), text]}).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

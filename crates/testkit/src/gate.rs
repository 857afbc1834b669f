//! A wire between the operator and a server: it can be cut, and what the operator said over it read;
//! single requests can be held up, their replies lost, or answered in the server's place.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::watch;

use super::answer::Answer;
use super::port::Port;
use super::{check, eventually, runtime};

pub struct Gate {
    /// Where the operator connects.
    pub port: u16,
    listener: Port,
    target: u16,
    wire: Arc<Wire>,
}

/// What happens on the wire.
#[derive(Default)]
struct Wire {
    /// Bytes from the operator, one buffer a connection.
    heard: Mutex<Vec<Vec<u8>>>,
    /// What is done to requests with these words in them; the first that fits.
    tricks: Mutex<Vec<(String, Trick)>>,
    /// Requests that were held up.
    held: Mutex<Vec<Vec<u8>>>,
    /// Nothing gets through, and nobody is told.
    stalled: watch::Sender<bool>,
    /// Nothing gets through on the first so many connections, and nobody is told.
    silent: watch::Sender<usize>,
    /// When requests came that were answered in the server's place.
    answered: Mutex<Vec<Instant>>,
    /// Bytes that were taken of floods.
    flooded: AtomicUsize,
}

#[derive(Clone)]
enum Trick {
    /// The server gets it; the reply is lost, and the connection breaks.
    LoseReply,
    /// The server does not get it before [`Gate::land`].
    Hold,
    /// The server does not get it; the reply is an error that quotes all of it.
    Quote,
    /// The server does not get it; the reply is this, for as many requests as are left.
    Answer(Answer, usize),
}

impl Wire {
    /// Waits while the wire is stalled, and for ever on a connection that is silent.
    async fn flow(&self, index: usize) {
        // They cannot be closed: we hold the senders.
        let _ = self.silent.subscribe().wait_for(|silent| index >= *silent).await;
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    fn trick_on(&self, sent: &[u8]) -> Option<Trick> {
        let sent = String::from_utf8_lossy(sent);
        let mut tricks = self.tricks.lock().unwrap();
        let (_, trick) = tricks.iter_mut().find(|(words, _)| sent.contains(&**words))?;
        if let Trick::Answer(_, left) = trick {
            *left = left.checked_sub(1)?;
            self.answered.lock().unwrap().push(Instant::now());
        }
        Some(trick.clone())
    }
}

impl Gate {
    /// An open one.
    pub fn to(target: u16) -> Self {
        let listener = Port::new();
        let gate = Self {
            port: listener.number,
            listener,
            target,
            wire: Arc::default(),
        };
        gate.restore();
        gate
    }

    /// From now on connections are refused; those that exist break.
    pub fn cut(&self) {
        self.listener.close();
    }

    /// Lets connections through again.
    pub fn restore(&self) {
        let (target, wire) = (self.target, Arc::clone(&self.wire));
        self.listener
            .open(move |client| forward(client, target, Arc::clone(&wire)));
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

    /// From now on nothing gets through, and no connection breaks: a network that swallows packets.
    pub fn stall(&self) {
        self.wire.stalled.send_replace(true);
    }

    /// From now on nothing gets through on the connections that exist, and none breaks; new ones are good.
    pub fn go_silent(&self) {
        let connections = self.wire.heard.lock().unwrap().len();
        self.wire.silent.send_replace(connections);
    }

    /// What was swallowed arrives.
    pub fn flow(&self) {
        self.wire.stalled.send_replace(false);
    }

    /// From now on requests with these words are answered in the server's place, beside others that are.
    pub fn answer(&self, words: &str, answer: Answer) {
        self.answer_first(usize::MAX, words, answer);
    }

    /// The next so many requests with these words are answered in the server's place.
    pub fn answer_first(&self, count: usize, words: &str, answer: Answer) {
        self.wire.answered.lock().unwrap().clear();
        let mut tricks = self.wire.tricks.lock().unwrap();
        tricks.retain(|(others, _)| others != words);
        tricks.push((words.to_owned(), Trick::Answer(answer, count)));
    }

    /// Waits until so many requests were answered in the server's place since that began.
    #[track_caller]
    pub fn answers(&self, count: usize) {
        eventually(format!("{count} requests are answered by the gate"), || {
            let answered = self.answered();
            check(answered >= count, answered)
        });
    }

    /// How many requests were answered in the server's place since that began.
    pub fn answered(&self) -> usize {
        self.wire.answered.lock().unwrap().len()
    }

    /// The times between them.
    pub fn pauses(&self) -> Vec<Duration> {
        let answered = self.wire.answered.lock().unwrap();
        answered.windows(2).map(|two| two[1] - two[0]).collect()
    }

    /// How many bytes were taken of floods.
    pub fn flooded(&self) -> usize {
        self.wire.flooded.load(Ordering::SeqCst)
    }

    fn play(&self, words: &str, trick: Trick) {
        *self.wire.tricks.lock().unwrap() = vec![(words.to_owned(), trick)];
    }

    /// An honest wire again; what is held up stays so.
    pub fn behave(&self) {
        self.wire.tricks.lock().unwrap().clear();
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

/// Sends a request, and returns the first line of the reply.
async fn land(request: &[u8], target: u16) -> std::io::Result<String> {
    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
    server.write_all(request).await?;
    let mut reply = vec![0; 16 * 1024];
    let read = server.read(&mut reply).await?;
    let text = String::from_utf8_lossy(&reply[..read]).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
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
            wire.flow(index).await;
            match wire.trick_on(&buffer[..n]) {
                None => {}
                Some(Trick::LoseReply) => lost.store(true, Ordering::SeqCst),
                Some(trick) => {
                    let request = whole(&mut from_client, buffer[..n].to_vec()).await?;
                    wire.heard.lock().unwrap()[index].extend_from_slice(&request[n..]);
                    match trick {
                        Trick::Quote => {
                            let reply = quoting(&request);
                            to_client.lock().await.write_all(&reply).await?;
                            continue;
                        }
                        Trick::Answer(answer, _) => {
                            let sent = |bytes| {
                                wire.flooded.fetch_add(bytes, Ordering::SeqCst);
                            };
                            answer.say(&mut *to_client.lock().await, sent).await?;
                            continue;
                        }
                        Trick::Hold | Trick::LoseReply => {}
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
            wire.flow(index).await;
            if lost.load(Ordering::SeqCst) {
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

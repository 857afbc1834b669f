//! A forward proxy, which alone knows the way to hosts that no resolver has heard of.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::port::Port;

pub struct ForwardProxy {
    port: Port,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ForwardProxy {
    /// Takes whatever is for another host than this machine to `target`.
    pub fn to(target: u16) -> Self {
        let proxy = Self {
            port: Port::new(),
            heads: Arc::default(),
        };
        let heads = Arc::clone(&proxy.heads);
        proxy
            .port
            .open(move |client| serve(client, target, Arc::clone(&heads)));
        proxy
    }

    /// As `HTTP_PROXY` and the like want it.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number)
    }

    /// The head of the first request of each connection so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut client: TcpStream, target: u16, heads: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // One byte at a time: what comes after it is for the server.
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    heads.lock().unwrap().push(text.clone());
    let mut words = text.split(' ');
    let tunnel = words.next() == Some("CONNECT");
    let asked = words.next().unwrap_or_default().trim_start_matches("http://");
    let host = asked.split('/').next().unwrap_or_default();
    let port = match host.strip_prefix("127.0.0.1:") {
        Some(port) => port.parse().map_err(std::io::Error::other)?,
        None => target,
    };
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    if tunnel {
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
    } else {
        server.write_all(&head).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

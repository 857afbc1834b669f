//! A wire between the operator and a server: it can be cut, and what the operator said over it read.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::{eventually, free_port, runtime};

/// Bytes from the operator, one buffer a connection.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Gate {
    /// Where the operator connects.
    pub port: u16,
    target: u16,
    heard: Heard,
    open: Mutex<Option<AbortHandle>>,
}

impl Gate {
    /// An open one.
    pub fn to(target: u16) -> Self {
        let gate = Self {
            port: free_port(),
            target,
            heard: Heard::default(),
            open: Mutex::default(),
        };
        gate.restore();
        gate
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
        let listener = runtime()
            .block_on(TcpListener::bind(("127.0.0.1", self.port)))
            .expect("the port is ours");
        let task = runtime().spawn(forward_all(listener, self.target, Arc::clone(&self.heard)));
        *self.open.lock().unwrap() = Some(task.abort_handle());
    }

    /// Everything the operator sent, as text, one a connection.
    pub fn heard(&self) -> Vec<String> {
        self.heard
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

async fn forward_all(listener: TcpListener, target: u16, heard: Heard) {
    // Dropped, and all connections with it, when the gate is cut.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(forward(client, target, Arc::clone(&heard)));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(client: TcpStream, target: u16, heard: Heard) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let index = {
        let mut heard = heard.lock().unwrap();
        heard.push(Vec::new());
        heard.len() - 1
    };
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match from_client.read(&mut buffer).await? {
                0 => return to_server.shutdown().await,
                n => {
                    heard.lock().unwrap()[index].extend_from_slice(&buffer[..n]);
                    to_server.write_all(&buffer[..n]).await?;
                }
            }
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

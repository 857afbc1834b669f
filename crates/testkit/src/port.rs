//! A listener that can be closed with all of its connections, and opened again at the same port.

use std::future::Future;
use std::sync::Mutex;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::{eventually, free_port, runtime};

pub struct Port {
    pub number: u16,
    /// Bound from the start, or another process may take the port before it is opened.
    bound: Mutex<Option<TcpListener>>,
    open: Mutex<Option<AbortHandle>>,
}

impl Port {
    /// One that serves nobody yet.
    pub fn new() -> Self {
        let (number, listener) = std::iter::repeat_with(free_port)
            .find_map(|port| Some((port, bind(port).ok()?)))
            .expect("ports without end");
        Self {
            number,
            bound: Mutex::new(Some(listener)),
            open: Mutex::default(),
        }
    }

    /// Serves each connection from now on.
    pub fn open<F>(&self, serve: impl Fn(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let bound = self.bound.lock().unwrap().take();
        let listener = bound.unwrap_or_else(|| bind(self.number).expect("the port is ours"));
        let task = runtime().spawn(async move {
            // Dropped, and all connections with it, when the port is closed.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client));
                while connections.try_join_next().is_some() {}
            }
        });
        *self.open.lock().unwrap() = Some(task.abort_handle());
    }

    /// From now on connections are refused; those that exist break.
    pub fn close(&self) {
        if let Some(task) = self.open.lock().unwrap().take() {
            task.abort();
            eventually("a closed port is let go of", || {
                if task.is_finished() {
                    Ok(())
                } else {
                    Err("still listening".to_owned())
                }
            });
        }
    }
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    runtime().block_on(TcpListener::bind(("127.0.0.1", port)))
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(task) = self.open.lock().unwrap().take() {
            task.abort();
        }
    }
}

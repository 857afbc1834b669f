//! The machine that the operator runs on: its clock, and a thread for work that must not be delayed. A
//! simulation provides its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// The wall clock. It may be wrong, or be changed; code that must not depend on that uses tokio's clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(jiff::Timestamp::now)
    }

    /// A clock that returns this time.
    pub fn new(now: impl Fn() -> jiff::Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> jiff::Timestamp {
        (self.0)()
    }

    /// The time in whole seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.now().as_second()
    }
}

/// How much longer changes may be made; called again each time. `None`: without end.
pub type TimeLeft = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Runs work that must not be delayed by other work.
#[derive(Clone)]
pub struct Aside(Arc<dyn Fn(&'static str, BoxFuture<'static, ()>) + Send + Sync>);

impl Aside {
    /// Runs the work in its own thread, with its own runtime.
    pub fn thread() -> Self {
        Self::new(|name, work| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            let begun = thread.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => runtime.block_on(work),
                    Err(error) => tracing::error!(%error, name, "cannot start a runtime"),
                }
            });
            // The work is dropped, and its waiters notice that.
            if let Err(error) = begun {
                tracing::error!(%error, name, "cannot start a thread");
            }
        })
    }

    /// Runs the work with this function. Each work has a name, and ends on its own.
    pub fn new(run: impl Fn(&'static str, BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    /// Runs the work.
    pub fn run(&self, name: &'static str, work: BoxFuture<'static, ()>) {
        (self.0)(name, work);
    }
}

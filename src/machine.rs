//! The machine that the operator runs on: its clock, and a thread for what no other work may delay. A simulation
//! has its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// A clock on the wall. It may be wrong, and be set: what must not depend on that goes by tokio's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>);

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        Self::new(jiff::Timestamp::now)
    }

    /// One that tells this time.
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

/// How much longer something may be changed, asked each time anew; `None`: for ever.
pub type TimeLeft = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Runs what no other work may delay.
#[derive(Clone)]
pub struct Aside(Arc<dyn Fn(&'static str, BoxFuture<'static, ()>) + Send + Sync>);

impl Aside {
    /// In a thread of its own, with a runtime of its own.
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
            // What it was to do is dropped, and whoever waits for it learns that.
            if let Err(error) = begun {
                tracing::error!(%error, name, "cannot start a thread");
            }
        })
    }

    /// In this way. What it is given has a name, and ends by itself.
    pub fn new(run: impl Fn(&'static str, BoxFuture<'static, ()>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(run))
    }

    /// Runs this.
    pub fn run(&self, name: &'static str, work: BoxFuture<'static, ()>) {
        (self.0)(name, work);
    }
}

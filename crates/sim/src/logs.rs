//! What the operators log: it belongs to the story, and holds no value.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::people::CONFIDENTIAL;
use crate::world::World;

/// Reads all lines of all processes.
#[derive(Clone, Default)]
pub struct Reader(Arc<Mutex<Option<Arc<World>>>>);

impl Reader {
    /// What is logged from now on is this world's.
    pub fn reads_for(&self, world: &Arc<World>) {
        *self.0.lock() = Some(Arc::clone(world));
    }

    /// Hears what is logged where this is the default.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        let reader = self.clone();
        let lines = tracing_subscriber::fmt::layer()
            .without_time()
            .with_ansi(false)
            .with_writer(move || reader.clone());
        let ours = Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("vault_sync_operator", LevelFilter::DEBUG)
            .with_target("domain", LevelFilter::DEBUG);
        tracing_subscriber::registry().with(ours).with(lines)
    }
}

impl Write for Reader {
    /// One line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(world) = &*self.0.lock() {
            let text = String::from_utf8_lossy(line);
            let age = world.age();
            // Whoever logs may hold the world: then it is one of its own parts, and nothing of theirs.
            if let Some(mut state) = world.try_look() {
                state.story.remark(age, || text.trim_end().to_owned());
                if text.contains(CONFIDENTIAL) {
                    state
                        .promises
                        .record_broken("no value is logged", text.trim_end());
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

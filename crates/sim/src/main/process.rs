//! A process for each world: what one leaves behind, none finds; and one that hangs or is out of memory ends alone.
#![expect(
    unsafe_code,
    reason = "the standard library starts programs, and no copies of this one"
)]

use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::thread;

/// Longest time that one may take by the real clock, in seconds.
const LONGEST: u32 = 60;

/// A process that lives a world through.
pub struct Process {
    id: libc::pid_t,
    pipe: PipeReader,
}

/// Starts a copy of this process that does this and ends. The randomness of the thread that does it follows `seed`.
/// No other thread may run here.
pub fn start(seed: u64, work: impl FnOnce() -> String + Send) -> std::io::Result<Process> {
    let (reader, mut writer) = pipe()?;
    // SAFETY: there is one thread, so that no lock is held by one that the copy does not have.
    let id = unsafe { libc::fork() };
    match id {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            // SAFETY: it has no condition.
            unsafe { libc::alarm(LONGEST) };
            super::chance::follow(seed);
            // A thread of its own: the keys of this one's hash maps are made already.
            let said = thread::scope(|scope| scope.spawn(work).join());
            let said = said.unwrap_or_else(|_| "panicked".to_owned());
            let sent = writer.write_all(said.as_bytes());
            // SAFETY: nothing is to be cleaned up that the process does not take along.
            unsafe { libc::_exit(i32::from(sent.is_err())) }
        }
        id => Ok(Process { id, pipe: reader }),
    }
}

impl Process {
    /// Waits for its end: what it said, or how it was ended.
    pub fn wait(mut self) -> Result<String, String> {
        let mut said = String::new();
        let read = self.pipe.read_to_string(&mut said);
        let mut status = 0;
        // SAFETY: it is a child of ours, and waited for once.
        let id = unsafe { libc::waitpid(self.id, &raw mut status, 0) };
        if id != self.id || read.is_err() {
            return Err("nobody knows how it ended".to_owned());
        }
        if libc::WIFSIGNALED(status) {
            return Err(match libc::WTERMSIG(status) {
                libc::SIGALRM => format!("it was not over after {LONGEST} s"),
                signal => format!("it was ended by signal {signal}"),
            });
        }
        Ok(said)
    }
}

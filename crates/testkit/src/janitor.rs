//! Ends what a testbed started, and removes its folder, however the test process ends.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Reads who lives until its input ends, which the kernel sees to even when we are killed.
const SCRIPT: &str = r#"
pids=
while read -r sign pid; do
  case $sign in
    +) pids="$pids $pid" ;;
    -) pids=$(for p in $pids; do [ "$p" = "$pid" ] || printf ' %s' "$p"; done) ;;
  esac
done
for p in $pids; do kill -s KILL -- "-$p"; done 2>/dev/null
rm -rf "$1" 2>/dev/null || { sleep 1; rm -rf "$1"; }
"#;

/// A shell in a process group of its own, which outlives us for a moment.
pub struct Janitor(Mutex<Child>);

impl Janitor {
    /// For everything in `dir`.
    pub fn start(dir: &Path) -> Self {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "janitor"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self(Mutex::new(child))
    }

    /// Starts `command` as the leader of a process group that ends with us.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<Child> {
        let child = command.process_group(0).spawn()?;
        self.tell('+', child.id());
        Ok(child)
    }

    /// To be called once a process has been waited for: its id may be another's from now on.
    pub fn forget(&self, pid: u32) {
        self.tell('-', pid);
    }

    fn tell(&self, sign: char, pid: u32) {
        let mut child = self.0.lock().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sign} {pid}").expect("the janitor listens");
    }
}

/// Sends a signal by name, such as `TERM`.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$1""#, name, &pid.to_string()])
        .status();
    assert!(
        status.expect("sh starts").success(),
        "cannot send {name} to {pid}"
    );
}

impl Drop for Janitor {
    /// A private testbed ends before the test process does.
    fn drop(&mut self) {
        if let Ok(child) = self.0.get_mut() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

//! `simulate`: lives worlds through, until a promise is broken or the time is over.

#[path = "main/chance.rs"]
mod chance;
#[path = "main/process.rs"]
mod process;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use sim::plan::Plan;
use sim::scale::{self, Scale};
use sim::schedule;

/// Simulates whole worlds with operators in them, each from a seed, and says when a promise is broken.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Live worlds through, from a seed on, for some seconds
    Run {
        /// The first seed; without it, where the last run ended
        #[arg(long)]
        from: Option<u64>,
        /// For how many seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// At most so many worlds
        #[arg(long, default_value_t = u64::MAX)]
        worlds: u64,
        /// So many at a time
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Go on until more worlds than this are broken
        #[arg(long, default_value_t = 0)]
        tolerate: u64,
        /// Where the next seed is kept
        #[arg(long)]
        state: Option<PathBuf>,
    },
    /// Tell the story of a seed
    Tell {
        /// The seed
        seed: u64,
        /// Without what does not matter
        #[arg(long)]
        shrink: bool,
        /// Where its plan is kept
        #[arg(long)]
        save: Option<PathBuf>,
    },
    /// Count the calls of a large world: a first sync, a rotation, quiet, a restart, the end of all sources
    Scale {
        /// The clusters that share the Vault
        #[arg(long, default_value_t = 1)]
        clusters: usize,
        /// The sources of each
        #[arg(long, default_value_t = 1000)]
        sources: usize,
    },
    /// Live plans through again that were kept
    Again {
        /// Their files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Live worlds through twice each, and compare their stories byte by byte
    Twice {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// So many
        #[arg(long, default_value_t = 20)]
        worlds: u64,
    },
}

/// Longest time that a plan is made shorter for.
const SHRINKS: Duration = Duration::from_mins(1);

/// What a world's process says at its end.
#[derive(Serialize, Deserialize)]
struct Said {
    broken: Option<(String, String)>,
    digest: u64,
    told: u64,
    seconds: u64,
    story: Vec<String>,
}

fn main() -> ExitCode {
    let token_file = std::env::temp_dir().join(format!("simulated-token-{}", std::process::id()));
    if let Err(error) = std::fs::write(&token_file, "a service account's token") {
        eprintln!("cannot write {}: {error}", token_file.display());
        return ExitCode::FAILURE;
    }
    let worlds = Worlds {
        token_file: token_file.display().to_string(),
    };
    let good = match Args::parse().command {
        Command::Run {
            from,
            seconds,
            worlds: most,
            jobs,
            tolerate,
            state,
        } => {
            let kept = state.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
            let from = from.or_else(|| kept?.trim().parse().ok()).unwrap_or(1);
            let (next, good) = worlds.run(from, Duration::from_secs(seconds), most, jobs, tolerate);
            if let Some(file) = state {
                let _ = std::fs::write(file, next.to_string());
            }
            good
        }
        Command::Tell { seed, shrink, save } => worlds.tell(seed, shrink, save.as_deref()),
        Command::Scale { clusters, sources } => {
            let measured = scale::measure(Scale { clusters, sources }, &worlds.token_file);
            println!("{}", measured.unwrap_or_else(|error| error.to_string()));
            true
        }
        Command::Again { files } => worlds.again(&files),
        Command::Twice { from, worlds: most } => worlds.twice(from, most),
    };
    let _ = std::fs::remove_file(token_file);
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Worlds {
    token_file: String,
}

impl Worlds {
    fn start(&self, plan: &Plan, keep_story: bool) -> std::io::Result<process::Process> {
        process::start(plan.seed, || {
            let end = schedule::run(plan, &self.token_file, keep_story);
            let said = Said {
                broken: end.broken.map(|broken| (broken.promise, broken.how)),
                digest: end.digest,
                told: end.told,
                seconds: end.age.as_secs(),
                story: end.story,
            };
            serde_json::to_string(&said).unwrap_or_default()
        })
    }

    /// Lives one through.
    fn live(&self, plan: &Plan, keep_story: bool) -> Said {
        let ended = self
            .start(plan, keep_story)
            .map_err(|error| error.to_string())
            .and_then(process::Process::wait);
        said(ended)
    }

    /// The next seed, and whether all was well, but for so many.
    fn run(&self, from: u64, time: Duration, most: u64, jobs: usize, tolerate: u64) -> (u64, bool) {
        let began = Instant::now();
        let mut running = VecDeque::new();
        let (mut next, mut ended, mut lines, mut seconds, mut bad) = (from, 0_u64, 0_u64, 0_u64, 0_u64);
        loop {
            let more = began.elapsed() < time && next - from < most && bad <= tolerate;
            while more && running.len() < jobs {
                match self.start(&Plan::of(next), false) {
                    Ok(process) => running.push_back((next, process)),
                    Err(error) => {
                        eprintln!("cannot start a process: {error}");
                        return (next, false);
                    }
                }
                next += 1;
            }
            let Some((seed, process)) = running.pop_front() else {
                break;
            };
            let said = said(process.wait());
            ended += 1;
            lines += said.told;
            seconds += said.seconds;
            if let Some((promise, how)) = said.broken {
                bad += 1;
                println!("seed {seed}: {promise}: {how}");
            }
        }
        let took = began.elapsed().as_secs_f64();
        println!(
            "seeds {from} to {}: {ended} worlds in {took:.1} s, {:.0} a second; {seconds} s of theirs, {lines} lines; {bad} broken",
            next - 1,
            f64::from(u32::try_from(ended).unwrap_or(u32::MAX)) / took,
        );
        (next, bad <= tolerate)
    }

    /// Whether all was well.
    fn tell(&self, seed: u64, shrink: bool, save: Option<&Path>) -> bool {
        let mut plan = Plan::of(seed);
        if shrink {
            plan = self.shrink(plan);
        }
        if let Some(file) = save {
            let text = serde_json::to_string_pretty(&plan).unwrap_or_default();
            if let Err(error) = std::fs::write(file, text + "\n") {
                eprintln!("cannot write {}: {error}", file.display());
                return false;
            }
        }
        println!("seed {seed}: {:#?}", plan.setup);
        for (wait, act) in &plan.acts {
            println!("{:>12.6}  {act:?}", wait.as_secs_f64());
        }
        let said = self.live(&plan, true);
        for line in &said.story {
            println!("{line}");
        }
        println!(
            "digest {:016x}, {} lines, {} s",
            said.digest, said.told, said.seconds
        );
        match &said.broken {
            Some((promise, how)) => println!("BROKEN: {promise}: {how}"),
            None => println!("all is well"),
        }
        said.broken.is_none()
    }

    /// Whether all was well in each.
    fn again(&self, files: &[PathBuf]) -> bool {
        let mut bad = 0;
        for file in files {
            let plan = std::fs::read_to_string(file)
                .map_err(|error| error.to_string())
                .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            let broken = match plan {
                Ok(plan) => self.live(&plan, false).broken,
                Err(error) => Some(("a plan can be read".to_owned(), error)),
            };
            if let Some((promise, how)) = broken {
                bad += 1;
                println!("{}: {promise}: {how}", file.display());
            }
        }
        println!("{} worlds that were kept: {bad} broken", files.len());
        bad == 0
    }

    /// Whether each told the same story both times.
    fn twice(&self, from: u64, most: u64) -> bool {
        let (mut lines, mut bytes) = (0, 0);
        for seed in from..from.saturating_add(most) {
            let plan = Plan::of(seed);
            let [one, other] = [self.live(&plan, true), self.live(&plan, true)];
            let [one_story, other_story] = [one.story.join("\n"), other.story.join("\n")];
            if one_story != other_story || one.digest != other.digest {
                let mut pairs = one.story.iter().zip(&other.story);
                let differs = pairs.find(|(one, other)| one != other);
                println!("seed {seed}: two runs tell different stories, first here: {differs:?}");
                return false;
            }
            lines += one.story.len();
            bytes += one_story.len();
        }
        println!("{most} worlds lived twice, {lines} lines, {bytes} bytes each time: not a byte differs");
        true
    }

    /// The plan without what is not needed to break the same promise.
    fn shrink(&self, plan: Plan) -> Plan {
        let Some((promise, _)) = self.live(&plan, false).broken else {
            return plan;
        };
        let breaks = |plan: &Plan| {
            let broken = self.live(plan, false).broken;
            broken.is_some_and(|(other, _)| other == promise)
        };
        let began = Instant::now();
        let mut plan = plan;
        let mut size = plan.acts.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            while at < plan.acts.len() && began.elapsed() < SHRINKS {
                let mut less = plan.clone();
                let end = (at + size).min(less.acts.len());
                let waits: Duration = less.acts.drain(at..end).map(|(wait, _)| wait).sum();
                if let Some((wait, _)) = less.acts.get_mut(at) {
                    *wait += waits;
                }
                if breaks(&less) {
                    plan = less;
                } else {
                    at += size;
                }
            }
            size /= 2;
        }
        plan
    }
}

fn said(ended: Result<String, String>) -> Said {
    let parsed = ended.and_then(|said| serde_json::from_str(&said).map_err(|_| said));
    parsed.unwrap_or_else(|how| Said {
        broken: Some(("a world ends by itself".to_owned(), how)),
        digest: 0,
        told: 0,
        seconds: 0,
        story: Vec::new(),
    })
}

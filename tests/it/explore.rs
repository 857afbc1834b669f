//! The crash explorer: every scenario again and again, each time with one fault at one step, on real
//! servers; and each time the end state must be exact. After Sieve
//! (<https://www.usenix.org/conference/osdi22/presentation/sun>).
//!
//! A sample of the points runs with the other tests; `EXPLORE` asks for others:
//!
//! - `EXPLORE=all`: all that have not passed yet (`just explore`).
//! - `EXPLORE=rotate`: all of one scenario.
//! - `EXPLORE=rotate/get.secrets.db/reset`: one.
//!
//! `EXPLORE_SECONDS` is how long the sample may take, `EXPLORE_SEED` a number that gives another sample, `EXPLORE_JOBS` how many run side by side.

mod points;
mod run;
mod scenario;

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use points::{Passed, Point, spread};
use run::{Done, run};
use scenario::{SCENARIOS, Scenario};
use testkit::{Step, Testbed, number, say};

/// Without `EXPLORE_SECONDS`.
const SAMPLE: Duration = Duration::from_secs(40);

/// So many points that fail say enough.
const FAILURES: usize = 3;

#[test]
fn whatever_breaks_at_whatever_step_the_end_state_is_exact() {
    Testbed::shared();
    let asked = env::var("EXPLORE").unwrap_or_default();
    if let Some(point) = Point::named(&asked) {
        return one(&point);
    }
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == asked);
    assert!(
        scenario.is_some() || matches!(asked.as_str(), "" | "all"),
        "EXPLORE={asked}: it is neither all, nor a scenario, nor a point such as rotate/get.secrets.db/reset"
    );
    let sampled = asked.is_empty();
    let (begun, seconds) = (Instant::now(), number("EXPLORE_SECONDS").map(Duration::from_secs));
    let mut exploration = Exploration {
        begun,
        until: sampled.then(|| begun + seconds.unwrap_or(SAMPLE)),
        jobs: number("EXPLORE_JOBS").map_or_else(jobs, |jobs| usize::try_from(jobs).unwrap_or(1)),
        passed: (!sampled).then(Passed::load),
        ..Exploration::default()
    };
    exploration.go(|known| scenario.is_none_or(|only| only.name == known.name));
    exploration.report();
}

/// More than there are processors: a run mostly waits.
fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 4
}

fn one(point: &Point) {
    let done = attempt(point.scenario, Some(point)).unwrap_or_else(|failure| panic!("{failure}"));
    if let Some(line) = done.struck {
        say(&format!("{point}: passed; it struck {line}"));
        return;
    }
    let names: Vec<_> = done.steps.iter().map(|step| step.name.as_str()).collect();
    panic!("{point}: there was no such step, only\n{}", names.join("\n"));
}

/// A run, or the words for what went wrong.
fn attempt(scenario: &'static Scenario, point: Option<&Point>) -> Result<Done, String> {
    let mut struck = None;
    let planned = point.map(Point::planned);
    catch_unwind(AssertUnwindSafe(|| run(scenario, planned, &mut struck))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words
            .or(panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic");
        let Some(point) = point else {
            return format!("{}, without any fault: {words}", scenario.name);
        };
        format!(
            "scenario {}, {} at {} ({})\n{words}\nagain: hack/explore {point}",
            scenario.name,
            point.fault.name(),
            point.step,
            struck.as_deref().unwrap_or("not reached"),
        )
    })
}

struct Exploration {
    begun: Instant,
    until: Option<Instant>,
    jobs: usize,
    passed: Option<Passed>,
    /// By scenario: how many points there are, and how many have been tried, now or before.
    counts: BTreeMap<&'static str, (u32, u32)>,
    /// How many points have been tried now, and in what time.
    tried: u32,
    took: Duration,
    unreached: u32,
    failures: Vec<String>,
}

impl Default for Exploration {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            until: None,
            jobs: 1,
            passed: None,
            counts: BTreeMap::new(),
            tried: 0,
            took: Duration::ZERO,
            unreached: 0,
            failures: Vec::new(),
        }
    }
}

impl Exploration {
    fn go(&mut self, wanted: impl Fn(&Scenario) -> bool) {
        let scenarios: Vec<&'static Scenario> = SCENARIOS.iter().filter(|known| wanted(known)).collect();
        // A step may be there in one run and not in another.
        let twice: Vec<_> = scenarios.iter().chain(&scenarios).copied().collect();
        let mut steps: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
        for (scenario, done) in side_by_side(self.jobs, &twice, |scenario| Some(attempt(scenario, None))) {
            match done {
                Ok(done) => {
                    let known = steps.entry(scenario.name).or_default();
                    for step in done.steps {
                        if known.iter().all(|other| other.name != step.name) {
                            known.push(step);
                        }
                    }
                }
                Err(failure) => self.failures.push(failure),
            }
        }
        let of = |scenario: &&'static Scenario| {
            Point::all(scenario, steps.get(scenario.name).map_or(&[], Vec::as_slice))
        };
        let mut points: Vec<Point> = scenarios.iter().flat_map(of).collect();
        for point in &points {
            let (all, tried) = self.counts.entry(point.scenario.name).or_default();
            *all += 1;
            *tried += u32::from(self.passed.as_ref().is_some_and(|passed| passed.has(point)));
        }
        points.retain(|point| self.passed.as_ref().is_none_or(|passed| !passed.has(point)));
        let points = spread(points, number("EXPLORE_SEED").unwrap_or(0));
        self.explore(&points);
    }

    fn explore(&mut self, points: &[Point]) {
        let (began, until, passed) = (Instant::now(), self.until, self.passed.as_ref());
        let failed = AtomicUsize::new(self.failures.len());
        let tried = AtomicUsize::new(0);
        let outcomes = side_by_side(self.jobs, points, |point| {
            let late = until.is_some_and(|until| Instant::now() >= until);
            if late || (until.is_some() && failed.load(Ordering::Relaxed) >= FAILURES) {
                return None;
            }
            let outcome = attempt(point.scenario, Some(&point));
            let tried = tried.fetch_add(1, Ordering::Relaxed) + 1;
            match (&outcome, passed) {
                (Err(failure), _) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    say(&format!("crash explorer: {failure}"));
                }
                (Ok(done), Some(passed)) if done.struck.is_some() => passed.add(&point),
                _ => {}
            }
            if passed.is_some() && tried.is_multiple_of(50) {
                say(&format!("crash explorer: {tried} of {} points", points.len()));
            }
            Some(outcome)
        });
        self.took = began.elapsed();
        for (point, outcome) in outcomes {
            match outcome {
                // The run had no such step this time: nothing was tried.
                Ok(done) if done.struck.is_none() => {
                    self.unreached += 1;
                    continue;
                }
                Ok(_) => {}
                Err(failure) => self.failures.push(failure),
            }
            self.tried += 1;
            self.counts.entry(point.scenario.name).or_default().1 += 1;
        }
    }

    /// How much was tried of how much, and what the rest would cost.
    #[track_caller]
    fn report(&self) {
        let (mut all, mut tried) = (0, 0);
        let mut lines = Vec::new();
        for (name, (points, done)) in &self.counts {
            all += points;
            tried += done;
            lines.push(format!("{name} {done} of {points}"));
        }
        say(&format!("crash explorer: {}", lines.join(", ")));
        if self.unreached > 0 {
            say(&format!(
                "crash explorer: in {} runs there was no such step",
                self.unreached
            ));
        }
        let rest = self.took * (all - tried) / self.tried.max(1);
        let rest = match rest.as_secs().div_ceil(60) {
            0 => String::new(),
            minutes => format!("; the rest would take about {minutes} min (just explore)"),
        };
        say(&format!(
            "crash explorer: explored {tried} of {all} points in {} s, {} failed{rest}",
            self.begun.elapsed().as_secs(),
            self.failures.len(),
        ));
        if let Some(passed) = &self.passed {
            say(&format!(
                "crash explorer: what has passed is in {}",
                passed.place()
            ));
        }
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n\n"));
        assert!(tried > 0, "there was no time to try any point");
    }
}

/// Does something with each, in order, several at a time. `None`: it is left out.
fn side_by_side<T: Clone + Send + Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(T) -> Option<R> + Sync,
) -> Vec<(T, R)> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(result) = work(item.clone()) {
                        results.lock().unwrap().push((item.clone(), result));
                    }
                }
            });
        }
    });
    results.into_inner().unwrap()
}

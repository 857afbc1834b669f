//! What there is to try: each step of each scenario, with each fault that can happen to it; and what
//! of that has been tried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::scenario::{SCENARIOS, Scenario};
use testkit::{Fault, Planned, Step, program};

/// Points that a bug was found by: they are in every sample.
const FOUND: [&str; 1] = ["delete/patch.deployments.app/409"];

/// One fault at one step of one scenario.
#[derive(Clone)]
pub struct Point {
    pub scenario: &'static Scenario,
    /// The name of the step.
    pub step: String,
    pub fault: Fault,
    /// Another point is the same to all that can be seen.
    twin: bool,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.scenario.name, self.step, self.fault.name())
    }
}

impl Point {
    /// The point of such a name: `rotate/get.secrets.db/reset`.
    pub fn named(name: &str) -> Option<Self> {
        let [scenario, step, fault] = name.split('/').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            scenario: SCENARIOS.iter().find(|known| known.name == scenario)?,
            step: step.to_owned(),
            fault: Fault::named(fault)?,
            twin: false,
        })
    }

    /// All points of a scenario of which these are the steps.
    pub fn all(scenario: &'static Scenario, steps: &[Step]) -> Vec<Self> {
        let points = steps.iter().flat_map(|step| {
            let fitting = Fault::ALL.into_iter().filter(|fault| fault.fits(step));
            fitting.map(|fault| Self {
                scenario,
                step: step.name.clone(),
                fault,
                twin: fault.has_a_twin(step),
            })
        });
        points.collect()
    }

    /// What the run is to meet.
    pub fn planned(&self) -> Planned {
        (self.step.clone(), self.fault)
    }

    /// The same at every run; another seed gives another order.
    fn rank(&self, seed: u64) -> u64 {
        // FNV-1a: any spread will do.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let name = self.to_string();
        let bytes = name.bytes().chain(seed.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, mix);
        hash ^ (hash >> 32)
    }
}

/// Puts them in an order of which every beginning is spread over all scenarios and all faults. Those
/// that have told something come first, those that tell nothing new last.
pub fn spread(points: Vec<Point>, seed: u64) -> Vec<Point> {
    let mut heaps: BTreeMap<(&str, Fault), VecDeque<Point>> = BTreeMap::new();
    for point in points {
        heaps
            .entry((point.scenario.name, point.fault))
            .or_default()
            .push_back(point);
    }
    let mut rounds: Vec<(bool, usize, u64, Point)> = Vec::new();
    for heap in heaps.values_mut() {
        heap.make_contiguous()
            .sort_by_key(|point| (point.twin, point.rank(seed)));
        let numbered = heap.iter().enumerate();
        rounds.extend(numbered.map(|(round, point)| (point.twin, round, point.rank(seed), point.clone())));
    }
    rounds.sort_by_key(|(twin, round, rank, _)| (*twin, *round, *rank));
    let (mut first, rest): (Vec<_>, Vec<_>) = rounds
        .into_iter()
        .map(|(.., point)| point)
        .partition(|point| FOUND.contains(&point.to_string().as_str()));
    first.extend(rest);
    first
}

/// The points that these very programs have passed: what is left can be tried another time.
pub struct Passed {
    file: PathBuf,
    names: Mutex<BTreeSet<String>>,
}

impl Passed {
    pub fn load() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .expect("it lies in target");
        let folder = target.join("explore");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("passed-{}", digest()));
        let text = fs::read_to_string(&file).unwrap_or_default();
        let names = text.lines().map(str::to_owned).collect();
        Self {
            file,
            names: Mutex::new(names),
        }
    }

    pub fn has(&self, point: &Point) -> bool {
        self.names.lock().unwrap().contains(&point.to_string())
    }

    pub fn add(&self, point: &Point) {
        let mut names = self.names.lock().unwrap();
        names.insert(point.to_string());
        let file: std::io::Result<File> = OpenOptions::new().create(true).append(true).open(&self.file);
        writeln!(file.unwrap(), "{point}").unwrap();
    }

    pub fn place(&self) -> std::path::Display<'_> {
        self.file.display()
    }
}

/// Of the operator and of these tests: when either changes, everything is to be tried again.
fn digest() -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for program in [PathBuf::from(program()), std::env::current_exe().unwrap()] {
        context.update(&fs::read(program).unwrap());
    }
    let digest = context.finish();
    let first: [u8; 8] = digest.as_ref()[..8].try_into().unwrap();
    format!("{:016x}", u64::from_be_bytes(first))
}

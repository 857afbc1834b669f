//! One run of a scenario, with one fault or none. Panics when the end is not as it should be.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::scenario::{Scenario, observe};
use testkit::{Operator, Plan, Planned, Scene, Step, Wires, check, eventually};

/// `VAULT_CLIENT_TIMEOUT`. Twice as long is how long a write without an answer may still land.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A process that has had no step for so long has nothing to do now.
const REST: Duration = Duration::from_millis(250);

/// A run that has come to a good end.
pub struct Done {
    pub steps: Vec<Step>,
    /// The step that the fault has struck; `None`: it was not reached.
    pub struck: Option<String>,
}

/// An operator, or what is left of it.
struct Actor<'a> {
    name: String,
    operator: Option<Operator<'a>>,
    wires: Wires,
    /// It has been told to end.
    leaves: bool,
}

/// Where a scenario plays.
pub struct Stage<'a> {
    pub scene: &'a Scene,
    plan: Arc<Plan>,
    elects: bool,
    finalizers: bool,
    actors: Vec<Actor<'a>>,
    /// How many processes have been started.
    started: usize,
    /// Since when the process has run that took a killed one's place.
    replaced: Option<Instant>,
}

/// `noted` gets the words for the step that was struck, however the run ends.
pub fn run(scenario: &Scenario, fault: Option<Planned>, noted: &mut Option<String>) -> Done {
    let scene = Scene::new();
    scenario.set(&scene);
    let plan = Arc::new(Plan::new(&scene.ns, fault));
    let mut stage = Stage {
        scene: &scene,
        plan: Arc::clone(&plan),
        elects: scenario.operators > 1,
        finalizers: scenario.finalizers,
        actors: Vec::new(),
        started: 0,
        replaced: None,
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.play(scenario)));
    let struck = plan.struck().map(|struck| struck.line);
    noted.clone_from(&struck);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    Done {
        steps: plan.steps(),
        struck,
    }
}

impl<'a> Stage<'a> {
    fn play(&mut self, scenario: &Scenario) {
        if let Some(before) = scenario.before {
            self.enter(scenario.operators);
            self.becomes(before);
            self.plan.begin();
        } else {
            self.plan.begin();
            self.enter(scenario.operators);
        }
        (scenario.story)(self);
        loop {
            self.becomes(scenario.after);
            self.outwait();
            self.rests();
            let seen = observe(self.scene);
            assert_eq!(seen, scenario.after, "it was so, and did not stay so");
            if self.leave() {
                break;
            }
        }
        let seen = observe(self.scene);
        assert_eq!(seen, scenario.after, "it was not left so at the end");
    }

    /// The operators are told to end. False: one was killed while it did so, and runs again.
    fn leave(&mut self) -> bool {
        for index in 0..self.actors.len() {
            let actor = &mut self.actors[index];
            let Some(operator) = actor.operator.take() else {
                continue;
            };
            let status = operator.stop();
            if actor.wires.have_killed() {
                if self.elects {
                    self.empty_the_lease();
                }
                self.actors[index] = self.start();
                self.replaced = Some(Instant::now());
                return false;
            }
            assert_eq!(status.code(), Some(0), "the end of an operator");
        }
        true
    }

    /// The operators start, one after the other.
    fn enter(&mut self, count: usize) {
        for _ in 0..count {
            let actor = self.start();
            if let Some(operator) = actor.operator.as_ref().filter(|_| count > 1) {
                // The first one leads.
                operator.says(&[if self.started == 1 {
                    "acquired the lease"
                } else {
                    "waiting for the lease"
                }]);
            }
            self.actors.push(actor);
        }
    }

    fn start(&mut self) -> Actor<'a> {
        self.started += 1;
        let name = format!("operator-{}", self.started);
        let wires = Wires::new(&self.scene.bed, &self.plan);
        let kubeconfig = self.scene.dir.join(format!("kubeconfig-{}", self.started));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{}", wires.kube_port)}}],
            "users": [{"name": "it", "user": {"tokenFile": self.scene.dir.join("token")}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": self.scene.home}}],
        });
        fs::write(&kubeconfig, config.to_string()).unwrap();
        let operator = self
            .scene
            .run()
            .flag("kubeconfig", &kubeconfig.display().to_string())
            .flag("vault-addr", &format!("http://127.0.0.1:{}", wires.vault_port))
            .flag("leader-elect", if self.elects { "true" } else { "false" })
            // It concerns only a source that asks for it.
            .flag("adopt", "annotated")
            .flag("finalizers", if self.finalizers { "true" } else { "false" })
            .flag("metrics-bind-address", "0")
            .flag("health-probe-bind-address", "0")
            .env("VAULT_CLIENT_TIMEOUT", &format!("{}s", TIMEOUT.as_secs()))
            .env("POD_NAME", &name)
            .start();
        wires.belong_to(operator.id());
        Actor {
            name,
            operator: Some(operator),
            wires,
            leaves: false,
        }
    }

    /// The first operator is told to end; another one is to go on. One that was killed has done so.
    pub fn step_down(&mut self) {
        self.tend();
        let actor = &mut self.actors[0];
        if let Some(operator) = actor.operator.as_ref().filter(|_| self.replaced.is_none()) {
            operator.terminate();
            actor.leaves = true;
        }
    }

    /// Waits for it, and for rest.
    #[track_caller]
    fn becomes(&mut self, wanted: &[&str]) {
        let mut looked = None;
        let mut seen = Vec::new();
        eventually("the end state", || {
            self.tend();
            let quiet = self.plan.quiet();
            // Looking costs more than waiting.
            if quiet < REST && looked.is_some_and(|at: Instant| at.elapsed() < REST * 4) {
                return Err("the operator is at work".to_owned());
            }
            if looked.is_none_or(|at| at.elapsed() > REST / 2) {
                seen = observe(self.scene);
                looked = Some(Instant::now());
            }
            check(quiet >= REST && seen == wanted, difference(&seen, wanted))
        });
    }

    fn rests(&mut self) {
        eventually("the operator rests", || {
            self.tend();
            check(self.plan.quiet() >= REST, "it is at work")
        });
    }

    /// Waits until no write that has got no answer can land any more, and the operator has looked at
    /// what became of it.
    fn outwait(&mut self) {
        let Some(since) = self.replaced.or(self.plan.struck().map(|struck| struck.at)) else {
            return;
        };
        eventually("a late write lands no more", || {
            self.tend();
            check(since.elapsed() > TIMEOUT * 2 + REST, "it may still land")
        });
    }

    /// A process that has been killed is started again, as a Pod is.
    fn tend(&mut self) {
        for index in 0..self.actors.len() {
            let actor = &mut self.actors[index];
            let Some(operator) = &mut actor.operator else {
                continue;
            };
            if operator.is_running() {
                continue;
            }
            if actor.wires.have_killed() {
                actor.operator = None;
                if self.elects {
                    self.empty_the_lease();
                }
                self.actors[index] = self.start();
                self.replaced = Some(Instant::now());
            } else {
                assert!(
                    actor.leaves,
                    "the operator has ended by itself:\n{}",
                    operator.log()
                );
                let status = operator.ends();
                assert_eq!(status.code(), Some(0), "the end of the first operator");
                actor.operator = None;
            }
        }
    }

    /// That a dead leader's Lease lapses by itself is shown elsewhere, and takes too long here.
    fn empty_the_lease(&self) {
        let path = format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/vault-sync-operator.io",
            self.scene.home
        );
        let lease = self.scene.bed.kube.get(&path).json();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let alive = self
            .actors
            .iter()
            .any(|actor| actor.operator.is_some() && holder.starts_with(&format!("{}_", actor.name)));
        if !alive && !holder.is_empty() {
            // Guarded by what was read: another may take it just now.
            let given_up = json!({
                "metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]},
                "spec": {"holderIdentity": ""},
            });
            self.scene.bed.kube.patch(&path, &given_up);
        }
    }
}

/// What is there and should not be, and the other way round.
fn difference(seen: &[String], wanted: &[&str]) -> String {
    let mut lines = Vec::new();
    for line in seen.iter().filter(|line| !wanted.contains(&line.as_str())) {
        lines.push(format!("  there is      {line}"));
    }
    for line in wanted
        .iter()
        .filter(|line| !seen.iter().any(|other| other == *line))
    {
        lines.push(format!("  there is no   {line}"));
    }
    format!("\n{}", lines.join("\n"))
}

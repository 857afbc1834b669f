//! What happens in a run, and exactly what must have come of it: literally, for each scenario.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::run::Stage;
use testkit::{Scene, env_from, ours};

/// One story.
pub struct Scenario {
    pub name: &'static str,
    /// How many operators there are. Of two, one leads.
    pub operators: usize,
    /// Whether they put their finalizer on objects.
    pub finalizers: bool,
    /// How it stands before, once the operators have come to rest; `None`: none has run yet, and
    /// their start is part of the story.
    pub before: Option<&'static [&'static str]>,
    /// What people do. Steps count from here on.
    pub story: fn(&mut Stage),
    /// What must have come of it.
    pub after: &'static [&'static str],
}

/// What exists in all of them, from the beginning: two Secrets that a Deployment reads, one with a
/// path of its own, and somebody else's document beside ours.
fn people_and_things(scene: &Scene) {
    scene.doc("app/foreign").write(json!({"k": "theirs"}));
    sources(scene);
}

fn sources(scene: &Scene) {
    scene.secret("mail", &[("key", "one")]);
    scene.secret("db", &[("password", "one")]);
    scene.own("own", "one");
    scene.app("app", &["mail", "db"]);
}

impl Scenario {
    /// Makes what exists at the beginning.
    pub fn set(&self, scene: &Scene) {
        if self.before.is_some_and(|before| before == EMPTY) {
            scene.doc("app/foreign").write(json!({"k": "theirs"}));
        } else {
            people_and_things(scene);
        }
    }
}

const EMPTY: &[&str] = &[r#"document app/foreign, version 1: {"k":"theirs"}"#];

const SYNCED: &[&str] = &[
    "Deployment app with vault-sync.io/finalizer",
    "Secret db",
    "Secret mail",
    "Secret own with vault-sync.io/finalizer",
    r#"document app/db, version 1: {"password":"one"}, of Deployment app"#,
    r#"document app/foreign, version 1: {"k":"theirs"}"#,
    r#"document app/mail, version 1: {"key":"one"}, of Deployment app"#,
    r#"document own, version 1: {"k":"one"}, of Secret own"#,
    "ledger app/db: written for Deployment app",
    "ledger app/mail: written for Deployment app",
    "ledger own: written for Secret own",
];

const SYNCED_WITHOUT_FINALIZERS: &[&str] = &[
    "Deployment app",
    "Secret db",
    "Secret mail",
    "Secret own",
    r#"document app/db, version 1: {"password":"one"}, of Deployment app"#,
    r#"document app/foreign, version 1: {"k":"theirs"}"#,
    r#"document app/mail, version 1: {"key":"one"}, of Deployment app"#,
    r#"document own, version 1: {"k":"one"}, of Secret own"#,
    "ledger app/db: written for Deployment app",
    "ledger app/mail: written for Deployment app",
    "ledger own: written for Secret own",
];

const GONE: &[&str] = &[
    "Secret db",
    "Secret mail",
    "document app/db, version 1: deleted, released by Deployment app",
    r#"document app/foreign, version 1: {"k":"theirs"}"#,
    "document app/mail, version 1: deleted, released by Deployment app",
    "document own, version 1: deleted, released by Secret own",
];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "start",
        operators: 1,
        finalizers: true,
        before: None,
        story: |_| {},
        after: SYNCED,
    },
    Scenario {
        name: "create",
        operators: 1,
        finalizers: true,
        before: Some(EMPTY),
        story: |stage| sources(stage.scene),
        after: SYNCED,
    },
    Scenario {
        name: "rotate",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            stage.scene.set_key("db", "password", "two");
            stage.scene.set_key("own", "k", "two");
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            r#"document app/db, version 2: {"password":"two"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            r#"document app/mail, version 1: {"key":"one"}, of Deployment app"#,
            r#"document own, version 2: {"k":"two"}, of Secret own"#,
            "ledger app/db: written for Deployment app",
            "ledger app/mail: written for Deployment app",
            "ledger own: written for Secret own",
        ],
    },
    Scenario {
        name: "move",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            let scene = stage.scene;
            scene.annotate("Deployment", "app", &[("path", Some(&scene.path("moved")))]);
            scene.annotate("Secret", "own", &[("path", Some(&scene.path("moved-own")))]);
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            "document app/db, version 1: deleted, released by Deployment app",
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            "document app/mail, version 1: deleted, released by Deployment app",
            r#"document moved-own, version 1: {"k":"one"}, of Secret own"#,
            r#"document moved/db, version 1: {"password":"one"}, of Deployment app"#,
            r#"document moved/mail, version 1: {"key":"one"}, of Deployment app"#,
            "document own, version 1: deleted, released by Secret own",
            "ledger moved-own: written for Secret own",
            "ledger moved/db: written for Deployment app",
            "ledger moved/mail: written for Deployment app",
        ],
    },
    Scenario {
        name: "leave",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            let template = json!({"spec": {"template": {"spec": env_from(&["db"])}}});
            stage.scene.patch("Deployment", "app", template);
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            r#"document app/db, version 1: {"password":"one"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            "document app/mail, version 1: deleted, released by Deployment app",
            r#"document own, version 1: {"k":"one"}, of Secret own"#,
            "ledger app/db: written for Deployment app",
            "ledger own: written for Secret own",
        ],
    },
    Scenario {
        name: "delete",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            stage.scene.delete("Deployment", "app");
            stage.scene.delete("Secret", "own");
        },
        after: GONE,
    },
    // Nothing but a watch tells that something is gone, or a list, by what is not in it.
    Scenario {
        name: "vanish",
        operators: 1,
        finalizers: false,
        before: Some(SYNCED_WITHOUT_FINALIZERS),
        story: |stage| {
            stage.scene.delete("Deployment", "app");
            stage.scene.delete("Secret", "own");
        },
        after: GONE,
    },
    Scenario {
        name: "drift",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            let scene = stage.scene;
            scene.doc("app/mail").delete();
            scene.doc("app/db").write(json!({"password": "drift"}));
            scene.annotate("Deployment", "app", &[("force-sync", Some("1"))]);
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            r#"document app/db, version 3: {"password":"one"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            r#"document app/mail, version 2: {"key":"one"}, of Deployment app"#,
            r#"document own, version 1: {"k":"one"}, of Secret own"#,
            "ledger app/db: written for Deployment app",
            "ledger app/mail: written for Deployment app",
            "ledger own: written for Secret own",
        ],
    },
    // A person has a document at one path, and has deleted one at another.
    Scenario {
        name: "by-hand",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            let scene = stage.scene;
            scene.doc("taken").write(json!({"k": "theirs"}));
            scene.doc("left").write(json!({"k": "theirs"}));
            scene.doc("left").delete();
            scene.own("taken", "ours");
            scene.own("left", "ours");
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret left with vault-sync.io/finalizer",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            "Secret taken",
            r#"document app/db, version 1: {"password":"one"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            r#"document app/mail, version 1: {"key":"one"}, of Deployment app"#,
            r#"document left, version 2: {"k":"ours"}, of Secret left, adopted"#,
            r#"document own, version 1: {"k":"one"}, of Secret own"#,
            r#"document taken, version 1: {"k":"theirs"}"#,
            "ledger app/db: written for Deployment app",
            "ledger app/mail: written for Deployment app",
            "ledger left: written for Secret left, adopted",
            "ledger own: written for Secret own",
        ],
    },
    // One source takes another's document over, as its annotation says.
    Scenario {
        name: "adopt",
        operators: 1,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            let scene = stage.scene;
            let annotations = ours(&[("path", &scene.path("own")), ("adopt", "true")]);
            scene.create_secret("taker", annotations, &[("k", b"taken")]);
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            "Secret own with vault-sync.io/finalizer",
            "Secret taker with vault-sync.io/finalizer",
            r#"document app/db, version 1: {"password":"one"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            r#"document app/mail, version 1: {"key":"one"}, of Deployment app"#,
            r#"document own, version 2: {"k":"taken"}, of Secret taker"#,
            "ledger app/db: written for Deployment app",
            "ledger app/mail: written for Deployment app",
            "ledger own: written for Secret taker",
        ],
    },
    Scenario {
        name: "fail-over",
        operators: 2,
        finalizers: true,
        before: Some(SYNCED),
        story: |stage| {
            stage.scene.set_key("db", "password", "two");
            stage.scene.delete("Secret", "own");
            stage.step_down();
            stage.scene.set_key("mail", "key", "two");
        },
        after: &[
            "Deployment app with vault-sync.io/finalizer",
            "Secret db",
            "Secret mail",
            r#"document app/db, version 2: {"password":"two"}, of Deployment app"#,
            r#"document app/foreign, version 1: {"k":"theirs"}"#,
            r#"document app/mail, version 2: {"key":"two"}, of Deployment app"#,
            "document own, version 1: deleted, released by Secret own",
            "ledger app/db: written for Deployment app",
            "ledger app/mail: written for Deployment app",
        ],
    },
];

/// Everything that there is, in the words of [`Scenario::after`].
pub fn observe(scene: &Scene) -> Vec<String> {
    let mut lines = Vec::new();
    let uids = objects(scene, &mut lines);
    documents(scene, "", &mut lines);
    for (path, entry) in scene.entries() {
        let word = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let mut line = format!(
            "ledger {path}: {} for {} {}",
            word("state"),
            word("kind"),
            word("name")
        );
        // What we did not make ourselves we would not purge.
        for flag in ["adopted", "paused"] {
            if entry[flag] == true {
                let _ = write!(line, ", {flag}");
            }
        }
        if uids.get(&(word("kind"), word("name"))) != Some(&entry["uid"]) {
            line.push_str(", which is not there");
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

/// Kind and name of what exists, with its UID.
fn objects(scene: &Scene, lines: &mut Vec<String>) -> BTreeMap<(String, String), Value> {
    let mut uids = BTreeMap::new();
    for kind in ["Deployment", "Secret"] {
        for object in scene.list(kind) {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default().to_owned();
            let mut line = format!("{kind} {name}");
            for finalizer in metadata["finalizers"].as_array().into_iter().flatten() {
                let _ = write!(line, " with {}", finalizer.as_str().unwrap_or_default());
            }
            if !metadata["deletionTimestamp"].is_null() {
                line.push_str(", being deleted");
            }
            lines.push(line);
            uids.insert((kind.to_owned(), name), metadata["uid"].clone());
        }
    }
    uids
}

/// All documents below this scene's prefix, however deep.
fn documents(scene: &Scene, folder: &str, lines: &mut Vec<String>) {
    let path = format!("/v1/secret/metadata/{}/{folder}?list=true", scene.ns);
    let list = scene.bed.vault.get(&path).json();
    for name in list["data"]["keys"].as_array().into_iter().flatten() {
        let path = format!("{folder}{}", name.as_str().unwrap_or_default());
        if path.ends_with('/') {
            documents(scene, &path, lines);
            continue;
        }
        let doc = scene.doc(&path);
        let metadata = doc.metadata();
        let held = doc.data().map_or("deleted".to_owned(), |data| data.to_string());
        let version = &metadata["current_version"];
        let owner = owner(scene, &metadata["custom_metadata"], version);
        lines.push(format!("document {path}, version {version}: {held}{owner}"));
    }
}

/// Whose claim it is, or who gave it up at this version; all of it, if it is not exactly as it should be.
fn owner(scene: &Scene, claim: &Value, version: &Value) -> String {
    if claim.as_object().is_none_or(serde_json::Map::is_empty) {
        return String::new();
    }
    let whole = json!({
        "managed-by": "vault-sync-operator", "vault-sync.io/cluster-id": scene.bed.cluster_id(),
        "vault-sync.io/namespace": scene.ns, "vault-sync.io/kind": claim["vault-sync.io/kind"],
        "vault-sync.io/name": claim["vault-sync.io/name"],
    });
    let word = |name: &str| {
        claim[format!("vault-sync.io/{name}")]
            .as_str()
            .unwrap_or_default()
    };
    let mut adopted = whole.clone();
    adopted["vault-sync.io/adopted"] = json!("true");
    let mut released = whole.clone();
    released["vault-sync.io/released"] = json!("deleted");
    released["vault-sync.io/released-version"] = json!(version.to_string());
    if *claim == whole {
        format!(", of {} {}", word("kind"), word("name"))
    } else if *claim == adopted {
        format!(", of {} {}, adopted", word("kind"), word("name"))
    } else if *claim == released {
        format!(", released by {} {}", word("kind"), word("name"))
    } else {
        format!(", claimed by {claim}")
    }
}

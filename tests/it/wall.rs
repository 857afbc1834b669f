//! The floor plan that docs/architecture.md draws: no module knows one above it. What decides is a crate of its own
//! (`crates/core`), which knows none of them: that wall is the compiler's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The table of docs/architecture.md: a module, and those of ours that it may use. `run` and `main`,
/// which wire everything, may use all.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("cli", &["telemetry", "vault"]),
    (
        "controller",
        &[
            "backoff",
            "kube",
            "metrics",
            "mounts",
            "places",
            "readiness",
            "reconcile",
            "vault",
        ],
    ),
    (
        "cmd",
        &[
            "cli",
            "kube",
            "lease",
            "ledger_io",
            "machine",
            "mounts",
            "run",
            "vault",
        ],
    ),
    ("readiness", &[]),
    (
        "reconcile",
        &[
            "backoff",
            "events",
            "kube",
            "lease",
            "ledger_io",
            "machine",
            "metrics",
            "mounts",
            "places",
            "vault",
        ],
    ),
    ("places", &[]),
    ("mounts", &["vault"]),
    ("ledger_io", &["backoff", "kube"]),
    ("lease", &["kube", "machine"]),
    ("events", &["backoff", "kube", "machine", "metrics"]),
    ("admin", &["metrics"]),
    ("kube", &["machine"]),
    ("vault", &["backoff", "machine"]),
    ("machine", &[]),
    ("metrics", &[]),
    ("telemetry", &[]),
    ("backoff", &[]),
];

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

/// The files of a module: `module.rs` and everything in `module/`.
fn files(module: &str) -> Vec<PathBuf> {
    let mut found = vec![source(&format!("{module}.rs"))];
    found.extend(below(source(module)));
    found.retain(|path| path.exists());
    found
}

/// The source files in a folder and those in it.
fn below(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Every line of code (not comments, not tests) with one of the words, as `file:line: word`.
fn offences(files: &[PathBuf], words: &[String]) -> String {
    let mut list = String::new();
    for path in files {
        let text = fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .take_while(|line| !line.contains("mod tests {") || line.starts_with(' '));
        for (number, line) in lines.enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in words.iter().filter(|word| code.contains(word.as_str())) {
                let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
                let _ = writeln!(list, "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
    list
}

#[test]
fn no_module_knows_one_above_it() {
    let mut all = String::new();
    for (module, below) in MAY_USE {
        let others = MAY_USE.iter().map(|(other, _)| *other).chain(["run"]);
        let forbidden = others.filter(|other| *other != module && !below.contains(other));
        let words: Vec<String> = forbidden.map(|name| format!("crate::{name}")).collect();
        all += &offences(&files(module), &words);
    }
    assert!(all.is_empty(), "docs/architecture.md does not allow this:\n{all}");
}

#[test]
fn every_module_has_its_row() {
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(source("")).unwrap() {
        let path = entry.unwrap().path();
        there.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    let rows = MAY_USE.iter().map(|(module, _)| *module);
    let all: BTreeSet<String> = rows.chain(["run", "main", "lib"]).map(str::to_owned).collect();
    assert_eq!(there, all);
}

#[test]
fn unmaintained_crates_stay_behind_one_module_each() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (krate, home) in [
        ("serde_yaml", "crates/core/src/yaml.rs"),
        ("backoff", "src/backoff.rs"),
    ] {
        let mut everywhere = below(root.join("src"));
        everywhere.extend(below(root.join("crates/core/src")));
        let before = everywhere.len();
        everywhere.retain(|path| *path != root.join(home));
        assert_eq!(everywhere.len(), before - 1, "{home} is there");
        let offences = offences(&everywhere, &[format!("use {krate}::"), format!(" ::{krate}::")]);
        assert!(offences.is_empty(), "only {home} may name {krate}:\n{offences}");
    }
}

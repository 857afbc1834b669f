//! The wall that docs/architecture.md draws: what decides does no I/O and knows no clock, and no
//! module knows one above it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What reaches a network, a file, a thread or a clock, or is not ours to know.
const NOT_IN_THE_DOMAIN: [&str; 33] = [
    "tokio",
    "kube::",
    "k8s_openapi",
    "reqwest",
    "hyper",
    "rustls",
    "vaultrs",
    "rustify",
    "tracing",
    "futures",
    "prometheus",
    "backoff",
    "async ",
    ".await",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "std::os",
    "Instant::now",
    ".elapsed()",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "println!",
    "crate::vault",
    "crate::kube",
    "crate::cli",
    "crate::metrics",
    "crate::ledger",
    "crate::run",
];

/// The table of docs/architecture.md: a module, and those of ours that it may use. `run` and `main`,
/// which wire everything, may use all.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("cli", &["domain", "telemetry", "vault"]),
    (
        "controller",
        &[
            "backoff",
            "domain",
            "kube",
            "metrics",
            "mounts",
            "readiness",
            "reconcile",
            "vault",
        ],
    ),
    (
        "cmd",
        &[
            "cli", "domain", "kube", "lease", "ledger", "mounts", "run", "vault",
        ],
    ),
    ("readiness", &[]),
    (
        "reconcile",
        &[
            "backoff", "domain", "events", "kube", "lease", "ledger", "metrics", "mounts", "vault",
        ],
    ),
    ("mounts", &["domain", "vault"]),
    ("ledger", &["backoff", "domain", "kube"]),
    ("lease", &["domain", "kube"]),
    ("events", &["domain", "metrics"]),
    ("admin", &["domain", "metrics"]),
    ("kube", &["domain"]),
    ("vault", &["backoff", "domain"]),
    ("metrics", &["domain"]),
    ("telemetry", &[]),
    ("backoff", &[]),
    ("yaml", &[]),
    ("domain", &["domain", "yaml"]),
];

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

/// The files of a module: `module.rs` and everything in `module/`.
fn files(module: &str) -> Vec<PathBuf> {
    let mut found = vec![source(&format!("{module}.rs"))];
    let mut folders = vec![source(module)];
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
    found.retain(|path| path.exists());
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
fn what_decides_knows_no_network_no_file_no_thread_and_no_clock() {
    let files = files("domain");
    assert!(files.len() > 5, "{files:?}");
    let offences = offences(&files, &NOT_IN_THE_DOMAIN.map(str::to_owned));
    assert!(offences.is_empty(), "src/domain must not do this:\n{offences}");
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
fn unmaintained_crates_stay_behind_one_module_each() {
    for (krate, home) in [("serde_yaml", "yaml.rs"), ("backoff", "backoff.rs")] {
        let everywhere: Vec<PathBuf> = files("")
            .into_iter()
            .filter(|path| *path != source(home))
            .collect();
        assert!(everywhere.len() > 5, "{everywhere:?}");
        let offences = offences(&everywhere, &[format!("use {krate}::"), format!(" ::{krate}::")]);
        assert!(
            offences.is_empty(),
            "only src/{home} may name {krate}:\n{offences}"
        );
    }
}

//! The chart as Helm renders it: what people install is what the tests run under.

use std::path::Path;
use std::process::Command;

use serde::Deserialize as _;
use serde_json::Value;

pub struct Chart(Vec<Value>);

impl Chart {
    /// Renders it as release `it` in namespace `home`, with these values (`name=value`).
    pub fn render(bin: &Path, values: &[&str]) -> Self {
        let chart = super::project().join("charts/vault-sync-operator");
        let mut helm = Command::new(bin.join("helm"));
        helm.args(["template", "it"])
            .arg(chart)
            .args(["--namespace", "home"]);
        for value in values {
            helm.args(["--set", value]);
        }
        let output = helm.output().expect("helm runs");
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm template {values:?}: {problem}");
        let text = String::from_utf8(output.stdout).unwrap();
        let objects = serde_yaml::Deserializer::from_str(&text).map(|one| Value::deserialize(one).unwrap());
        Self(objects.filter(|object| !object.is_null()).collect())
    }

    /// The one object of a kind whose name ends so, in this namespace if it has one.
    #[track_caller]
    pub fn object(&self, kind: &str, namespace: Option<&str>, suffix: &str) -> &Value {
        let fits = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == kind
                && metadata["namespace"].as_str() == namespace
                && metadata["name"]
                    .as_str()
                    .is_some_and(|name| name.ends_with(suffix))
        };
        let found: Vec<&Value> = self.0.iter().filter(fits).collect();
        let [object] = found[..] else {
            panic!(
                "{} objects of kind {kind} end in {suffix} in {namespace:?}",
                found.len()
            );
        };
        object
    }
}

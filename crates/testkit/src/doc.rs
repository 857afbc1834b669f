//! One document in Vault, as its readers see it.

use serde_json::{Value, json};

use super::eventually;
use super::scene::Scene;

/// A document in Vault, seen with the root token.
pub struct Doc<'a> {
    pub(super) scene: &'a Scene,
    pub(super) mount: &'static str,
    pub(super) path: String,
}

impl Doc<'_> {
    fn is_v1(&self) -> bool {
        matches!(self.mount, "kv1" | "clusters")
    }

    fn data_path(&self) -> String {
        let (mount, path) = (self.mount, &self.path);
        if self.is_v1() {
            format!("/v1/{mount}/{path}")
        } else {
            format!("/v1/{mount}/data/{path}")
        }
    }

    /// Keys and values; `None`: no live version.
    pub fn data(&self) -> Option<Value> {
        let reply = self.scene.bed.vault.get(&self.data_path());
        match reply.status {
            200 if self.is_v1() => Some(reply.json()["data"].clone()),
            200 => Some(reply.json()["data"]["data"].clone()),
            404 => None,
            _ => panic!("{}: {reply:?}", self.data_path()),
        }
    }

    /// Waits until it holds exactly this.
    #[track_caller]
    pub fn becomes(&self, wanted: Value) -> &Self {
        eventually(format!("{} holds {}", self.path, short(&wanted)), || {
            let data = self.data();
            if data.as_ref() == Some(&wanted) {
                return Ok(());
            }
            let seen = data.map_or("no document".to_owned(), |data| short(&data));
            Err(format!("{seen}\nEvents: {:#?}", self.scene.all_events()))
        });
        self
    }

    /// Waits until it has no live version.
    #[track_caller]
    pub fn goes(&self) {
        eventually(format!("{} is gone", self.path), || match self.data() {
            None => Ok(()),
            Some(data) => Err(format!(
                "{}\nEvents: {:#?}",
                short(&data),
                self.scene.all_events()
            )),
        });
    }

    /// Is exactly this, now.
    #[track_caller]
    pub fn holds(&self, wanted: Value) -> &Self {
        assert_eq!(self.data(), Some(wanted), "{}", self.path);
        self
    }

    /// KV v2: the number of its latest version; 0 if it has none.
    pub fn version(&self) -> u64 {
        self.metadata()["current_version"].as_u64().unwrap_or(0)
    }

    #[track_caller]
    pub fn is_at_version(&self, version: u64) -> &Self {
        assert_eq!(self.version(), version, "the latest version of {}", self.path);
        self
    }

    /// KV v2: `Null` if there is none.
    pub fn metadata(&self) -> Value {
        self.scene
            .bed
            .vault
            .get(&format!("/v1/{}/metadata/{}", self.mount, self.path))
            .json()["data"]
            .clone()
    }

    /// By hand, as somebody else would.
    pub fn write(&self, data: Value) {
        let body = if self.is_v1() { data } else { json!({"data": data}) };
        self.scene.bed.vault.post(&self.data_path(), &body).ok();
    }

    /// By hand.
    pub fn delete(&self) {
        self.scene.bed.vault.delete(&self.data_path()).ok();
    }

    /// KV v2: brings a deleted version back.
    pub fn undelete(&self, version: u64) {
        let path = format!("/v1/{}/undelete/{}", self.mount, self.path);
        self.scene
            .bed
            .vault
            .post(&path, &json!({"versions": [version]}))
            .ok();
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.len() <= 400 {
        text
    } else {
        format!(
            "{}… ({} bytes)",
            text.chars().take(400).collect::<String>(),
            text.len()
        )
    }
}

//! Writing and reading policies.
//! <https://developer.hashicorp.com/vault/api-docs/system/policies>

use std::time::SystemTime;

use serde_json::json;

use super::super::journal::Deed;
use super::super::policy::Policy;
use super::super::reply::{Envelope, Reply};
use super::super::request::{Call, Verb};
use super::super::{Caller, Vault, text};

impl Vault {
    /// `sys/policies/acl/<name>`.
    pub(super) fn serve_policies(
        &mut self,
        now: SystemTime,
        name: &str,
        verb: Verb,
        call: &Call,
        caller: &Caller,
    ) -> Reply {
        match (verb, name) {
            (Verb::List, "") => {
                let mut names: Vec<String> = self.policies.keys().cloned().collect();
                names.push("root".to_owned());
                names.sort();
                Reply::list("system", &names)
            }
            (_, "") => Reply::unsupported_operation(),
            (Verb::Read, _) => self.read_policy(name),
            (Verb::Update, _) => self.write_policy(now, name, call, caller),
            (Verb::Delete, "root") => Reply::error(400, "cannot delete \"root\" policy"),
            (Verb::Delete, "default") => Reply::error(400, "cannot delete default policy"),
            (Verb::Delete, _) => {
                self.take_policy(now, &caller.who, name);
                Reply::done()
            }
            _ => Reply::unsupported_operation(),
        }
    }

    fn read_policy(&self, name: &str) -> Reply {
        let Some(policy) = self.policies.get(name) else {
            return Reply::nothing_here();
        };
        Envelope {
            data: json!({"name": name, "policy": policy.text}),
            mount_type: "system".to_owned(),
            ..Envelope::default()
        }
        .into()
    }

    fn write_policy(&mut self, now: SystemTime, name: &str, call: &Call, caller: &Caller) -> Reply {
        let text = text(call, "policy");
        if text.is_empty() {
            return Reply::error(400, "'policy' parameter not supplied or empty");
        }
        match Policy::parse(text) {
            Err(why) => Reply::error(400, why),
            Ok(_) if name == "root" => Reply::error(400, "cannot update \"root\" policy"),
            Ok(policy) => {
                self.put_policy(now, &caller.who, name, policy);
                Reply::done()
            }
        }
    }

    pub(in super::super) fn put_policy(&mut self, now: SystemTime, who: &str, name: &str, policy: Policy) {
        self.policies.insert(name.to_owned(), policy);
        self.acls.clear();
        self.record(now, who, Deed::Policy, name);
    }

    pub(in super::super) fn take_policy(&mut self, now: SystemTime, who: &str, name: &str) {
        if self.policies.remove(name).is_some() {
            self.acls.clear();
            self.record(now, who, Deed::Policy, name);
        }
    }
}

//! Whether Vault is up: health, leader, seal. No token is needed to ask.
//! <https://developer.hashicorp.com/vault/api-docs/system/health>

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::fields;
use super::random::Random;
use super::reply::Reply;
use super::time;

/// What this node is in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// It does the work.
    Active,
    /// It hands requests on to the active node.
    Standby,
    /// It is a standby, and its cluster has no active node.
    Leaderless,
    /// It answers reads itself.
    PerformanceStandby,
    /// It is for the recovery after a disaster.
    Secondary,
    /// It was never set up.
    Uninitialised,
}

/// The seal and the node's part in the cluster.
pub(super) struct Seal {
    pub(super) sealed: bool,
    pub(super) node: Node,
    pub(super) key: String,
    cluster: String,
}

impl Seal {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            sealed: false,
            node: Node::Active,
            key: random.key(),
            cluster: random.uuid(),
        }
    }

    /// Why other requests are not answered.
    pub(super) fn refusal(&self) -> Option<Reply> {
        if self.sealed {
            return Some(Reply::error(503, "Vault is sealed"));
        }
        match self.node {
            Node::Uninitialised => Some(Reply::error(503, "Vault is sealed")),
            Node::Leaderless => Some(Reply::error(
                500,
                "local node not active but active cluster node not found",
            )),
            _ => None,
        }
    }

    /// `sys/health`. The caller may say which status means what.
    pub(super) fn health(&self, query: &Map<String, Value>, now: SystemTime) -> Reply {
        let flag = |name: &str| {
            query
                .get(name)
                .is_some_and(|value| fields::flag(value) != Ok(false))
        };
        let code = |name: &str, usual: u16| {
            let given = query.get(name).and_then(|code| fields::whole(code).ok());
            given.and_then(|code| u16::try_from(code).ok()).unwrap_or(usual)
        };
        let active = code("activecode", 200);
        let status = match self.node {
            Node::Uninitialised => code("uninitcode", 501),
            _ if self.sealed => code("sealedcode", 503),
            Node::Secondary => code("drsecondarycode", 472),
            Node::PerformanceStandby if flag("perfstandbyok") => active,
            Node::PerformanceStandby => code("performancestandbycode", 473),
            Node::Standby | Node::Leaderless if flag("standbyok") => active,
            Node::Standby | Node::Leaderless => code("standbycode", 429),
            Node::Active => active,
        };
        let up = !self.sealed && self.node != Node::Uninitialised;
        let replication = if up { "disabled" } else { "unknown" };
        let mut health = json!({
            "initialized": self.node != Node::Uninitialised,
            "sealed": !up,
            "standby": !up || !matches!(self.node, Node::Active | Node::Secondary),
            "performance_standby": self.node == Node::PerformanceStandby,
            "replication_performance_mode": replication,
            "replication_dr_mode": replication,
            "server_time_utc": time::seconds(now),
            "version": "1.21.0",
            "enterprise": false,
            "echo_duration_ms": 0,
            "clock_skew_ms": 0,
            "replication_primary_canary_age_ms": 0,
        });
        if up {
            health["cluster_name"] = self.cluster_name().into();
            health["cluster_id"] = self.cluster.as_str().into();
        }
        Reply::Json(status, health)
    }

    /// `sys/leader`.
    pub(super) fn leader(&self) -> Reply {
        let (ha, address) = match self.node {
            Node::Standby | Node::PerformanceStandby => (true, "http://vault-0.vault:8200"),
            Node::Leaderless => (true, ""),
            Node::Active | Node::Secondary | Node::Uninitialised => (false, ""),
        };
        Reply::Json(
            200,
            json!({
                "ha_enabled": ha,
                "is_self": false,
                "active_time": "0001-01-01T00:00:00Z",
                "leader_address": address,
                "leader_cluster_address": "",
                "performance_standby": self.node == Node::PerformanceStandby,
                "performance_standby_last_remote_wal": 0,
            }),
        )
    }

    /// `sys/seal-status`, also the reply to a key.
    pub(super) fn status(&self) -> Reply {
        let mut status = json!({
            "type": "shamir",
            "initialized": true,
            "sealed": self.sealed,
            "t": 1,
            "n": 1,
            "progress": 0,
            "nonce": "",
            "version": "1.21.0",
            "build_date": "2025-11-26T18:17:39Z",
            "migration": false,
            "recovery_seal": false,
            "storage_type": "inmem",
        });
        if !self.sealed {
            status["cluster_name"] = self.cluster_name().into();
            status["cluster_id"] = self.cluster.as_str().into();
        }
        Reply::Json(200, status)
    }

    /// Why a key does not open the seal.
    pub(super) fn check(&self, key: Option<&str>) -> Result<(), Reply> {
        match key {
            None | Some("") => Err(Reply::error(
                400,
                "'key' must be specified in request body as JSON, or 'reset' set to true",
            )),
            Some(key) if key == self.key || !self.sealed => Ok(()),
            Some(_) => Err(Reply::error(400, "'key' must be a valid hex or base64 string")),
        }
    }

    fn cluster_name(&self) -> String {
        format!("vault-cluster-{}", self.cluster.get(..8).unwrap_or_default())
    }
}

//! HashiCorp Vault, as the operator uses it: one session, KV documents, typed errors.
//!
//! The only module that knows Vault's HTTP API. It decides nothing about documents, and remembers none; its
//! callers do not see HTTP, tokens or JSON. Behind this facade: `setup` (settings → HTTP client) → `wire` →
//! `transport` (requests and replies) → `session` and `token` (the login) → `kv` and `mount` (requests, and
//! what replies mean). Beside them are `error`, `pace` and `pulse` (how often Vault is asked).

#[cfg(any(test, fuzzing))]
pub mod any_reply;
mod error;
mod kv;
mod mount;
mod pace;
mod pulse;
mod session;
mod setup;
#[cfg(test)]
mod test_server;
mod token;
mod transport;
mod wire;

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vaultrs::api::kv1::requests::DeleteSecretRequest;
use vaultrs::api::kv2::requests::{
    DeleteLatestSecretVersionRequest, DeleteSecretMetadataRequest, DeleteSecretVersionsRequest,
    ReadSecretRequest,
};

use crate::machine::TimeLeft;
use domain::document::{Cas, DocumentId, KvVersion, MetadataPatch, Mount, Observed};
use domain::value::{Content, Found};
use error::Call;
pub use error::{Error, ErrorKind, LABELS, Operation};
pub use kv::{Written, encoded_len};
pub use mount::MountAnswer;
use session::Session;
pub use setup::{Access, SetupError};
use transport::{Plain, Reply, Transport};
pub use wire::{Broken, Wire};

/// Receives notifications for metrics. Must not block.
pub trait Observer: Send + Sync {
    /// A login succeeded or failed.
    fn auth_attempt(&self, success: bool);
    /// Vault is up, or is not: no connection, a timeout, sealed, a server error.
    fn up(&self, up: bool);
}

/// The wire over HTTP, with the address, TLS and proxy of these settings. The process's default rustls
/// provider must be installed.
pub fn http(settings: &Access) -> Result<Arc<dyn Wire>, SetupError> {
    Ok(Arc::new(wire::Http::new(settings.clone())?))
}

/// A client of Vault. Cheap to clone; all clones share one session.
#[derive(Clone)]
pub struct Vault(Arc<Session>);

impl Vault {
    /// Prepares everything, and sends nothing. [`Vault::maintain`] must run for calls to succeed, except
    /// [`Vault::health`].
    pub fn new(
        settings: Access,
        wire: Arc<dyn Wire>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, SetupError> {
        let transport = Transport::over(wire, settings, observer)?;
        Ok(Self(Arc::new(Session::new(transport))))
    }

    /// Asks which mount a path belongs to. The path is in the form that users write: `secret/data/app` or
    /// `secret/app`. A mount that is missing, or closed to the token, is `Denied`.
    /// <https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts>
    pub async fn mount(&self, path: &str) -> Result<MountAnswer, Error> {
        let call = Call::new(Operation::Mount, path);
        let reply = self.0.call(&call, &mount::question(path)).await?;
        mount::answer(&call, &reply)
    }

    /// Reads a document: its content, its latest version, and its owner.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version>
    pub async fn read(&self, mount: &Mount, id: &DocumentId) -> Result<Observed<Found>, Error> {
        let call = Call::new(Operation::Read, id.to_string());
        let path = match mount.version {
            KvVersion::V1 => id.to_string(),
            KvVersion::V2 => format!("{}/data/{}", id.mount, id.path),
        };
        let reply = self.0.call(&call, &Plain::get(path)).await?;
        kv::observed(mount.version, &call, &reply)
    }

    /// Reads one version of a KV v2 document, as [`Vault::read`] reads the latest.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version>
    pub async fn read_version(&self, id: &DocumentId, version: u64) -> Result<Observed<Found>, Error> {
        let call = Call::new(Operation::Read, id.to_string());
        let request = ReadSecretRequest {
            mount: id.mount.to_string(),
            path: id.path.to_string(),
            version: Some(version),
        };
        let reply = self.0.call(&call, &request).await?;
        kv::observed(KvVersion::V2, &call, &reply)
    }

    /// Writes a whole document, and returns its new version. On KV v1, the version is 0, and `cas` has no
    /// effect.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#create-update-secret>
    pub async fn write(
        &self,
        mount: &Mount,
        id: &DocumentId,
        content: &Content,
        cas: Cas,
    ) -> Result<Written, Error> {
        let call = Call::new(Operation::Write, id.to_string());
        kv::check(&call, content)?;
        let reply = self.0.call(&call, &kv::write(mount, id, content, cas)).await?;
        kv::written(mount.version, &call, &reply)
    }

    /// Changes a KV v2 document's custom metadata. Keys that the patch does not name stay. `NotFound`: the
    /// document has no metadata.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#patch-metadata>
    pub async fn patch_metadata(&self, id: &DocumentId, patch: &MetadataPatch) -> Result<(), Error> {
        let call = Call::new(Operation::Mark, id.to_string());
        done(&call, &self.0.call(&call, &kv::patch(id, patch)).await?)
    }

    /// Deletes one version of a KV v2 document; it can be undeleted. If the version does not exist, the call
    /// succeeds.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#delete-secret-versions>
    pub async fn delete_version(&self, id: &DocumentId, version: u64) -> Result<(), Error> {
        let call = Call::new(Operation::Delete, id.to_string());
        let (mount, path) = (id.mount.to_string(), id.path.to_string());
        let request = DeleteSecretVersionsRequest {
            mount,
            path,
            versions: vec![version],
        };
        done(&call, &self.0.call(&call, &request).await?)
    }

    /// Deletes the latest version, whichever it is; on KV v1, that is the document. If there is none, the
    /// call succeeds.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#delete-latest-version-of-secret>
    pub async fn delete_latest(&self, mount: &Mount, id: &DocumentId) -> Result<(), Error> {
        let call = Call::new(Operation::Delete, id.to_string());
        let (of, path) = (id.mount.to_string(), id.path.to_string());
        let reply = match mount.version {
            KvVersion::V1 => {
                self.0
                    .call(&call, &DeleteSecretRequest { mount: of, path })
                    .await?
            }
            KvVersion::V2 => {
                self.0
                    .call(&call, &DeleteLatestSecretVersionRequest { mount: of, path })
                    .await?
            }
        };
        done(&call, &reply)
    }

    /// Deletes a KV v2 document permanently: all versions and the metadata. If there is none, the call
    /// succeeds.
    /// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#delete-metadata-and-all-versions>
    pub async fn purge(&self, id: &DocumentId) -> Result<(), Error> {
        let call = Call::new(Operation::Purge, id.to_string());
        let request = DeleteSecretMetadataRequest {
            mount: id.mount.to_string(),
            path: id.path.to_string(),
        };
        done(&call, &self.0.call(&call, &request).await?)
    }

    /// Whether Vault is up: unsealed, and active or a standby that forwards. Needs no login.
    ///
    /// All callers share one request. A Vault that was unavailable is not asked again for two seconds, so
    /// that an outage costs one probe. A good answer counts only if its request was sent after `since`.
    /// <https://developer.hashicorp.com/vault/api-docs/system/health>
    pub async fn health(&self, since: Instant) -> Result<(), Error> {
        self.0.health(since).await
    }

    /// Waits until Vault is up. All waiting callers share one probe.
    pub async fn up(&self) {
        self.0.up().await;
    }

    /// Whether Vault knows the token. A dead token is replaced; if there is none yet, this returns an error.
    /// Checks [`Vault::health`] first, and shares requests in the same way.
    /// <https://developer.hashicorp.com/vault/api-docs/auth/token#lookup-a-token-self>
    pub async fn lookup_self(&self, since: Instant) -> Result<(), Error> {
        self.0.check(since).await
    }

    /// The time by Vault's own clock, in seconds since 1970, from its last reply. It is never later than now.
    /// `None`: no reply has contained it.
    pub fn clock(&self) -> Option<i64> {
        self.0.transport.clock()
    }

    /// Limits changes to documents, and the wait for their answers, to the time that `left` returns. It is
    /// called immediately before each request is sent. Set it once.
    pub fn change_while(&self, left: TimeLeft) {
        self.0.transport.change_while(left);
    }

    /// Runs the session: logs in, renews, and logs in again. Returns after `stop`, with the token revoked if
    /// that succeeds within two seconds. Run it once.
    pub async fn maintain(&self, stop: CancellationToken) {
        self.0.maintain(stop).await;
    }

    /// Waits until the first login has succeeded or failed.
    pub async fn first_login(&self) -> Result<(), Error> {
        self.0.token(&token::lookup()).await.map(drop)
    }

    /// Waits for the first successful login.
    pub async fn ready(&self) {
        self.0.ready().await;
    }
}

fn done(call: &Call, reply: &Reply) -> Result<(), Error> {
    reply.ok(call).map(drop)
}

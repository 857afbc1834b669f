//! Finds the cluster, and builds a client for it.

use std::path::{Path, PathBuf};

use kube::Client;

use super::bounded::{self, Connect, http};

/// Why there is no Kubernetes client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The given kubeconfig cannot be read.
    #[error("--kubeconfig: cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// The kubeconfig names no usable cluster.
    #[error("--kubeconfig: {}: {error}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// The pod's service account cannot be used.
    #[error(transparent)]
    InCluster(#[from] kube::config::InClusterError),
    /// No configuration of a cluster was found.
    #[error("no cluster found: neither KUBECONFIG, nor a pod's service account, nor ~/.kube/config: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// The configuration cannot be used for a client.
    #[error("cannot build a Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// A client for the cluster of [`configure`].
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    client(http(configure(kubeconfig).await?))
}

/// A client on the current runtime. All of its waits on the wire have limits.
pub fn client(connect: Connect) -> Result<Client, ConnectError> {
    Ok(bounded::client(connect)?)
}

/// Finds the cluster: the given kubeconfig, `KUBECONFIG`, in-cluster, `~/.kube/config`.
pub async fn configure(kubeconfig: Option<&Path>) -> Result<kube::Config, ConnectError> {
    let Some(file) = kubeconfig else {
        return Ok(
            if std::env::var_os("KUBECONFIG").is_none() && kube::Config::incluster().is_ok() {
                kube::Config::incluster()?
            } else {
                kube::Config::infer().await?
            },
        );
    };
    let read = kube::config::Kubeconfig::read_from(file).map_err(|error| ConnectError::Unreadable {
        file: file.to_owned(),
        error,
    })?;
    kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(|error| ConnectError::Unusable {
            file: file.to_owned(),
            error,
        })
}

//! The way to an API server: by a kubeconfig, or as a pod of its cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Why it is not known how to reach an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig can't be used.
    #[error("{path}: {problem}: set `kubeconfig` to a file that kubectl can use")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<KubeconfigError>,
    },
    /// We don't run as a pod.
    #[error("this is no pod of a cluster ({0}): set `kubeconfig`")]
    InCluster(#[from] InClusterError),
    /// Certificates or addresses can't be used.
    #[error(
        "no client for the API server can be made ({0}): mend the certificates of the kubeconfig"
    )]
    Client(#[from] Box<kube::Error>),
}

/// A client, which has not connected yet, and where its server is.
pub(super) async fn client(
    kubeconfig: Option<&Path>,
) -> Result<(kube::Client, String), ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let unusable = |problem| ConnectError::Kubeconfig {
                path: path.to_owned(),
                problem: Box::new(problem),
            };
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(unusable)?
        }
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    // Watches are silent for long, and their silence is timed here.
    config.read_timeout = None;
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    Ok((kube::Client::try_from(config).map_err(Box::new)?, server))
}

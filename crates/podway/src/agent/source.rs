//! Where facts about the cluster come from.

use podway_control::{Announcer, Batch, Directory, Kubernetes, KubernetesSettings, Standing};
use tokio::sync::mpsc;

use super::AgentError;
use crate::config::{Config, Source};

/// Batches of a source that wait for control at most.
const BATCHES: usize = 4;

/// A source that is open.
pub(super) struct Opened {
    /// What is known at once.
    pub(super) first: Batch,
    /// What comes later.
    pub(super) batches: mpsc::Receiver<Batch>,
    /// Whom to tell that the node is ready, if the source has somebody.
    pub(super) announcer: Option<Announcer>,
}

/// Opens the source; a directory has to be in order, an API server may be away.
pub(super) async fn open(config: &Config) -> Result<Opened, AgentError> {
    match &config.source {
        Source::Directory(path) => {
            let (mut directory, changes) = Directory::open(path).map_err(|problems| {
                for problem in &problems.0 {
                    tracing::error!(%problem, "the source is not in order");
                }
                AgentError::Source(problems)
            })?;
            let problems = directory.problems().to_vec();
            let (sender, batches) = mpsc::channel(BATCHES);
            tokio::spawn(async move { while sender.send(directory.next().await).await.is_ok() {} });
            Ok(Opened {
                first: Batch {
                    changes,
                    problems,
                    ..Batch::default()
                },
                batches,
                announcer: None,
            })
        }
        Source::Kubernetes => {
            let settings = KubernetesSettings {
                kubeconfig: config.kubeconfig.clone(),
                kept: Some(config.facts_path()),
                ..KubernetesSettings::default()
            };
            let kubernetes = Kubernetes::open(&settings).await?;
            let announcer = Some(kubernetes.announcer());
            Ok(Opened {
                first: Batch {
                    standing: Standing::Partial,
                    ..Batch::default()
                },
                batches: batches(kubernetes),
                announcer,
            })
        }
    }
}

/// What an API server says, batch by batch as control takes it. Needs a tokio runtime.
pub fn batches(mut kubernetes: Kubernetes) -> mpsc::Receiver<Batch> {
    let (sender, batches) = mpsc::channel(BATCHES);
    tokio::spawn(async move { while sender.send(kubernetes.next().await).await.is_ok() {} });
    batches
}

//! The time before the source has told of the whole cluster: nothing is in force, and questions are answered.

use podway_cni::agent::Response;
use podway_control::Standing;

use super::health::Probed;
use super::socket::{Asked, Request};
use super::{Agent, Inputs};

/// What keeps the agent from its work meanwhile.
const UNKNOWN: &str =
    "the cluster is not known yet: the source has not told of all kinds of objects";

/// How the wait for facts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The whole cluster is known.
    ForFacts,
    /// The agent was told to stop.
    ForNothing,
}

impl Agent {
    /// Waits for a whole cluster, or to be told to stop.
    pub(super) async fn await_facts(&mut self, inputs: &mut Inputs) -> Waited {
        self.not_in_force = Some(UNKNOWN.to_owned());
        while self.programming.standing() == Standing::Partial {
            tokio::select! {
                _ = inputs.terminate.recv() => return Waited::ForNothing,
                _ = inputs.interrupt.recv() => return Waited::ForNothing,
                Some(batch) = inputs.batches.recv() => self.take(batch),
                Some(Asked { request, answer }) = inputs.requests.recv() => {
                    let answered = match request {
                        Request::Show(topic) => Response::Ok(self.show(topic).await),
                        Request::Attach(_) | Request::Detach(_) | Request::Network => {
                            Response::Error(format!("{UNKNOWN}: try again"))
                        }
                    };
                    let _ = answer.send(answered);
                }
                Some(Probed { probe, answer }) = inputs.probes.recv() => {
                    let _ = answer.send(self.health(probe).await);
                }
            }
        }
        self.not_in_force = None;
        Waited::ForFacts
    }
}

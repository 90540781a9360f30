//! The time before the source has told of the whole cluster: nothing is in force, and questions are answered.

use podway_cni::agent::Response;
use podway_control::Standing;
use tokio::time::interval;

use super::socket::{Asked, Request};
use super::{Agent, Inputs, LOOK};

/// What keeps the agent from its work meanwhile.
pub(super) const UNKNOWN: &str =
    "the cluster is not known yet: the source has not told of all kinds of objects";
/// And once the cluster is known.
pub(super) const CLOSED: &str = "the agent starts: not all ports are open yet";

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
        let mut round = interval(LOOK);
        while self.programming.standing() == Standing::Partial {
            self.health.stamp();
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
                _ = round.tick() => {}
            }
        }
        Waited::ForFacts
    }
}

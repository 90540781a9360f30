//! STATUS: whether ADD would succeed.

use super::config::Config;
use super::error::{CniError, Code, PATIENCE};
use crate::State;
use crate::agent::network;

/// Nothing if a container can be added.
pub(super) fn status(config: &Config) -> Result<(), CniError> {
    // Pods' ports are closed while the agent is down: those that run have no network either.
    let node = network(&config.socket, PATIENCE)
        .map_err(|error| CniError::new(Code::Limited, error.to_string()))?;
    let unavailable = |text: String| Err(CniError::new(Code::NotAvailable, text));
    if let Some(problem) = node.problem {
        return unavailable(format!("the agent's tables are not in force: {problem}"));
    }
    if node.pod_ranges.is_empty() {
        return unavailable("the Node has no pod range: give it spec.podCIDRs".to_owned());
    }
    match State::at(&config.state).full(&node.pod_ranges) {
        Ok(None) => Ok(()),
        Ok(Some(range)) => unavailable(format!(
            "the node's pod range {range} is full: delete pods, or give the Node a larger range"
        )),
        Err(error) => unavailable(error.to_string()),
    }
}

//! What a lab is made of, and whether it runs.

use std::fmt;

use serde::Serialize;

use crate::process::Recorded;
use crate::state::State;
use crate::{Error, Place};

/// A lab's nodes and pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The directory of manifests that it was made from.
    pub source: String,
    /// Its nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// Its pods, by namespace and name.
    pub pods: Vec<PodStatus>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// Its agent, unless it was never started.
    pub agent: Option<ProcessStatus>,
    /// Its agent's admin socket.
    pub socket: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodStatus {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its network namespace: the node's, if it has none of its own.
    pub namespace: String,
    /// What its containers run.
    pub processes: Vec<ProcessStatus>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// What it is.
    pub name: String,
    /// Its process id, when it runs or ran.
    pub pid: i32,
    /// `running` or `ended`.
    pub state: &'static str,
}

pub(crate) fn status(place: &Place) -> Result<Status, Error> {
    let state = State::load(place)?;
    let nodes = state.nodes.into_iter().map(|(name, node)| NodeStatus {
        socket: place.socket(&name).display().to_string(),
        name,
        namespace: node.namespace,
        agent: node.agent.map(process_status),
    });
    let pods = state.pods.into_iter().map(|(name, pod)| PodStatus {
        name,
        node: pod.node,
        namespace: pod.namespace,
        processes: pod.processes.into_iter().map(process_status).collect(),
    });
    Ok(Status {
        source: state.source.display().to_string(),
        nodes: nodes.collect(),
        pods: pods.collect(),
    })
}

fn process_status(process: Recorded) -> ProcessStatus {
    let state = if process.is_running() {
        "running"
    } else {
        "ended"
    };
    ProcessStatus {
        name: process.name,
        pid: process.pid,
        state,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "lab of {}", self.source)?;
        writeln!(
            f,
            "{:28} {:12} {:40} PROCESSES",
            "NAME", "NODE", "NAMESPACE"
        )?;
        for node in &self.nodes {
            let name = format!("node:{}", node.name);
            write!(f, "{name:28} {:12} {:40}", "", node.namespace)?;
            node.agent
                .iter()
                .try_for_each(|process| write!(f, " {process}"))?;
            writeln!(f)?;
        }
        for pod in &self.pods {
            write!(f, "{:28} {:12} {:40}", pod.name, pod.node, pod.namespace)?;
            pod.processes
                .iter()
                .try_for_each(|process| write!(f, " {process}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for ProcessStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.state, self.pid)
    }
}

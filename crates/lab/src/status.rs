//! What a lab is made of, and whether it runs.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::process::Recorded;
use crate::state::State;
use crate::{Error, Place};

/// A lab's nodes and pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The directory of manifests that it was made from.
    pub source: String,
    /// The API server that agents follow, if they follow one.
    pub api_server: Option<ProcessStatus>,
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
    /// Its InternalIP addresses.
    pub addresses: Vec<IpAddr>,
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
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
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
        addresses: node.addresses,
        agent: node.agent.map(process_status),
    });
    let pods = state.pods.into_iter().map(|(name, pod)| PodStatus {
        name,
        node: pod.node,
        namespace: pod.namespace,
        addresses: pod.addresses,
        processes: pod.processes.into_iter().map(process_status).collect(),
    });
    Ok(Status {
        source: state.source.display().to_string(),
        api_server: state.api_server.map(process_status),
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
        row(f, ["NAME", "NODE", "ADDRESSES", "PROCESSES"])?;
        if let Some(server) = &self.api_server {
            row(f, ["api-server", "", "", &server.to_string()])?;
        }
        for node in &self.nodes {
            let addresses = joined(&node.addresses);
            let agent = joined(node.agent.as_slice());
            row(f, [&format!("node:{}", node.name), "", &addresses, &agent])?;
        }
        for pod in &self.pods {
            let addresses = joined(&pod.addresses);
            row(
                f,
                [&pod.name, &pod.node, &addresses, &joined(&pod.processes)],
            )?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, [name, node, addresses, processes]: [&str; 4]) -> fmt::Result {
    writeln!(f, "{name:28} {node:12} {addresses:36} {processes}")
}

fn joined(values: &[impl fmt::Display]) -> String {
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

impl fmt::Display for ProcessStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.state, self.pid)
    }
}

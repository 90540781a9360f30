//! What a pod's containers run and listen on, for those that start pods without a container runtime.

use k8s_openapi::api::core::v1::Pod;
use podway_wire::Protocol;

use crate::fields::{port, protocol};

/// The process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The container's name.
    pub container: String,
    /// `command` and `args`, the program first; empty if the manifest leaves it to the image.
    pub command: Vec<String>,
    /// Variables with plain values.
    pub env: Vec<(String, String)>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// The processes of a pod's containers, in order; init containers are not among them.
pub fn processes(pod: &Pod) -> Vec<Process> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| {
            let words = container.command.iter().chain(&container.args).flatten();
            let env = container.env.iter().flatten();
            Process {
                container: container.name.clone(),
                command: words.cloned().collect(),
                env: env
                    .filter(|entry| entry.value_from.is_none())
                    .map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_default()))
                    .collect(),
            }
        })
        .collect()
}

/// The ports that a pod's containers declare, in order.
pub fn container_ports(pod: &Pod) -> Vec<ContainerPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let declared = containers.flat_map(|container| container.ports.iter().flatten());
    declared
        .filter_map(|declared| {
            Some(ContainerPort {
                name: declared.name.clone(),
                protocol: protocol(declared.protocol.as_deref()).ok()?,
                port: port(declared.container_port).ok()?,
            })
        })
        .collect()
}

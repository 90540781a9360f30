//! Wiring of pods: the pair of interfaces between a pod's network namespace and its node's, and the words with
//! which the node's agent is asked to take it up.

pub mod agent;
mod namespace;
mod netlink;
mod offload;
mod wire;

pub use namespace::{Namespace, NamespaceError};
pub use netlink::{NetlinkError, Network, Route};
pub use offload::checksum_in_software;
pub use wire::{PodWiring, WireError, host_interface, pod_mac, tunnel_mtu, unwire, wire};

//! What is written down of a pod that was wired.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{host_interface, pod_mac};

/// An interface of a container, which is what a runtime adds and deletes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Wired {
    /// The container's id.
    pub container: String,
    /// The name of its interface inside the container.
    pub device: String,
}

impl Wired {
    /// The name of the host end, the same for the same container and interface.
    pub fn interface(&self) -> String {
        host_interface(&self.text())
    }

    /// The Ethernet address inside, the same for the same container and interface.
    pub fn mac(&self) -> [u8; 6] {
        pod_mac(&self.text())
    }

    /// Both in one word, which no other container's interface has.
    pub(crate) fn text(&self) -> String {
        format!("{}@{}", self.container, self.device)
    }
}

/// How far a pod's wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is being made, or was when its maker died.
    Adding,
    /// It was made, and the runtime was told.
    Added,
}

/// A pod that was wired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container's interface.
    #[serde(flatten)]
    pub wired: Wired,
    /// The network's name in the runtime's configuration.
    pub network: String,
    /// The pod as `NAMESPACE/NAME`.
    pub pod: String,
    /// The host end's name.
    pub interface: String,
    /// The Ethernet address inside as `02:00:00:00:00:01`.
    pub mac: String,
    /// The addresses that it was given, one of each family that the node has.
    pub addresses: Vec<IpAddr>,
    /// How far it is.
    pub phase: Phase,
    /// The boot of the machine in which it was made: no wire outlives that.
    pub boot: String,
}

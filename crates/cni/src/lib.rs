//! Wiring of pods: the pair of interfaces between a pod's network namespace and its node's, the words with which the
//! node's agent is asked to take it up, and the CNI plugin that does both for a container runtime.

pub mod agent;
mod install;
pub mod plugin;
mod ranges;
mod record;
mod state;
mod wire;

pub use install::{Install, InstallError, install};
pub use record::{Phase, Record, Wired};
pub use state::{STATE_DIRECTORY, State, StateError};
pub use wire::{PodWiring, WireError, host_interface, pod_mac, unwire, wire};

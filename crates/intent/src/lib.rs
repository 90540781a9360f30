//! What the cluster wants, in our own words, and how it compiles for one node.
//!
//! `Change`s make a [`Cluster`] of current facts; the order in which they arrive does not matter. [`compile`]
//! turns the facts into a node's tables and its XDP plan. Names stop here: below are addresses and dense ids.

mod address;
mod change;
mod cluster;
mod cluster_policy;
mod compiled;
mod compiler;
mod effective;
mod host;
mod identities;
mod ids;
mod lingering;
mod objects;
mod pods;
mod policies;
mod round;
mod selector;
mod service_ranges;
mod services;
mod sets;
mod topology;
mod tunnel;
mod world;

pub use address::gateway;
pub use change::{Change, Key};
pub use cluster::Cluster;
pub use cluster_policy::*;
pub use compiled::{Compiled, Names, Plan, PolicyName, Problem, RuleName, RulePlace};
pub use compiler::{Compiler, compile};
pub use effective::Effective;
pub use host::{HostRoute, LinkAddress, Resolved, RouteKey, RouteLeads, Uplink, one_way_out};
pub use objects::*;
pub use tunnel::{Tunnel, UnknownTunnel};

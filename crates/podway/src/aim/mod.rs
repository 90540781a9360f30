//! What control aims at, and in which order it goes there: plain functions, without a clock, a thread or a socket.
//!
//! [`Facts`] change only by taking an [`Event`]. [`Tables::of`] and [`desired`] say what follows from them, [`steps`] what
//! leads there from what is [`InForce`]. Whoever carries a step out says so to [`InForce::carried`]: the agent does it with
//! a kernel and workers, tests and benchmarks in memory.

mod desired;
mod facts;
mod steps;
#[cfg(test)]
mod tests;

pub use self::desired::{Desired, Port, Tables, desired};
pub use self::facts::{Due, Event, Facts, HostPorts, Looked, Prepared, Stage, Wire, WireState};
pub use self::steps::{Given, InForce, Lane, LastLook, Look, Step, Torn, steps};

use podway_tables::PortId;

/// The uplink's port.
pub const UPLINK: PortId = PortId(0);
/// The host's port.
pub const HOST: PortId = PortId(1);
/// Ports at most, the uplink's and the host's among them.
pub const PORTS: u16 = 1024;

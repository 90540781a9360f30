//! What is sent through every system.

use std::fmt;

use clap::ValueEnum;
use podway_wire::{Addr, vxlan};
use serde::{Deserialize, Serialize};

use super::bed::End;
use super::count::Stream;
use super::source::Pace;
use crate::cluster::{
    self, BACKEND_PORT, CLIENT_ADDRESS, CLIENT_MAC, FRESH, GATEWAY_MAC, NODE, PEER, PEER_MAC,
    REMOTE_SERVICE, SERVICE_PORT, SINGLE, SMALL, Scale, TARGETS, TUNNEL_PORT, UPLINK_MAC, VNI,
    after,
};
use crate::packets::{Ends, PORTS, Traffic, Varied};

/// The Ethernet addresses of the node's end of the tunnel, and of the other node's.
pub(crate) const VTEP_MAC: podway_wire::Mac = podway_wire::Mac([2, 0, 0, 0, 4, 1]);
pub(crate) const PEER_VTEP_MAC: podway_wire::Mac = podway_wire::Mac([2, 0, 0, 0, 4, 2]);
/// Nanoseconds between packets that each begin a flow: more than anybody forwards, and few enough flows for a second.
const FRESH_NS: u32 = 500;

/// Which way packets go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// Pod → service → pod on another node.
    #[default]
    Out,
    /// The answers to that: out of the tunnel, and the service's address again.
    Back,
    /// Out, and each packet begins a flow.
    Fresh,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) way: Way,
    /// Not of packets that each begin one.
    pub(crate) flows: u32,
    /// Length of the packets in bytes, Ethernet header included and the tunnel's not.
    pub(crate) length: usize,
    /// Workers, sources and queues; two share both cores.
    pub(crate) workers: usize,
}

impl Case {
    /// The cluster that it needs.
    pub(crate) fn scale(&self) -> Scale {
        match self.way {
            Way::Out => SMALL,
            Way::Back => SINGLE,
            Way::Fresh => FRESH,
        }
    }

    /// Where packets come from, and where they go to.
    pub(crate) fn ends(&self) -> (End, End) {
        match self.way {
            Way::Out | Way::Fresh => (End::Client, End::Wire),
            Way::Back => (End::Wire, End::Client),
        }
    }

    /// Flows that a table must have room for.
    pub(crate) fn room(&self) -> usize {
        match self.way {
            Way::Out | Way::Back => self.flows as usize,
            Way::Fresh => 2_000_000,
        }
    }

    /// What is measured.
    pub(crate) fn stream(&self) -> Stream {
        match self.way {
            Way::Out => self.out(),
            Way::Back => Stream {
                from: End::Wire,
                traffic: self.split(|first, flows| {
                    let ends = Ends {
                        source_mac: PEER_VTEP_MAC,
                        target_mac: VTEP_MAC,
                        source: cluster::endpoint(first),
                        target: CLIENT_ADDRESS,
                        server_port: BACKEND_PORT,
                    };
                    Traffic::udp(&ends, Varied::Replies, self.length, flows).tunnelled(&outer())
                }),
                pace: Pace::Full,
            },
            Way::Fresh => Stream {
                pace: Pace::Every(FRESH_NS * self.workers as u32),
                ..self.out()
            },
        }
    }

    /// The flows that are answered on the way back, in their own direction.
    pub(crate) fn out(&self) -> Stream {
        Stream {
            from: End::Client,
            traffic: self.split(|first, flows| {
                let ends = Ends {
                    source_mac: CLIENT_MAC,
                    target_mac: GATEWAY_MAC,
                    source: CLIENT_ADDRESS,
                    target: after(REMOTE_SERVICE, first),
                    server_port: SERVICE_PORT,
                };
                Traffic::udp(&ends, Varied::Target, self.length, flows)
            }),
            pace: Pace::Full,
        }
    }

    /// Gives each source services and flows of its own.
    fn split(&self, traffic: impl Fn(u32, u32) -> Traffic) -> Vec<Traffic> {
        let workers = self.workers as u32;
        let (services, flows) = match self.way {
            Way::Out | Way::Back => (TARGETS, self.flows),
            Way::Fresh => (FRESH.services, FRESH.services * PORTS),
        };
        (0..workers)
            .map(|source| traffic(services / workers * source, (flows / workers).max(1)))
            .collect()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { way, length, .. } = self;
        match self.way {
            Way::Out | Way::Back => write!(f, "{way}, {} flows, {length} bytes", self.flows)?,
            Way::Fresh => write!(f, "{way}, {length} bytes")?,
        }
        match self.workers {
            1 => Ok(()),
            workers => write!(f, ", {workers} workers"),
        }
    }
}

/// The tunnel from the other node.
fn outer() -> vxlan::Outer {
    vxlan::Outer {
        target_mac: UPLINK_MAC,
        source_mac: PEER_MAC,
        source: Addr::from(PEER),
        target: Addr::from(NODE),
        source_port: 50_000,
        target_port: TUNNEL_PORT,
        vni: VNI,
        traffic_class: 0,
    }
}

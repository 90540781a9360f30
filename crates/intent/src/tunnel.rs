//! How packets get to other nodes: what was chosen for the cluster, and what that means for each of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use podway_tables::Via;
use podway_wire::{Addr, vxlan};

use crate::NodeSetup;

/// Which nodes' packets go through the VXLAN tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// All nodes'.
    #[default]
    Vxlan,
    /// No node's: all are in the uplink's subnets, and are sent to directly.
    Direct,
    /// Those of nodes that are in none of the uplink's subnets.
    Auto,
}

/// A word that names no [`Tunnel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTunnel(String);

impl Tunnel {
    /// The words for users, and what each means.
    const ALL: [(&'static str, Tunnel); 3] = [
        ("vxlan", Tunnel::Vxlan),
        ("direct", Tunnel::Direct),
        ("auto", Tunnel::Auto),
    ];
}

impl FromStr for Tunnel {
    type Err = UnknownTunnel;

    fn from_str(text: &str) -> Result<Tunnel, UnknownTunnel> {
        let mut all = Tunnel::ALL.into_iter();
        let known = all.find_map(|(word, tunnel)| (word == text).then_some(tunnel));
        known.ok_or_else(|| UnknownTunnel(text.to_owned()))
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tunnel::Vxlan => "vxlan",
            Tunnel::Direct => "direct",
            Tunnel::Auto => "auto",
        })
    }
}

impl std::error::Error for UnknownTunnel {}

impl fmt::Display for UnknownTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Tunnel::ALL.map(|(word, _)| word);
        let [first, second, third] = words;
        let UnknownTunnel(text) = self;
        write!(
            f,
            "{text:?} is not known: give {first}, {second} or {third}"
        )
    }
}

/// How packets get to the node at `vtep`.
pub(crate) fn via(setup: &NodeSetup, vtep: &IpAddr) -> Via {
    let is_near = setup.subnets.iter().any(|subnet| subnet.contains(vtep));
    match (setup.tunnel, is_near) {
        (Tunnel::Vxlan, _) | (Tunnel::Auto, false) => Via::Vxlan,
        (Tunnel::Direct | Tunnel::Auto, true) => Via::Direct,
        (Tunnel::Direct, false) => Via::Nothing,
    }
}

/// The largest IP packet that gets to the node at `vtep` in one piece over a wire with this MTU, in bytes.
pub(crate) fn mtu(wire: u32, via: Via, vtep: &IpAddr) -> u32 {
    let overhead = match via {
        Via::Vxlan => vxlan::overhead(Addr::from(*vtep).family()) as u32,
        Via::Direct | Via::Nothing => 0,
    };
    wire.saturating_sub(overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for (word, tunnel) in Tunnel::ALL {
            assert_eq!(
                (word.parse(), tunnel.to_string()),
                (Ok(tunnel), word.to_owned())
            );
        }
        assert_eq!(
            "ipip".parse::<Tunnel>().map_err(|error| error.to_string()),
            Err("\"ipip\" is not known: give vxlan, direct or auto".to_owned())
        );
    }
}

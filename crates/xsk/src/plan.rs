//! What the XDP program takes for ours, and how its maps come to say so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use podway_wire::Protocol;

use crate::entries::{self, Entry};
use crate::error::RedirectError;
use crate::redirect::{Maps, remove};
use crate::skeleton::types;

/// What of the wire's traffic is ours; the rest is the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ranges whose packets are ours wherever they come in: pods, services, balancers' addresses.
    pub local: Vec<IpNet>,
    /// This node's own addresses, where tunnels, node ports and answers to masqueraded flows arrive.
    pub node_addresses: Vec<IpAddr>,
    /// Ranges of pods whose packets to the node's own addresses are ours: their nodes send without the tunnel.
    pub direct: Vec<IpNet>,
    /// The UDP port of tunnels; `None` on a node without.
    pub tunnel_port: Option<u16>,
    /// Ports of services on the node's addresses.
    pub node_ports: Vec<(Protocol, u16)>,
    /// Ports of services and pods at the node's own addresses, for its own processes (S26).
    pub own_ports: Vec<(IpAddr, Protocol, u16)>,
    /// The host's end of the pair, by which those come to us; `None` if there is none.
    pub host_ifindex: Option<u32>,
    /// Ports of `snat_ports` that are the host's: left to it.
    pub host_ports: BTreeSet<(Protocol, u16)>,
    /// The source ports that masquerading uses; `None` if it doesn't.
    pub snat_ports: Option<RangeInclusive<u16>>,
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

impl Plan {
    /// Makes `maps` equal to the plan; on an error part of it may be in force, and another call completes it.
    pub(crate) fn write(&self, maps: &Maps) -> Result<(), RedirectError> {
        let (local4, local6) = by_family(&self.local);
        let (direct4, direct6) = by_family(&self.direct);
        let addresses = present(self.node_addresses.iter().copied().map(entries::address));
        let node_ports = present(
            self.node_ports
                .iter()
                .map(|&(protocol, port)| entries::node_port(protocol, port)),
        );
        let own_ports = present(self.own_ports.iter().map(entries::own_port));
        write_words(&maps.host_ports, &self.host_words())
            .map_err(RedirectError::map("host_ports"))?;
        let settings = BTreeMap::from([(0u32.to_ne_bytes().to_vec(), self.settings())]);
        let wanted = [
            (&maps.settings, "settings", settings),
            (&maps.addresses, "addresses", addresses),
            (&maps.node_ports, "node_ports", node_ports),
            (&maps.own_ports, "own_ports", own_ports),
            (&maps.local4, "local4", local4),
            (&maps.local6, "local6", local6),
            (&maps.direct4, "direct4", direct4),
            (&maps.direct6, "direct6", direct6),
        ];
        for (map, name, entries) in &wanted {
            add(map, entries).map_err(RedirectError::map(name))?;
        }
        for (map, name, entries) in &wanted {
            remove_others(map, entries).map_err(RedirectError::map(name))?;
        }
        Ok(())
    }

    fn settings(&self) -> Vec<u8> {
        let (snat_first, snat_last) = self
            .snat_ports
            .as_ref()
            .map_or((0, 0), |range| (*range.start(), *range.end()));
        types::settings {
            tunnel_port: self.tunnel_port.unwrap_or(0),
            snat_first,
            snat_last,
            reserved: 0,
            host_ifindex: self.host_ifindex.unwrap_or(0),
        }
        .bytes()
    }

    /// The words of `host_ports` in redirect.h that the masquerading range reaches into.
    fn host_words(&self) -> BTreeMap<u32, u64> {
        let mut words = BTreeMap::new();
        let Some(range) = &self.snat_ports else {
            return words;
        };
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for place in range.start() / 64..=range.end() / 64 {
                words.insert(word_of(protocol) + u32::from(place), 0);
            }
        }
        for (protocol, port) in &self.host_ports {
            if let Some(word) = words.get_mut(&(word_of(*protocol) + u32::from(port / 64))) {
                *word |= 1 << (port % 64);
            }
        }
        words
    }
}

/// Entries of the maps of each family's ranges.
fn by_family(ranges: &[IpNet]) -> (Entries, Entries) {
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) =
        ranges.iter().partition(|net| matches!(net, IpNet::V4(_)));
    let entries = |nets: Vec<&IpNet>| present(nets.into_iter().map(entries::prefix));
    (entries(v4), entries(v6))
}

/// Entries of a set: each key with the value 1.
fn present(keys: impl Iterator<Item = Vec<u8>>) -> Entries {
    keys.map(|key| (key, vec![1])).collect()
}

/// Where the words of a protocol's ports begin: UDP's behind TCP's, which have a bit for each port.
fn word_of(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::UDP => (1 << 16) / u64::BITS,
        _ => 0,
    }
}

/// Writes the words that differ; an array has all of its entries always.
fn write_words(map: &MapHandle, words: &BTreeMap<u32, u64>) -> libbpf_rs::Result<()> {
    for (place, word) in words {
        let (key, value) = (place.to_ne_bytes(), word.to_ne_bytes());
        if map.lookup(&key, MapFlags::ANY)?.as_deref() != Some(&value) {
            map.update(&key, &value, MapFlags::ANY)?;
        }
    }
    Ok(())
}

/// Writes what is missing or different. Presence is looked up among the keys: a prefix map answers with shorter prefixes too.
fn add(map: &MapHandle, wanted: &Entries) -> libbpf_rs::Result<()> {
    let present: BTreeSet<_> = map.keys().collect();
    for (key, value) in wanted {
        if !present.contains(key) || map.lookup(key, MapFlags::ANY)?.as_ref() != Some(value) {
            map.update(key, value, MapFlags::ANY)?;
        }
    }
    Ok(())
}

fn remove_others(map: &MapHandle, wanted: &Entries) -> libbpf_rs::Result<()> {
    let stale: Vec<_> = map.keys().filter(|key| !wanted.contains_key(key)).collect();
    stale.iter().try_for_each(|key| remove(map, key))
}

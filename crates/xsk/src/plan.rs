//! What the XDP program takes for ours, and how its maps come to say so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use podway_wire::{Addr, Protocol};

use crate::error::RedirectError;
use crate::redirect::{Maps, remove};

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
        let addresses = present(self.node_addresses.iter().map(|&ip| address_key(ip)));
        let node_ports = present(
            self.node_ports
                .iter()
                .map(|&(protocol, port)| node_port_key(protocol, port)),
        );
        let own_ports = present(self.own_ports.iter().map(own_port_key));
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

    /// `struct settings` in redirect.h.
    fn settings(&self) -> Vec<u8> {
        let (first, last) = self
            .snat_ports
            .as_ref()
            .map_or((0, 0), |range| (*range.start(), *range.end()));
        let ports = [self.tunnel_port.unwrap_or(0), first, last, 0];
        let host = self.host_ifindex.unwrap_or(0).to_ne_bytes();
        let words = ports.iter().flat_map(|word| word.to_ne_bytes());
        words.chain(host).collect()
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
    let entries = |nets: Vec<&IpNet>| present(nets.into_iter().map(prefix_key));
    (entries(v4), entries(v6))
}

/// Entries of a set: each key with the value 1.
fn present(keys: impl Iterator<Item = Vec<u8>>) -> Entries {
    keys.map(|key| (key, vec![1])).collect()
}

/// `struct prefix4` or `struct prefix6`.
fn prefix_key(net: &IpNet) -> Vec<u8> {
    let mut key = u32::from(net.prefix_len()).to_ne_bytes().to_vec();
    match net.network() {
        IpAddr::V4(ip) => key.extend(ip.octets()),
        IpAddr::V6(ip) => key.extend(ip.octets()),
    }
    key
}

/// `struct address`.
fn address_key(ip: IpAddr) -> Vec<u8> {
    Addr::from(ip).octets().to_vec()
}

/// `struct node_port`.
fn node_port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [low, high] = port.to_ne_bytes();
    vec![low, high, protocol.0, 0]
}

/// `struct own_port`.
fn own_port_key((ip, protocol, port): &(IpAddr, Protocol, u16)) -> Vec<u8> {
    let [low, high] = port.to_ne_bytes();
    let mut key = address_key(*ip);
    key.extend([low, high, protocol.0, 0]);
    key
}

/// Where the words of a protocol's ports begin: PORT_WORDS of redirect.h.
fn word_of(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::UDP => 1_024,
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

//! Where cluster addresses are: the ranges that they are given from, and those that are in use elsewhere (R7).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use podway_wire::Addr;

use crate::round::Round;
use crate::{Cluster, Key, Name, Problem};

/// Cluster addresses outside of the ranges that are taken by themselves at most: each is a route of the node's own.
const MOST: usize = 8_192;

/// Whether the ranges are others than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// They are the same.
    Same,
    /// They differ.
    Different,
}

/// The ranges, and the cluster addresses of services outside of them with who has them.
#[derive(Debug, Default)]
pub(crate) struct ServiceRanges {
    ranges: Vec<IpNet>,
    outside: BTreeMap<IpAddr, BTreeSet<Name>>,
}

impl ServiceRanges {
    /// Takes in what differs.
    pub(crate) fn update(&mut self, round: &Round<'_>) -> Ranges {
        let ranges = round.now.service_ranges();
        if ranges != self.ranges {
            self.ranges = ranges;
            self.outside.clear();
            for (name, _) in round.now.services.iter() {
                self.put(round.now, name);
            }
            return Ranges::Different;
        }
        for name in &round.touched.services {
            let before = round.before.services.get(name);
            for address in before.iter().flat_map(|service| &service.cluster_ips) {
                self.remove(address, name);
            }
            self.put(round.now, name);
        }
        Ranges::Same
    }

    /// The ranges, in order.
    pub(crate) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// All ranges and single addresses that are services' alone; never a node's own address, which is the node's.
    pub(crate) fn taken(&self, cluster: &Cluster) -> impl Iterator<Item = IpNet> {
        let nodes: BTreeSet<IpAddr> = match self.outside.is_empty() {
            true => BTreeSet::new(),
            false => {
                let nodes = cluster.nodes.iter();
                let own = cluster.own_addresses.iter().map(|(ip, ())| *ip);
                let told = nodes.flat_map(|(_, node)| node.addresses.clone());
                told.chain(own).collect()
            }
        };
        let single = self.outside.keys().copied();
        let single = single.filter(move |address| !nodes.contains(address));
        let ranges = self.ranges.iter().copied();
        ranges.chain(single.take(MOST).map(IpNet::from))
    }

    /// What is wrong with where services have their addresses.
    pub(crate) fn problems(&self) -> Option<Problem> {
        // Where nothing says which addresses are services', none is outside.
        if self.ranges.is_empty() {
            return None;
        }
        let (address, services) = self.outside.first_key_value()?;
        let more = self.outside.len() - 1;
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        let left_out = self.outside.len().saturating_sub(MOST);
        Some(Problem {
            object: Key::Service(services.first()?.clone()),
            text: format!(
                "cluster address {address} is outside of the service ranges {}{}: it is taken by itself{}; set `service_ranges` to what the cluster gives addresses from",
                ranges.join(", "),
                match more {
                    0 => String::new(),
                    more => format!(", and so are {more} others"),
                },
                match left_out {
                    0 => String::new(),
                    left_out => format!(", but for {left_out} that the node itself does not reach"),
                }
            ),
        })
    }

    fn put(&mut self, cluster: &Cluster, name: &Name) {
        let Some(service) = cluster.services.get(name) else {
            return;
        };
        for address in &service.cluster_ips {
            let inside = self.ranges.iter().any(|range| range.contains(address));
            if !inside && is_fit(address) {
                let services = self.outside.entry(*address).or_default();
                services.insert(name.clone());
            }
        }
    }

    fn remove(&mut self, address: &IpAddr, name: &Name) {
        let Some(services) = self.outside.get_mut(address) else {
            return;
        };
        services.remove(name);
        if services.is_empty() {
            self.outside.remove(address);
        }
    }
}

/// True of an address that a service may have: none of those that mean something else to every kernel.
fn is_fit(address: &IpAddr) -> bool {
    let addr = Addr::from(*address);
    !(address.is_loopback()
        || address.is_unspecified()
        || addr.is_multicast()
        || addr.is_link_local())
}

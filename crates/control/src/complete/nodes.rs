//! Nodes: addresses on the underlay and pod ranges.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::{Node, NodeAddress};

use crate::complete::{Cluster, choose};
use crate::convert::node_into;
use crate::fields::Family;
use crate::object::{is_stored, title};
use crate::problem::Findings;

/// Numbers that a node can have: the last byte of its address.
const NUMBERS: u64 = 254;

/// Gives every node without them an InternalIP and pod ranges of both families (of its address's, if it has one).
pub(super) fn complete(cluster: &mut Cluster) {
    let mut given = Given::default();
    for (node, place) in &cluster.nodes {
        let title = title("Node", &node.metadata);
        let node = node_into(node, &mut Findings::new(title.clone(), place));
        for address in node.addresses {
            let taken = cluster.claims.take_given(address, &title, place);
            if let Err(message) = taken {
                cluster
                    .problems
                    .push(place.problem(&title, "status.addresses", message));
            }
            given.addresses.push(address);
        }
        for range in node.pod_ranges {
            let overlaps = |(other, _): &&(IpNet, String)| overlap(other, &range);
            if let Some((other, owner)) = given.ranges.iter().find(overlaps) {
                let message = format!("{range} overlaps {other} of {owner}: change one");
                cluster
                    .problems
                    .push(place.problem(&title, "spec.podCIDRs", message));
            }
            given.ranges.push((range, format!("{title} ({place})")));
        }
    }

    let mut numbers = BTreeSet::new();
    let mut chosen: Vec<Option<u64>> = Vec::new();
    // Those whose names end in a number come first, so that node7 is 7 whoever else is there.
    for (node, _) in &cluster.nodes {
        let own = own_number(name(node)).filter(|_| needs_number(node));
        let free = own.filter(|own| given.leave_free(*own) && !numbers.contains(own));
        numbers.extend(free);
        chosen.push(free);
    }
    for ((node, place), chosen) in cluster.nodes.iter_mut().zip(chosen) {
        if !needs_number(node) {
            continue;
        }
        let free = |slot: u64| !numbers.contains(&(slot + 1)) && given.leave_free(slot + 1);
        let found = chosen.or_else(|| Some(1 + choose::slot(name(node), NUMBERS, free)?));
        let title = title("Node", &node.metadata);
        let Some(number) = found else {
            let message = "no address is left for it: give it InternalIP and podCIDRs";
            cluster.problems.push(place.problem(&title, "", message));
            continue;
        };
        numbers.insert(number);
        fill(node, number);
        for address in internal_addresses(node) {
            if cluster.claims.is_free(address) {
                cluster.claims.take(address, &title);
            }
        }
    }
    for (node, _) in &mut cluster.nodes {
        let name = name(node).to_owned();
        let labels = node.metadata.labels.get_or_insert_default();
        labels
            .entry("kubernetes.io/hostname".to_owned())
            .or_insert(name);
    }
}

/// What manifests give, which nothing chosen may touch.
#[derive(Default)]
struct Given {
    addresses: Vec<IpAddr>,
    ranges: Vec<(IpNet, String)>,
}

impl Given {
    fn leave_free(&self, number: u64) -> bool {
        addresses(number)
            .iter()
            .all(|address| !self.addresses.contains(address))
            && ranges(number)
                .iter()
                .all(|range| self.ranges.iter().all(|(given, _)| !overlap(given, range)))
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// The number at the end of a node's name.
fn own_number(name: &str) -> Option<u64> {
    let digits = name
        .trim_end_matches(|letter: char| letter.is_ascii_digit())
        .len();
    let number: u64 = name[digits..].parse().ok()?;
    (1..=NUMBERS).contains(&number).then_some(number)
}

fn addresses(number: u64) -> [IpAddr; 2] {
    let number = number as u8;
    [
        Ipv4Addr::new(192, 168, 50, number).into(),
        Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, number.into()).into(),
    ]
}

fn ranges(number: u64) -> [IpNet; 2] {
    let number = number as u8;
    let v6 = Ipv6Addr::new(0xfd44, 0, 0, number.into(), 0, 0, 0, 0);
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 244, number, 0), 24).into(),
        Ipv6Net::new_assert(v6, 64).into(),
    ]
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let entries = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten());
    entries
        .filter(|entry| entry.type_ == "InternalIP")
        .filter_map(|entry| entry.address.parse().ok())
        .collect()
}

/// True if pod ranges are ours to choose: where a cluster gave none, its network does without.
fn lacks_ranges(node: &Node) -> bool {
    let is_ours = !is_stored(&node.metadata);
    is_ours
        && node.spec.as_ref().is_none_or(|spec| {
            spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty)
                && spec.pod_cidr.as_deref().is_none_or(str::is_empty)
        })
}

fn needs_number(node: &Node) -> bool {
    internal_addresses(node).is_empty() || lacks_ranges(node)
}

fn fill(node: &mut Node, number: u64) {
    let given: Vec<Family> = internal_addresses(node)
        .into_iter()
        .map(Family::of)
        .collect();
    if given.is_empty() {
        let status = node.status.get_or_insert_default();
        let entries = status.addresses.get_or_insert_default();
        entries.extend(addresses(number).map(|address| NodeAddress {
            address: address.to_string(),
            type_: "InternalIP".to_owned(),
        }));
    }
    if lacks_ranges(node) {
        let wanted = |range: &IpNet| given.is_empty() || given.contains(&Family::of(range.addr()));
        let ranges = ranges(number).into_iter().filter(wanted);
        let ranges: Vec<String> = ranges.map(|range| range.to_string()).collect();
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidr = ranges.first().cloned();
        spec.pod_cidrs = Some(ranges);
    }
}

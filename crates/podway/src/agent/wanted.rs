//! What the cluster's facts ask of this node's kernel and of the XDP program.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use podway_intent::{Cluster, Compiled};
use podway_tables::Via;
use podway_wire::Addr;
use podway_xsk::Plan;

use podway_host::node::Wanted;

/// Routes and next hops that the node needs.
pub(super) fn of_node(cluster: &Cluster, compiled: &Compiled) -> Wanted {
    let snapshot = &compiled.snapshot;
    let addresses: Vec<IpAddr> = snapshot.node.addresses.iter().map(Addr::ip).collect();
    let ranges = cluster
        .nodes()
        .into_iter()
        .flat_map(|node| node.pod_ranges.iter())
        // Services answer at addresses outside of all ranges, too.
        .chain(&compiled.plan.local)
        .map(IpNet::trunc)
        .filter(|range| {
            let family = |address: &IpAddr| address.is_ipv4() == range.addr().is_ipv4();
            addresses.iter().any(family)
        })
        .collect();
    let peers = || snapshot.peers.iter().flatten();
    let direct = peers().filter(|peer| peer.via == Via::Direct);
    Wanted {
        ranges,
        addresses,
        vteps: peers().map(|peer| peer.vtep.ip()).collect(),
        direct: direct.map(|peer| peer.vtep.ip()).collect(),
    }
}

/// The XDP program's plan from the compiler's.
pub(super) fn plan(compiled: &podway_intent::Plan) -> Plan {
    Plan {
        local: compiled.local.clone(),
        node_addresses: compiled.node_addresses.clone(),
        direct: compiled.direct.clone(),
        tunnel_port: (compiled.tunnel_port != 0).then_some(compiled.tunnel_port),
        node_ports: compiled.node_ports.clone(),
        snat_ports: compiled.snat_ports.map(|(first, last)| first..=last),
    }
}

/// What both plans take for ours: in force while workers go from the one's tables to the other's.
pub(super) fn common(old: &Plan, new: &Plan) -> Plan {
    fn both<T: Clone + Ord>(old: &[T], new: &[T]) -> Vec<T> {
        let new: BTreeSet<&T> = new.iter().collect();
        old.iter()
            .filter(|item| new.contains(item))
            .cloned()
            .collect()
    }
    Plan {
        local: both(&old.local, &new.local),
        node_addresses: both(&old.node_addresses, &new.node_addresses),
        direct: both(&old.direct, &new.direct),
        tunnel_port: old
            .tunnel_port
            .filter(|port| new.tunnel_port == Some(*port)),
        node_ports: both(&old.node_ports, &new.node_ports),
        snat_ports: old
            .snat_ports
            .clone()
            .filter(|ports| new.snat_ports.as_ref() == Some(ports)),
    }
}

#[cfg(test)]
mod tests {
    use podway_intent::{Change, Node, NodeSetup, compile};

    use super::*;

    fn node(name: &str, addresses: &[&str], range: &str) -> Change {
        Change::Node(Node {
            name: name.into(),
            labels: Default::default(),
            addresses: addresses
                .iter()
                .map(|text| text.parse().expect("address"))
                .collect(),
            taints: Vec::new(),
            pod_ranges: vec![range.parse().expect("range")],
        })
    }

    #[test]
    fn the_node_wants_all_ranges_of_its_families_and_other_nodes_tunnels() {
        let mut cluster = Cluster::default();
        for change in [
            node("n1", &["10.0.0.1"], "10.244.1.0/24"),
            node("n2", &["fd50::2", "10.0.0.2"], "10.244.2.0/24"),
            node("n3", &["fd50::3"], "fd44::/64"),
        ] {
            cluster.apply(change);
        }
        let services = ["10.96.0.0/16", "fd96::/112"].map(|text| text.parse().expect("range"));
        cluster.apply(Change::Setup(NodeSetup {
            service_ranges: services.into(),
            ..NodeSetup::default()
        }));
        let of = |name: &str| of_node(&cluster, &compile(&cluster, name));
        let wanted = of("n1");
        let shown: Vec<String> = wanted.ranges.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.96.0.0/16", "10.244.1.0/24", "10.244.2.0/24"]);
        let shown: Vec<String> = wanted.vteps.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.2"], "n1 has no address of n3's family");
        assert_eq!(of("n9").ranges.len(), 0);
    }

    #[test]
    fn nothing_is_redirected_that_only_one_of_two_plans_has() {
        let plan = |ranges: &[&str], tunnel_port| {
            let ranges = ranges.iter().map(|text| text.parse().expect("range"));
            let local: Vec<IpNet> = ranges.collect();
            Plan {
                direct: local.clone(),
                local,
                tunnel_port,
                ..Plan::default()
            }
        };
        let old = plan(&["10.1.0.0/24", "10.2.0.0/24"], Some(4789));
        let new = plan(&["10.2.0.0/24", "10.3.0.0/24"], Some(8472));
        assert_eq!(common(&old, &new), plan(&["10.2.0.0/24"], None));
        assert_eq!(common(&old, &old), old);
    }
}

//! ClusterNetworkPolicies at random.

use podway_intent::*;
use podway_wire::Protocol;
use proptest::prelude::*;
use proptest::sample::select;

use crate::build::{net, selector};
use crate::world::{any_selector, protocol};

const NAMES: [&str; 4] = ["audit", "base", "deny", "open"];

pub(crate) fn mode() -> impl Strategy<Value = PolicyMode> {
    prop_oneof![3 => Just(PolicyMode::Enforce), 1 => Just(PolicyMode::Observe)]
}

fn set() -> impl Strategy<Value = PodSet> {
    (any_selector(), any_selector()).prop_map(|(namespaces, pods)| PodSet { namespaces, pods })
}

fn peer() -> impl Strategy<Value = ClusterPeer> {
    let range = select(vec![
        "0.0.0.0/0",
        "::/0",
        "10.244.2.0/24",
        "10.244.1.12/32",
        "fd00::/16",
    ]);
    let zone = select(vec!["", "topology.kubernetes.io/zone=za"]);
    prop_oneof![
        5 => set().prop_map(ClusterPeer::Pods),
        3 => prop::collection::vec(range.prop_map(net), 0..3).prop_map(ClusterPeer::Networks),
        1 => zone.prop_map(|zone| ClusterPeer::Nodes(selector(zone))),
        1 => Just(ClusterPeer::Unknown),
    ]
}

fn port() -> impl Strategy<Value = ClusterPort> {
    let range = |(protocol, (first, last)): (Protocol, (u16, u16))| {
        ClusterPort::Range(protocol, first, last)
    };
    prop_oneof![
        8 => (protocol(), select(vec![(80, 80), (81, 9000), (0, u16::MAX)])).prop_map(range),
        3 => Just(ClusterPort::Named("web".into())),
        1 => Just(ClusterPort::Unknown),
    ]
}

fn rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    let action = select(vec![
        ClusterAction::Accept,
        ClusterAction::Deny,
        ClusterAction::Pass,
    ]);
    let ports = prop::option::of(prop::collection::vec(port(), 0..3));
    let rule =
        (action, prop::collection::vec(peer(), 0..3), ports).prop_map(|(action, peers, ports)| {
            ClusterRule {
                action,
                peers,
                ports,
            }
        });
    prop::collection::vec(rule, 0..3)
}

/// A policy; priorities are few, so that they are often equal.
pub(crate) fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = select(vec![ClusterTier::Admin, ClusterTier::Baseline]);
    let place = (select(NAMES.to_vec()), tier, 0u16..3);
    (place, set(), rules(), rules(), mode()).prop_map(
        |((name, tier, priority), subject, ingress, egress, mode)| ClusterNetworkPolicy {
            name: name.into(),
            tier,
            priority,
            subject,
            ingress,
            egress,
            mode,
        },
    )
}

/// The key of one that may be there.
pub(crate) fn cluster_policy_key() -> impl Strategy<Value = Key> {
    select(NAMES.to_vec()).prop_map(|name| Key::ClusterNetworkPolicy(name.into()))
}

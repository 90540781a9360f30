//! What the API's text says, evaluated the slow way and sharing no code with the tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podway_intent::*;
use podway_tables::Direction;
use podway_wire::Protocol;

#[allow(clippy::too_many_arguments)]
/// Whether the NetworkPolicies of these modes let a connection through; `None` if the pod is not isolated.
pub(crate) fn allowed(
    cluster: &Cluster,
    subject: &Pod,
    direction: Direction,
    peer: IpAddr,
    protocol: Protocol,
    port: u16,
    modes: &[PolicyMode],
) -> Option<bool> {
    let mut isolated = false;
    for policy in cluster.policies() {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let selects = policy.name.namespace == subject.name.namespace
            && matches(&policy.subject, &subject.labels);
        let selects = selects && modes.contains(&policy.mode);
        let (Some(rules), true) = (rules, selects) else {
            continue;
        };
        isolated = true;
        for rule in rules {
            if rule_matches(
                cluster, policy, rule, subject, direction, peer, protocol, port,
            ) {
                return Some(true);
            }
        }
    }
    isolated.then_some(false)
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn rule_matches(
    cluster: &Cluster,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    subject: &Pod,
    direction: Direction,
    peer: IpAddr,
    protocol: Protocol,
    port: u16,
) -> bool {
    let peer_pod = pod_at(cluster, peer);
    let target = match direction {
        Direction::Ingress => Some(subject),
        Direction::Egress => peer_pod,
    };
    let port_matches = |it: &PolicyPort| {
        it.protocol == protocol
            && match &it.ports {
                Ports::All => true,
                Ports::Range(first, last) => *first <= port && port <= *last,
                Ports::Named(name) => target.is_some_and(|target| {
                    let mut ports = target.ports.iter();
                    ports.any(|it| it.name == *name && it.protocol == protocol && it.port == port)
                }),
            }
    };
    let peer_matches = |it: &PolicyPeer| match it {
        PolicyPeer::Block { range, except } => {
            range.contains(&peer) && !except.iter().any(|range| range.contains(&peer))
        }
        PolicyPeer::Pods { namespaces, pods } => peer_pod.is_some_and(|pod| {
            let inside = match namespaces {
                None => pod.name.namespace == policy.name.namespace,
                Some(selector) => matches(selector, &namespace_labels(cluster, pod)),
            };
            inside && matches(pods, &pod.labels)
        }),
    };
    rule.ports
        .as_ref()
        .is_none_or(|ports| ports.iter().any(port_matches))
        && rule
            .peers
            .as_ref()
            .is_none_or(|peers| peers.iter().any(peer_matches))
}

/// The only living pod with this address on a network of its own.
pub(crate) fn pod_at(cluster: &Cluster, addr: IpAddr) -> Option<&Pod> {
    let own = cluster.pods().into_iter().filter(|pod| {
        pod.network == PodNetwork::Own
            && pod.phase != PodPhase::Ended
            && pod.addresses.contains(&addr)
    });
    let all: Vec<&Pod> = own.collect();
    assert!(all.len() < 2, "{addr} is nobody's in particular");
    all.first().copied()
}

pub(crate) fn namespace_labels(cluster: &Cluster, pod: &Pod) -> Labels {
    let all = cluster.namespaces();
    let known = all.iter().find(|it| it.name == pod.name.namespace);
    let mut labels = known.map_or(Labels::new(), |it| it.labels.clone());
    let name = pod.name.namespace.clone();
    labels.insert("kubernetes.io/metadata.name".into(), name);
    labels
}

pub(crate) fn matches(selector: &Selector, labels: &Labels) -> bool {
    for requirement in &selector.requirements {
        let holds = match requirement {
            Requirement::In(key, values) => values.iter().any(|it| labels.get(key) == Some(it)),
            Requirement::NotIn(key, values) => values.iter().all(|it| labels.get(key) != Some(it)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Absent(key) => labels.get(key).is_none(),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// What a service port does with a new flow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    Any(BTreeSet<(IpAddr, u16)>),
    Reject,
    Drop,
}

/// Who may serve a flow from this node to a service's cluster address of one family.
pub(crate) fn serves(
    cluster: &Cluster,
    node: &str,
    service: &Service,
    port: &ServicePort,
    vip: IpAddr,
) -> Serves {
    let mut all: Vec<(IpAddr, u16, Serving, bool)> = Vec::new();
    for slice in cluster.slices() {
        for slice_port in &slice.ports {
            let joined = slice.service == service.name
                && slice_port.name == port.name
                && slice_port.protocol == port.protocol;
            for endpoint in slice.endpoints.iter().filter(|_| joined) {
                let addr = endpoint.address;
                let local = endpoint.node.as_deref() == Some(node);
                if addr.is_ipv4() == vip.is_ipv4() && !addr.is_loopback() {
                    all.push((addr, slice_port.port, endpoint.serving, local));
                }
            }
        }
    }
    // Of those at one address the best count.
    let rank = |serving| {
        let order = [
            Serving::No,
            Serving::Terminating,
            Serving::Unready,
            Serving::Ready,
        ];
        order.iter().position(|it| *it == serving)
    };
    let others = all.clone();
    all.retain(|it| {
        let mut same = others
            .iter()
            .filter(|other| (other.0, other.1) == (it.0, it.1));
        same.all(|other| rank(other.2) <= rank(it.2))
    });
    let everywhere = usable(&all);
    let local = |it: &&(IpAddr, u16, Serving, bool)| {
        all.iter()
            .any(|other| (other.0, other.1) == (it.0, it.1) && other.3)
    };
    let here: Vec<_> = all.iter().filter(local).copied().collect();
    let chosen = match service.internal {
        TrafficPolicy::Cluster => everywhere.clone(),
        TrafficPolicy::Local => usable(&here),
    };
    match (chosen.is_empty(), everywhere.is_empty()) {
        (false, _) => Serves::Any(chosen),
        (true, true) => Serves::Reject,
        (true, false) => Serves::Drop,
    }
}

/// The ready ones, else those that terminate and have no ready namesake.
fn usable(all: &[(IpAddr, u16, Serving, bool)]) -> BTreeSet<(IpAddr, u16)> {
    let of = |serving| {
        let matching = all.iter().filter(move |it| it.2 == serving);
        matching.map(|it| (it.0, it.1)).collect::<BTreeSet<_>>()
    };
    match of(Serving::Ready) {
        none if none.is_empty() => of(Serving::Terminating),
        ready => ready,
    }
}

/// Where an address is for a node, in the words of the view.
pub(crate) fn hop(cluster: &Cluster, node: &str, addr: IpAddr) -> String {
    let own = cluster.node(node);
    let kernels = own_addresses(cluster);
    let is_there = kernels.is_empty() || kernels.contains(&addr);
    if is_there && own.is_some_and(|own| own.addresses.contains(&addr)) {
        return "host".into();
    }
    let ranges = own.map_or(&[][..], |own| &own.pod_ranges);
    if ranges
        .iter()
        .any(|range| range.hosts().next() == Some(addr))
    {
        return "gateway".into();
    }
    if kernels.contains(&addr) {
        return "host".into();
    }
    let nodes = cluster.nodes();
    let mut others = nodes.iter().filter(|it| it.name.as_ref() != node);
    if let Some(other) = others.find(|it| it.addresses.contains(&addr) && reaches(own, it)) {
        return format!("peer {}", other.name);
    }
    if let Some(pod) = pod_at(cluster, addr) {
        let place = pod.node.as_deref().expect("a node");
        if place == node {
            return format!("pod {}", pod.name);
        }
        return match cluster.node(place).is_some_and(|it| reaches(own, it)) {
            true => format!("peer {place}"),
            false => "unallocated".into(),
        };
    }
    let all = nodes
        .iter()
        .flat_map(|it| it.pod_ranges.iter().map(move |range| (range, it)));
    let covering = all.filter(|(range, _)| range.contains(&addr));
    let longest = covering.min_by_key(|(range, it)| (-i16::from(range.prefix_len()), &it.name));
    match longest {
        None => "world".into(),
        Some((_, it)) if reaches(own, it) && it.name.as_ref() != node => {
            format!("peer {}", it.name)
        }
        Some(_) => "unallocated".into(),
    }
}

/// The addresses that the node's kernel has.
fn own_addresses(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let facts = cluster.host_facts().into_iter();
    let own = facts.filter_map(|fact| {
        let Change::OwnAddress(addr) = fact else {
            return None;
        };
        Some(addr)
    });
    own.collect()
}

/// True if two nodes have addresses of one family.
fn reaches(own: Option<&Node>, other: &Node) -> bool {
    let families = |node: &Node| {
        node.addresses
            .iter()
            .map(IpAddr::is_ipv4)
            .collect::<Vec<_>>()
    };
    own.is_some_and(|own| families(own).iter().any(|it| families(other).contains(it)))
}

//! What the manifests say about a connection, read naively off the API's text: shares nothing with the dataplane.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::{Cluster, Labels, Network, Node, Pod, Protocol};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    Pod(&'a Pod),
    Node(&'a Node),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl End<'_> {
    /// The address of this end in the family of another address.
    pub(crate) fn address(&self, family_of: IpAddr) -> Option<IpAddr> {
        let addresses = match self {
            End::Pod(pod) => &pod.addresses,
            End::Node(node) => &node.addresses,
        };
        addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == family_of.is_ipv4())
    }

    pub(crate) fn node_name(&self) -> &str {
        match self {
            End::Pod(pod) => &pod.node,
            End::Node(node) => &node.name,
        }
    }

    /// The pod, if policies see one here: a pod on its node's network counts as the node (N14).
    fn policed(&self) -> Option<&Pod> {
        match self {
            End::Pod(pod) if pod.network == Network::Own => Some(pod),
            End::Pod(_) | End::Node(_) => None,
        }
    }
}

/// What a client dials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) source: End<'a>,
    pub(crate) target: &'a Pod,
    /// The target's address.
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Cluster {
    /// True if both ends' policies let a connection through.
    pub(crate) fn allows(&self, connection: Connection<'_>) -> bool {
        let Connection {
            source,
            target,
            address,
            ..
        } = connection;
        // A pod reaches itself (N13).
        if source
            .policed()
            .is_some_and(|pod| pod.title() == target.title())
        {
            return true;
        }
        let Some(source_address) = source.address(address) else {
            return false;
        };
        let target_end = End::Pod(target);
        let leaves = source.policed().is_none_or(|subject| {
            self.passes(
                connection,
                Direction::Egress,
                subject,
                (target_end, address),
            )
        });
        // The pod's own node is always let in (N13).
        let own_node = source.policed().is_none() && source.node_name() == target.node;
        let enters = target_end.policed().is_none_or(|subject| {
            own_node
                || self.passes(
                    connection,
                    Direction::Ingress,
                    subject,
                    (source, source_address),
                )
        });
        leaves && enters
    }

    /// True if a pod is not isolated in this direction, or a rule allows its peer (N1).
    fn passes(
        &self,
        connection: Connection<'_>,
        direction: Direction,
        subject: &Pod,
        (peer, peer_address): (End<'_>, IpAddr),
    ) -> bool {
        let Connection {
            target,
            protocol,
            port,
            ..
        } = connection;
        let mut isolated = false;
        for policy in &self.policies {
            let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
            let spec = policy.spec.clone().unwrap_or_default();
            let chosen = spec.pod_selector.unwrap_or_default();
            if namespace != subject.namespace
                || !selects(&chosen, &subject.labels)
                || !affects(policy, direction)
            {
                continue;
            }
            isolated = true;
            let rules: Vec<_> = match direction {
                Direction::Ingress => {
                    let rules = spec.ingress.unwrap_or_default();
                    rules
                        .into_iter()
                        .map(|rule| (rule.from, rule.ports))
                        .collect()
                }
                Direction::Egress => {
                    let rules = spec.egress.unwrap_or_default();
                    rules
                        .into_iter()
                        .map(|rule| (rule.to, rule.ports))
                        .collect()
                }
            };
            let allowed = rules.into_iter().any(|(peers, ports)| {
                let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
                let is_peer = |one| self.is_peer(one, namespace, peer, peer_address);
                let is_port = |one| is_port(one, target, protocol, port);
                (peers.is_empty() || peers.iter().any(is_peer))
                    && (ports.is_empty() || ports.iter().any(is_port))
            });
            if allowed {
                return true;
            }
        }
        !isolated
    }

    fn is_peer(
        &self,
        peer: &NetworkPolicyPeer,
        namespace: &str,
        end: End<'_>,
        address: IpAddr,
    ) -> bool {
        if let Some(block) = &peer.ip_block {
            let within =
                |range: &String| range.parse::<IpNet>().is_ok_and(|r| r.contains(&address));
            let excepted = block
                .except
                .as_deref()
                .unwrap_or_default()
                .iter()
                .any(within);
            return within(&block.cidr) && !excepted;
        }
        let Some(pod) = end.policed() else {
            return false;
        };
        let of_namespace = match &peer.namespace_selector {
            None => pod.namespace == namespace,
            Some(selector) => selects(
                selector,
                self.namespaces
                    .get(&pod.namespace)
                    .unwrap_or(&Labels::new()),
            ),
        };
        of_namespace
            && peer
                .pod_selector
                .as_ref()
                .is_none_or(|s| selects(s, &pod.labels))
    }

    /// The endpoints that a service port gives to a client on a node, or why none.
    pub(crate) fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        family_of: IpAddr,
        client_node: &str,
    ) -> Endpoints {
        let family = if family_of.is_ipv4() { "IPv4" } else { "IPv6" };
        let of_service = |slice: &&EndpointSlice| {
            let labels = slice.metadata.labels.as_ref();
            let owner = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            slice.metadata.namespace == service.metadata.namespace
                && owner == service.metadata.name.as_ref()
                && slice.address_type == family
        };
        let mut all = Vec::new();
        for slice in self.slices.iter().filter(of_service) {
            for slice_port in slice.ports.iter().flatten() {
                let same_name = slice_port.name.as_deref().unwrap_or_default()
                    == port.name.as_deref().unwrap_or_default();
                let same_protocol = Protocol::of(slice_port.protocol.as_deref())
                    == Protocol::of(port.protocol.as_deref());
                let Some(number) = slice_port.port.and_then(|n| u16::try_from(n).ok()) else {
                    continue;
                };
                if !same_name || !same_protocol {
                    continue;
                }
                let endpoints = slice.endpoints.iter().flatten();
                all.extend(endpoints.map(|endpoint| (endpoint.clone(), number)));
            }
        }
        let local = service
            .spec
            .as_ref()
            .and_then(|spec| spec.internal_traffic_policy.as_deref());
        if local != Some("Local") {
            return match usable(&all) {
                endpoints if endpoints.is_empty() => Endpoints::Nowhere,
                endpoints => Endpoints::At(endpoints),
            };
        }
        let here: Vec<_> = all
            .iter()
            .filter(|(endpoint, _)| endpoint.node_name.as_deref() == Some(client_node))
            .cloned()
            .collect();
        match (usable(&here), usable(&all)) {
            (here, _) if !here.is_empty() => Endpoints::At(here),
            (_, all) if all.is_empty() => Endpoints::Nowhere,
            _ => Endpoints::Elsewhere,
        }
    }
}

/// Where a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    /// To one of these.
    At(Vec<(IpAddr, u16)>),
    /// There are some, but internalTrafficPolicy Local wants local ones: dropped (S3).
    Elsewhere,
    /// There are none at all: rejected (S1).
    Nowhere,
}

/// Ready endpoints, else those that serve while they terminate (S5); an unknown state is ready (S16).
fn usable(endpoints: &[(Endpoint, u16)]) -> Vec<(IpAddr, u16)> {
    let chosen = |wanted: fn(&Endpoint) -> bool| -> Vec<_> {
        let chosen = endpoints.iter().filter(|(endpoint, _)| wanted(endpoint));
        let address = |endpoint: &Endpoint| endpoint.addresses.first()?.parse().ok();
        chosen
            .filter_map(|(endpoint, port)| Some((address(endpoint)?, *port)))
            .collect()
    };
    let ready = chosen(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    if !ready.is_empty() {
        return ready;
    }
    chosen(|endpoint| {
        endpoint.conditions.as_ref().is_some_and(|conditions| {
            conditions.serving == Some(true) && conditions.terminating == Some(true)
        })
    })
}

/// True if a policy isolates in that direction (N2).
fn affects(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else {
        return direction == Direction::Ingress;
    };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match (direction, types.is_empty()) {
        (Direction::Ingress, true) => true,
        (Direction::Egress, true) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (Direction::Ingress, false) => types.iter().any(|kind| kind == "Ingress"),
        (Direction::Egress, false) => types.iter().any(|kind| kind == "Egress"),
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let holds = |requirement: &LabelSelectorRequirement| {
        let value = labels.get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(has)
        && selector.match_expressions.iter().flatten().all(holds)
}

fn is_port(port: &NetworkPolicyPort, target: &Pod, protocol: Protocol, number: u16) -> bool {
    if Protocol::of(port.protocol.as_deref()) != Some(protocol) {
        return false;
    }
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(number))
        }
        Some(IntOrString::String(name)) => target.ports().any(|port| {
            port.name.as_ref() == Some(name) && port.protocol == protocol && port.number == number
        }),
    }
}

#[cfg(test)]
#[path = "expect_tests.rs"]
mod tests;

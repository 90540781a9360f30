//! What the manifests say about a connection, read naively off the API's text: shares nothing with the dataplane.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::cluster::{Cluster, Network, Node, Pod, Protocol};
use crate::policies::{Direction, Question};

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    Pod(&'a Pod),
    Node(&'a Node),
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
    pub(crate) fn policed(&self) -> Option<&Pod> {
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
        let asks = |direction, subject, peer, peer_address| Question {
            direction,
            subject,
            peer,
            peer_address,
            target,
            protocol: connection.protocol,
            port: connection.port,
        };
        let target_end = End::Pod(target);
        let leaves = source.policed().is_none_or(|subject| {
            self.passes(&asks(Direction::Egress, subject, target_end, address))
        });
        // The pod's own node is always let in (N13).
        let own_node = source.policed().is_none() && source.node_name() == target.node;
        let enters = target_end.policed().is_none_or(|subject| {
            own_node || self.passes(&asks(Direction::Ingress, subject, source, source_address))
        });
        leaves && enters
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

#[cfg(test)]
#[path = "expect_tests.rs"]
mod tests;

//! What one compilation starts from: the facts before and now, and what differs.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{Cluster, LinkAddress, Name, RouteKey};

/// One compilation.
pub(crate) struct Round<'a> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) sequence: u32,
    pub(crate) before: &'a Cluster,
    pub(crate) now: &'a Cluster,
    pub(crate) touched: Touched,
}

/// The objects that differ, in order.
pub(crate) struct Touched {
    pub(crate) nodes: Vec<Arc<str>>,
    pub(crate) namespaces: Vec<Arc<str>>,
    pub(crate) pods: Vec<Name>,
    pub(crate) services: Vec<Name>,
    pub(crate) slices: Vec<Name>,
    pub(crate) policies: Vec<Name>,
    pub(crate) cluster_policies: Vec<Arc<str>>,
    pub(crate) attachments: Vec<Name>,
    pub(crate) own_addresses: Vec<IpAddr>,
    pub(crate) routes: Vec<RouteKey>,
    pub(crate) link_neighbours: Vec<LinkAddress>,
    pub(crate) underlay: Underlay,
}

/// Whether the set-up or a next hop differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    Same,
    Different,
}

impl Touched {
    /// What differs between two states; what they share is not looked at.
    pub(crate) fn between(before: &Cluster, now: &Cluster) -> Touched {
        let neighbours = now.neighbours.changed(&before.neighbours);
        let same = neighbours.is_empty() && now.setup == before.setup;
        Touched {
            nodes: sorted(now.nodes.changed(&before.nodes)),
            namespaces: sorted(now.namespaces.changed(&before.namespaces)),
            pods: sorted(now.pods.changed(&before.pods)),
            services: sorted(now.services.changed(&before.services)),
            slices: sorted(now.slices.changed(&before.slices)),
            policies: sorted(now.policies.changed(&before.policies)),
            cluster_policies: sorted(now.cluster_policies.changed(&before.cluster_policies)),
            attachments: sorted(now.attachments.changed(&before.attachments)),
            own_addresses: sorted(now.own_addresses.changed(&before.own_addresses)),
            routes: sorted(now.routes.changed(&before.routes)),
            link_neighbours: sorted(now.link_neighbours.changed(&before.link_neighbours)),
            underlay: match same {
                true => Underlay::Same,
                false => Underlay::Different,
            },
        }
    }
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all
}

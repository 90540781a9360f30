//! A service port: who may dial it, and who serves whom.

use std::sync::Arc;

use podway_wire::{Addr, Protocol};

use crate::{Backend, Backends, PrefixMap, ServiceId};

/// What a packet to a service carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The virtual address.
    pub addr: Addr,
    /// The service port, in host order.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl ServiceKey {
    /// The first in order.
    pub const FIRST: ServiceKey = ServiceKey {
        addr: Addr::UNSPECIFIED,
        port: 0,
        protocol: Protocol(0),
    };
}

/// What an address is to the service behind it; if it is several things to one service, the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// Its address in the cluster: internal traffic.
    ClusterIp,
    /// An address that a load balancer sends here: external traffic, from the service's source ranges only.
    LoadBalancer,
    /// An address of `externalIPs`: external traffic.
    ExternalIp,
    /// An address of this node: external traffic.
    NodePort,
}

/// An address and port at which a service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The service port.
    pub service: ServiceId,
    /// What the address is to it.
    pub kind: FrontendKind,
}

/// Who dials a service, as its traffic policies tell clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod on this node or the node itself: what it sends to external addresses is cluster traffic (S9).
    Inside,
    /// Anybody else.
    Outside,
}

/// Which endpoints a traffic policy lets a packet go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Any of the cluster.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

/// What a service does with a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Send it there.
    Backend(Backend),
    /// Nobody serves anywhere: refuse.
    Reject,
    /// Nobody may serve this packet: drop in silence.
    Drop,
}

/// What a service without a usable backend does with a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody serves anywhere: tell the client.
    #[default]
    Reject,
    /// Somebody serves, but not for this node (traffic policy Local): say nothing.
    Drop,
}

/// A service port, as one packet's choice needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it answers in the cluster.
    pub key: ServiceKey,
    /// The endpoints for packets that may go anywhere.
    pub cluster: Arc<Backends>,
    /// The endpoints for packets that stay on this node; empty unless a policy is Local.
    pub local: Arc<Backends>,
    /// Those that serve, but are in neither set: they keep the flows that they have (F1); in order.
    pub spared: Arc<[Backend]>,
    /// What becomes of a flow whose set is empty.
    pub refusal: Refusal,
    /// Where packets to the cluster address may go.
    pub internal: Reach,
    /// Where packets to all other addresses may go.
    pub external: Reach,
    /// Who may dial its load-balancer addresses; `None`: everybody.
    pub sources: Option<Arc<PrefixMap<()>>>,
    /// How long a client stays with its backend after its last use, in seconds; `None`: not at all.
    pub affinity_timeout_s: Option<u32>,
    /// When anything about it, or one of its addresses, last changed.
    pub generation: u32,
}

impl Service {
    /// Every backend that this client's packets to such an address may be given, and no other.
    #[inline]
    pub fn candidates(&self, kind: FrontendKind, client: Client) -> &Backends {
        match self.reach(kind, client) {
            Reach::Cluster => &self.cluster,
            Reach::Local => &self.local,
        }
    }

    /// What becomes of a new flow with this hash; each candidate is as likely as any other.
    #[inline]
    pub fn choose(&self, kind: FrontendKind, client: Client, hash: u64) -> Choice {
        match (self.candidates(kind, client).pick(hash), self.refusal) {
            (Some(backend), _) => Choice::Backend(backend),
            (None, Refusal::Reject) => Choice::Reject,
            (None, Refusal::Drop) => Choice::Drop,
        }
    }

    /// True if the packet's original source may dial such an address (S13).
    #[inline]
    pub fn admits(&self, kind: FrontendKind, source: &Addr) -> bool {
        match (kind, &self.sources) {
            (FrontendKind::LoadBalancer, Some(ranges)) => ranges.longest(source).is_some(),
            (FrontendKind::LoadBalancer, None)
            | (FrontendKind::ClusterIp | FrontendKind::ExternalIp | FrontendKind::NodePort, _) => {
                true
            }
        }
    }

    /// True if the backend serves, whether or not it is given new flows (F1).
    pub fn serves(&self, backend: &Backend) -> bool {
        self.cluster.contains(backend)
            || self.local.contains(backend)
            || self.spared.binary_search(backend).is_ok()
    }

    /// S4: the internal policy is the cluster address's, the external one all others'; S9: but not for those inside.
    fn reach(&self, kind: FrontendKind, client: Client) -> Reach {
        match (kind, client) {
            (FrontendKind::ClusterIp, _) => self.internal,
            (_, Client::Inside) => Reach::Cluster,
            (_, Client::Outside) => self.external,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELSEWHERE: Backend = backend(2);
    const HERE: Backend = backend(1);

    const fn backend(last: u8) -> Backend {
        let mut bytes = [0; 16];
        bytes[15] = last;
        Backend {
            addr: Addr::v6(bytes),
            port: 8080,
        }
    }

    fn service(internal: Reach, external: Reach) -> Service {
        Service {
            key: ServiceKey {
                addr: Addr::v6([0xfd; 16]),
                port: 80,
                protocol: Protocol::TCP,
            },
            cluster: Arc::new(Backends::new(vec![ELSEWHERE])),
            local: Arc::new(Backends::new(vec![HERE])),
            spared: Arc::from([backend(3)]),
            refusal: Refusal::Reject,
            internal,
            external,
            sources: None,
            affinity_timeout_s: None,
            generation: 1,
        }
    }

    const KINDS: [FrontendKind; 4] = [
        FrontendKind::ClusterIp,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
        FrontendKind::NodePort,
    ];

    #[test]
    fn s4_s9_each_policy_governs_its_addresses_and_external_ones_not_for_insiders() {
        for (internal, external) in [
            (Reach::Cluster, Reach::Local),
            (Reach::Local, Reach::Cluster),
        ] {
            let service = service(internal, external);
            for kind in KINDS {
                for client in [Client::Inside, Client::Outside] {
                    let reach = match (kind == FrontendKind::ClusterIp, client) {
                        (true, _) => internal,
                        (false, Client::Inside) => Reach::Cluster,
                        (false, Client::Outside) => external,
                    };
                    let expected = match reach {
                        Reach::Cluster => ELSEWHERE,
                        Reach::Local => HERE,
                    };
                    let seen = service.choose(kind, client, 7);
                    assert_eq!(seen, Choice::Backend(expected), "{kind:?} {client:?}");
                    assert_eq!(service.candidates(kind, client).all(), [expected]);
                }
            }
        }
    }

    #[test]
    fn s1_s2_s3_without_backends_a_service_refuses_or_is_silent() {
        let mut service = service(Reach::Local, Reach::Local);
        service.local = Arc::default();
        for (refusal, expected) in [
            (Refusal::Reject, Choice::Reject),
            (Refusal::Drop, Choice::Drop),
        ] {
            service.refusal = refusal;
            for kind in KINDS {
                assert_eq!(service.choose(kind, Client::Outside, 9), expected);
            }
        }
    }

    #[test]
    fn s13_source_ranges_are_for_load_balancer_addresses() {
        let mut service = service(Reach::Cluster, Reach::Cluster);
        let (inside, outside) = (Addr::v4([203, 0, 113, 7]), Addr::v4([203, 0, 113, 200]));
        assert!(service.admits(FrontendKind::LoadBalancer, &outside));
        let mut ranges = PrefixMap::default();
        ranges.insert("203.0.113.0/25".parse().expect("range"), ());
        service.sources = Some(Arc::new(ranges));
        for kind in KINDS {
            assert!(service.admits(kind, &inside));
            let open = kind != FrontendKind::LoadBalancer;
            assert_eq!(service.admits(kind, &outside), open);
        }
    }

    #[test]
    fn f1_a_backend_serves_until_it_is_in_no_set() {
        let service = service(Reach::Cluster, Reach::Local);
        assert!(
            [HERE, ELSEWHERE, backend(3)]
                .iter()
                .all(|it| service.serves(it))
        );
        assert!(!service.serves(&backend(4)));
    }
}

//! What can be seen of compiled tables, by names instead of ids and without generations.

use std::collections::BTreeMap;

use podway_intent::{Compiled, Name};
use podway_tables::{
    Client, Direction, EndpointId, Found, FrontendKind, Hop, Judgement, PortKind, Service,
    ServiceKey,
};
use podway_wire::{Addr, Protocol};

use crate::world::probes;

pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];
pub(crate) const PORTS: [u16; 3] = [80, 81, 9999];

/// Lines of text, so that a difference is read at once.
pub(crate) type View = BTreeMap<String, String>;

pub(crate) fn view(compiled: &Compiled) -> View {
    let snapshot = &compiled.snapshot;
    let mut view = View::new();
    for probe in probes() {
        let hop = snapshot.routes.hop(&probe.into());
        view.insert(format!("hop {probe}"), hop_name(compiled, hop));
        let world = &snapshot.world;
        let exit = world.exit(world.next_hop(&probe.into()));
        view.insert(format!("out to {probe}"), format!("{exit:?}"));
    }
    for vip in [
        "10.96.0.1",
        "10.96.0.2",
        "10.96.0.9",
        "fd96::1",
        "fd96::2",
        "10.97.0.1",
    ] {
        let addr = crate::build::addr(vip);
        for (protocol, port) in PROTOCOLS
            .iter()
            .flat_map(|it| [(*it, 53), (*it, 80), (*it, 1)])
        {
            let key = ServiceKey {
                addr,
                port,
                protocol,
            };
            let found = service_at(compiled, &key);
            view.insert(format!("service {vip} {port}/{protocol}"), found);
        }
    }
    for (key, _) in snapshot.services.frontends() {
        view.insert(format!("frontend {key:?}"), service_at(compiled, key));
    }
    for (id, endpoint) in ids().zip(&snapshot.endpoints) {
        let Some(endpoint) = endpoint else {
            continue;
        };
        let name = compiled.names.endpoint(id).expect("a name");
        assert_eq!(compiled.names.endpoint_of(name), Some(id));
        let text = format!(
            "{:?} {} {:?} {}",
            endpoint.port, endpoint.mac, endpoint.addresses, endpoint.mtu
        );
        view.insert(format!("endpoint {name}"), text);
        view.extend(judgements(compiled, id, name));
    }
    for (place, peer) in snapshot.peers.iter().enumerate() {
        let name = compiled.names.peer(podway_tables::PeerId(place as u16));
        assert_eq!(name.is_some(), peer.is_some());
        if let Some(peer) = peer {
            let text = format!(
                "{} {} {:?} {:?} {} {:?} {}",
                peer.vtep,
                peer.source,
                peer.next_hop,
                peer.via,
                peer.mtu,
                peer.port,
                peer.source_mac
            );
            view.insert(format!("peer {}", name.unwrap_or("?")), text);
        }
    }
    for (place, port) in snapshot.ports.iter().enumerate() {
        let Some(port) = port else {
            continue;
        };
        let kind = match port.kind {
            PortKind::Uplink => "uplink".into(),
            PortKind::Host => "host".into(),
            PortKind::Pod(id) => format!("{:?}", id.map(|id| compiled.names.endpoint(id))),
        };
        let name = compiled.names.port(podway_tables::PortId(place as u16));
        view.insert(format!("port {place}"), format!("{kind} {name:?}"));
    }
    view.insert("node".into(), format!("{:?}", snapshot.node));
    view.insert("plan".into(), format!("{:?}", compiled.plan));
    view.insert("problems".into(), format!("{:?}", compiled.problems));
    view
}

fn ids() -> impl Iterator<Item = EndpointId> {
    (0..).map(EndpointId)
}

/// Every judgement of a pod that the probes can ask for; of several rules that allow, any may be named.
pub(crate) fn judgements(compiled: &Compiled, id: EndpointId, name: &Name) -> View {
    let mut view = View::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for probe in probes() {
            let peer = Addr::from(probe);
            for (protocol, port) in PROTOCOLS
                .iter()
                .flat_map(|it| PORTS.map(|port| (*it, port)))
            {
                let policies = &compiled.snapshot.policies;
                let observed = policies.observe(id, direction, &peer, protocol, port);
                let would = observed.map(|rule| compiled.names.rule(rule).expect("a rule's name"));
                let text = match policies.judge(id, direction, &peer, protocol, port) {
                    Judgement::None => "none",
                    Judgement::Allow(rule) => {
                        compiled.names.rule(rule).expect("a rule's name");
                        "allow"
                    }
                    Judgement::Deny(_) => "deny",
                };
                let key = format!("judge {name} {direction:?} {probe} {port}/{protocol}");
                view.insert(key, format!("{text}, would be denied by {would:?}"));
            }
        }
    }
    view
}

pub(crate) fn hop_name(compiled: &Compiled, hop: Hop) -> String {
    match hop {
        Hop::Endpoint(id) => format!("pod {}", compiled.names.endpoint(id).expect("a name")),
        Hop::Peer(id) => format!("peer {}", compiled.names.peer(id).expect("a name")),
        Hop::Host => "host".into(),
        Hop::Gateway => "gateway".into(),
        Hop::Unallocated => "unallocated".into(),
        Hop::World(_) => "world".into(),
    }
}

fn service_at(compiled: &Compiled, key: &ServiceKey) -> String {
    match compiled.snapshot.services.find(key) {
        Found::Frontend(frontend) => {
            let id = frontend.service;
            let service = compiled.snapshot.services.service(id).expect("a service");
            let name = compiled.names.service(id).expect("a name");
            format!("{name} {:?} {}", frontend.kind, says(service))
        }
        found @ (Found::WrongPort | Found::Unallocated | Found::Nothing) => format!("{found:?}"),
    }
}

/// All that a service says, without its generation.
pub(crate) fn says(service: &Service) -> String {
    let client = Client::Outside;
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        service.key,
        service.candidates(FrontendKind::ClusterIp, client).all(),
        service.cluster.all(),
        service.local.all(),
        (service.internal, service.external, service.refusal),
        service.spared,
        service.sources,
        service.affinity_timeout_s,
    )
}

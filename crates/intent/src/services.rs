//! Services and EndpointSlices become service ports with their usable backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podway_tables::{Backend, Backends, Refusal, ServiceId, ServiceKey, Services};
use podway_tables::{Service as Compiled, Slots};
use podway_wire::{Addr, Family};

use crate::address::{Fitness, fitness};
use crate::ids::Ids;
use crate::round::Round;
use crate::{EndpointSlice, Key, Name, Problem, Service, ServicePort, Serving, TrafficPolicy};

/// What is remembered of services from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct ServiceTable {
    slices_of: HashMap<Name, BTreeSet<Name>>,
    claims: HashMap<ServiceKey, BTreeSet<Claim>>,
    /// Whose a key is at present.
    owners: HashMap<ServiceKey, Name>,
    ids: Ids<(Name, ServiceKey)>,
    contested: BTreeSet<ServiceKey>,
    refused: BTreeMap<Name, Vec<IpAddr>>,
}

/// That a service wants a key; the first in order gets it (S24).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created_s: i64,
    service: Name,
    /// Its place among the service's ports.
    port: usize,
}

impl ServiceTable {
    /// Brings the tables and names of services up to date with what was touched.
    pub(crate) fn update(
        &mut self,
        round: &Round<'_>,
        services: &mut Services,
        names: &mut Slots<Arc<str>>,
    ) {
        let mut keys = BTreeSet::new();
        for slice in &round.touched.slices {
            let before = round.before.slices.get(slice);
            let now = round.now.slices.get(slice);
            self.join(slice, before.map(Arc::as_ref), now.map(Arc::as_ref));
            for service in before.iter().chain(&now).map(|slice| &slice.service) {
                let service = round.now.services.get(service);
                keys.extend(service.iter().flat_map(|it| claims(it)).map(|(key, _)| key));
            }
        }
        for name in &round.touched.services {
            for (key, claim) in round
                .before
                .services
                .get(name)
                .iter()
                .flat_map(|it| claims(it))
            {
                self.withdraw(&key, &claim);
                keys.insert(key);
            }
            for (key, claim) in round
                .now
                .services
                .get(name)
                .iter()
                .flat_map(|it| claims(it))
            {
                self.claims.entry(key).or_default().insert(claim);
                keys.insert(key);
            }
        }
        for key in keys {
            self.settle(round, key, services, names);
        }
    }

    /// What is wrong with services and slices.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let clashes = self.contested.iter().flat_map(|key| {
            let mut claims = self.claims.get(key).into_iter().flatten();
            let winner = claims.next().map(|claim| &claim.service);
            claims.zip(winner.into_iter().cycle()).map(|(claim, winner)| Problem {
                object: Key::Service(claim.service.clone()),
                text: format!(
                    "{} port {}/{} is already service {winner}'s, which is older; give this one another address or port",
                    key.addr, key.port, key.protocol
                ),
            })
        });
        let refused = self.refused.iter().flat_map(|(slice, addresses)| {
            addresses.iter().map(|addr| Problem {
                object: Key::EndpointSlice(slice.clone()),
                text: format!(
                    "endpoint {addr} is loopback, link-local, multicast or unspecified and gets no traffic (CVE-2021-25737); remove it"
                ),
            })
        });
        clashes.chain(refused)
    }

    /// Keeps which slices are whose, and which of their endpoints are refused (S25).
    fn join(&mut self, name: &Name, before: Option<&EndpointSlice>, now: Option<&EndpointSlice>) {
        if let Some(slice) = before
            && let Some(slices) = self.slices_of.get_mut(&slice.service)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        self.refused.remove(name);
        let Some(slice) = now else {
            return;
        };
        let slices = self.slices_of.entry(slice.service.clone()).or_default();
        slices.insert(name.clone());
        let first = slice.endpoints.iter().filter_map(|it| it.addresses.first());
        let unfit = first.filter(|addr| fitness(addr) == Fitness::Never);
        let refused: Vec<IpAddr> = unfit.copied().collect();
        if !refused.is_empty() {
            self.refused.insert(name.clone(), refused);
        }
    }

    fn withdraw(&mut self, key: &ServiceKey, claim: &Claim) {
        if let Some(claims) = self.claims.get_mut(key) {
            claims.remove(claim);
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    /// Gives a key to the first of its claims, and compiles what stands there.
    fn settle(
        &mut self,
        round: &Round<'_>,
        key: ServiceKey,
        services: &mut Services,
        names: &mut Slots<Arc<str>>,
    ) {
        let claims = self.claims.get(&key);
        match claims.map_or(0, BTreeSet::len) {
            0 | 1 => self.contested.remove(&key),
            _ => self.contested.insert(key),
        };
        let winner = claims.and_then(BTreeSet::first);
        let owner = self.owners.get(&key);
        if let Some(owner) = owner.filter(|owner| winner.map(|claim| &claim.service) != Some(owner))
        {
            if let Some(id) = self.ids.release(&(owner.clone(), key)) {
                services.remove(ServiceId(id));
                names.set(id, None);
            }
            self.owners.remove(&key);
        }
        let Some(Claim { service, port, .. }) = winner else {
            return;
        };
        let Some(service) = round.now.services.get(service) else {
            return;
        };
        let (id, _) = self.ids.assign(&(service.name.clone(), key));
        self.owners.insert(key, service.name.clone());
        let port = &service.ports[*port];
        let before = services.service(ServiceId(id));
        let compiled = self.compile(round, service, port, key, before);
        if before != Some(&compiled) {
            let generation = round.sequence;
            services.insert(
                ServiceId(id),
                Compiled {
                    generation,
                    ..compiled
                },
            );
        }
        let name = port_name(service, port);
        if names.get(id).map(Arc::as_ref) != Some(name.as_str()) {
            names.set(id, Some(name.into()));
        }
    }

    /// A service port as it is now, with the generation and whatever else is the same of what it was before.
    fn compile(
        &self,
        round: &Round<'_>,
        service: &Service,
        port: &ServicePort,
        key: ServiceKey,
        before: Option<&Compiled>,
    ) -> Compiled {
        let slices = self.slices_of.get(&service.name).into_iter().flatten();
        let slices = slices.filter_map(|name| round.now.slices.get(name));
        let members = members(slices, port, key.addr.family(), round.node);
        let everywhere = usable(members.iter());
        let (backends, refusal) = match service.internal {
            TrafficPolicy::Cluster => (everywhere, Refusal::Reject),
            TrafficPolicy::Local => {
                let local = members
                    .iter()
                    .filter(|(_, state)| state.place == Place::Local);
                // Nobody anywhere is refused (S1), somebody elsewhere is silence (S3).
                let refusal = match everywhere.is_empty() {
                    true => Refusal::Reject,
                    false => Refusal::Drop,
                };
                (usable(local), refusal)
            }
        };
        let same = before.filter(|before| before.backends.all() == backends);
        Compiled {
            key,
            backends: match same {
                Some(before) => before.backends.clone(),
                None => Arc::new(Backends::new(backends)),
            },
            refusal,
            generation: before.map_or(0, |before| before.generation),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Elsewhere,
    Local,
}

/// What the slices say of one backend.
#[derive(Clone, Copy, Debug)]
struct State {
    serving: Serving,
    place: Place,
}

/// The members of a service port of one family; what several slices say of one merges to the best (S15).
fn members<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    port: &ServicePort,
    family: Family,
    node: &Arc<str>,
) -> BTreeMap<Backend, State> {
    let mut members: BTreeMap<Backend, State> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter();
        for slice_port in ports.filter(|it| it.name == port.name && it.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.addresses.first() else {
                    continue;
                };
                let addr = Addr::from(*ip);
                if addr.family() != family || fitness(ip) == Fitness::Never {
                    continue;
                }
                let place = match endpoint.node.as_ref() == Some(node) {
                    true => Place::Local,
                    false => Place::Elsewhere,
                };
                let backend = Backend {
                    addr,
                    port: slice_port.port,
                };
                let state = State {
                    serving: endpoint.serving,
                    place,
                };
                let merged = members.entry(backend).or_insert(state);
                merged.place = merged.place.max(place);
                if readiness(endpoint.serving) > readiness(merged.serving) {
                    merged.serving = endpoint.serving;
                }
            }
        }
    }
    members
}

/// The ready ones; if there are none, those that terminate but still serve (S5).
fn usable<'a>(members: impl Iterator<Item = (&'a Backend, &'a State)> + Clone) -> Vec<Backend> {
    let of = |serving: Serving| {
        let matching = members
            .clone()
            .filter(move |(_, state)| state.serving == serving);
        matching.map(|(backend, _)| *backend).collect::<Vec<_>>()
    };
    let ready = of(Serving::Ready);
    match ready.is_empty() {
        true => of(Serving::Terminating),
        false => ready,
    }
}

fn readiness(serving: Serving) -> u8 {
    match serving {
        Serving::No => 0,
        Serving::Terminating => 1,
        Serving::Ready => 2,
    }
}

/// The keys that a service wants.
fn claims(service: &Arc<Service>) -> impl Iterator<Item = (ServiceKey, Claim)> {
    let ports = service.ports.iter().enumerate();
    ports.flat_map(move |(place, port)| {
        service.cluster_ips.iter().map(move |ip| {
            let key = ServiceKey {
                addr: Addr::from(*ip),
                port: port.port,
                protocol: port.protocol,
            };
            let claim = Claim {
                created_s: service.created_s,
                service: service.name.clone(),
                port: place,
            };
            (key, claim)
        })
    })
}

/// `namespace/name:port`, the port by its name if it has one.
fn port_name(service: &Service, port: &ServicePort) -> String {
    match port.name.is_empty() {
        true => format!("{}:{}", service.name, port.port),
        false => format!("{}:{}", service.name, port.name),
    }
}

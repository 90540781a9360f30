//! Services and EndpointSlices become service ports with their usable backends, and the addresses that lead to them.

mod claims;
mod host_ports;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podway_tables::{
    Backend, Backends, Found, Frontend, FrontendKind, PrefixMap, Reach, Refusal,
    Service as Compiled, ServiceId, ServiceKey, Services, Slots,
};
use podway_wire::{Addr, Family};

use self::claims::{Claim, Site, claims};
use self::members::Members;
use crate::address::{Fitness, fitness};
use crate::ids::Ids;
use crate::round::Round;
use crate::sets::Sets;
use crate::{
    Affinity, Cluster, EndpointSlice, Key, Name, Problem, Service, ServicePort, TrafficPolicy,
};

/// A service port in one family: its service, and its cluster address and port.
type Home = (Name, ServiceKey);

/// What is remembered of services from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct ServiceTable {
    site: Site,
    slices_of: Sets<Name, Name>,
    claims: Sets<ServiceKey, Claim>,
    ids: Ids<Home>,
    contested: BTreeSet<ServiceKey>,
    /// The keys in use that are no cluster addresses.
    outward: BTreeMap<ServiceKey, FrontendKind>,
    /// What pods of this node want, by what they want it for.
    host_ports: BTreeMap<Home, Backend>,
    refused_endpoints: BTreeMap<Name, Vec<IpAddr>>,
    refused_addresses: BTreeMap<Name, Vec<IpAddr>>,
    strange_host_ports: BTreeMap<Name, Vec<(IpAddr, u16)>>,
}

/// What one compilation has to look at.
#[derive(Default)]
struct Touched {
    keys: BTreeSet<ServiceKey>,
    homes: BTreeSet<Home>,
    /// Pods whose host ports may differ, beside those that differ themselves.
    pods: BTreeSet<Name>,
    /// Service ports that an address came to or left.
    renewed: BTreeSet<ServiceId>,
}

impl ServiceTable {
    /// Brings the tables and names of services up to date with what was touched.
    pub(crate) fn update(
        &mut self,
        round: &Round<'_>,
        services: &mut Services,
        names: &mut Slots<Arc<str>>,
    ) {
        let mut touched = Touched::default();
        self.claim(round, &mut touched);
        self.claim_host_ports(round, &mut touched);
        for slice in &round.touched.slices {
            let before = round.before.slices.get(slice);
            let now = round.now.slices.get(slice);
            self.join(slice, before.map(Arc::as_ref), now.map(Arc::as_ref));
            for name in before.iter().chain(&now).map(|slice| &slice.service) {
                if let Some(service) = round.now.services.get(name) {
                    touched.homes.extend(homes(service, &self.site));
                }
            }
        }
        for key in std::mem::take(&mut touched.keys) {
            self.settle(key, services, &mut touched.renewed);
        }
        for home in touched.homes {
            self.settle_home(round, home, services, names);
        }
        for id in touched.renewed {
            if let Some(service) = services.service(id).cloned() {
                let generation = round.sequence;
                services.set(
                    id,
                    Some(Compiled {
                        generation,
                        ..service
                    }),
                );
            }
        }
    }

    /// The addresses and ports in use that are no cluster addresses, in order.
    pub(crate) fn outward(&self) -> impl Iterator<Item = (&ServiceKey, FrontendKind)> {
        self.outward.iter().map(|(key, kind)| (key, *kind))
    }

    /// What is wrong with services and slices.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let clashes = self.contested.iter().flat_map(|key| {
            let mut claims = self.claims.of(key);
            let winner = claims.next();
            let losers = claims.zip(winner.into_iter().cycle());
            // What is two things to one service is no clash.
            losers.filter(|(claim, winner)| claim.service != winner.service || claim.kind == winner.kind)
                .map(|(claim, winner)| Problem {
                    object: self.claimant(claim),
                    text: format!(
                        "{} port {}/{} is already {}'s, which comes first; give this one another address or port",
                        key.addr, key.port, key.protocol, self.claimant(winner)
                    ),
                })
        });
        let endpoints = self.refused_endpoints.iter().flat_map(|(slice, addresses)| {
            addresses.iter().map(|addr| Problem {
                object: Key::EndpointSlice(slice.clone()),
                text: format!(
                    "endpoint {addr} is loopback, link-local, multicast or unspecified and gets no traffic (CVE-2021-25737); remove it"
                ),
            })
        });
        let addresses = self.refused_addresses.iter().flat_map(|(service, addresses)| {
            addresses.iter().map(|addr| Problem {
                object: Key::Service(service.clone()),
                text: format!(
                    "external IP {addr} is in none of the allowed ranges and is left alone (CVE-2020-8554); allow its range, or remove it"
                ),
            })
        });
        let host_ports = self.strange_host_ports.iter().flat_map(|(pod, ports)| {
            ports.iter().map(|(addr, port)| Problem {
                object: Key::Pod(pod.clone()),
                text: format!(
                    "host port {port} asks for {addr}, which is none of this node's addresses, and is not served; give it an InternalIP of the Node object, or none"
                ),
            })
        });
        clashes.chain(endpoints).chain(addresses).chain(host_ports)
    }

    /// The object that wants a key.
    fn claimant(&self, claim: &Claim) -> Key {
        let home = (claim.service.clone(), claim.home);
        match self.host_ports.contains_key(&home) {
            true => Key::Pod(home.0),
            false => Key::Service(home.0),
        }
    }

    /// Renews the claims of services that were touched; of all, if it is this node that changed.
    fn claim(&mut self, round: &Round<'_>, touched: &mut Touched) {
        let site = Site::of(round);
        let changed = self.site != site;
        let before_site = std::mem::replace(&mut self.site, site);
        if changed {
            let pods = round.before.pods.iter().chain(round.now.pods.iter());
            let asking = pods.filter(|(_, pod)| !pod.host_ports.is_empty());
            touched.pods.extend(asking.map(|(name, _)| name.clone()));
        }
        let mut names: BTreeSet<&Name> = round.touched.services.iter().collect();
        if changed {
            names.extend(round.before.services.iter().map(|(name, _)| name));
            names.extend(round.now.services.iter().map(|(name, _)| name));
        }
        for name in names {
            if let Some(service) = round.before.services.get(name) {
                for (key, claim) in claims(service, &before_site) {
                    self.claims.remove(&key, &claim);
                    touched.keys.insert(key);
                    touched.homes.insert((claim.service, claim.home));
                }
            }
            self.refused_addresses.remove(name);
            let Some(service) = round.now.services.get(name) else {
                continue;
            };
            for (key, claim) in claims(service, &self.site) {
                touched.keys.insert(key);
                touched.homes.insert((claim.service.clone(), claim.home));
                self.claims.insert(key, claim);
            }
            let refused = self.site.refused(service);
            if !refused.is_empty() {
                self.refused_addresses.insert(name.clone(), refused);
            }
        }
    }

    /// Renews what pods that were touched want of this node's ports.
    fn claim_host_ports(&mut self, round: &Round<'_>, touched: &mut Touched) {
        let mut pods = std::mem::take(&mut touched.pods);
        let asks = |cluster: &Cluster, name: &Name| {
            let pod = cluster.pods.get(name);
            pod.is_some_and(|pod| !pod.host_ports.is_empty())
        };
        let asking = round.touched.pods.iter();
        let asking = asking.filter(|name| asks(round.now, name) || asks(round.before, name));
        pods.extend(asking.cloned());
        for name in pods {
            let first = ServiceKey::FIRST;
            let of_pod = self.host_ports.range((name.clone(), first)..);
            let before: Vec<Home> = of_pod
                .map(|(home, _)| home.clone())
                .take_while(|home| home.0 == name)
                .collect();
            for home in before {
                self.host_ports.remove(&home);
                self.claims
                    .remove(&home.1, &host_ports::claim(&name, home.1));
                touched.keys.insert(home.1);
                touched.homes.insert(home);
            }
            let pod = round.now.pods.get(&name);
            let wanted = pod.map_or_else(Vec::new, |pod| host_ports::host_ports(pod, &self.site));
            let strange = pod.map_or_else(Vec::new, |pod| host_ports::strange(pod, &self.site));
            self.strange_host_ports.remove(&name);
            if !strange.is_empty() {
                self.strange_host_ports.insert(name.clone(), strange);
            }
            for (key, backend) in wanted {
                let claim = host_ports::claim(&name, key);
                self.claims.insert(key, claim);
                touched.keys.insert(key);
                touched.homes.insert((name.clone(), key));
                self.host_ports.insert((name.clone(), key), backend);
            }
        }
    }

    /// Keeps which slices are whose, and which of their endpoints are refused (S25).
    fn join(&mut self, name: &Name, before: Option<&EndpointSlice>, now: Option<&EndpointSlice>) {
        if let Some(slice) = before {
            self.slices_of.remove(&slice.service, name);
        }
        self.refused_endpoints.remove(name);
        let Some(slice) = now else {
            return;
        };
        self.slices_of.insert(slice.service.clone(), name.clone());
        let addresses = slice.endpoints.iter().map(|it| it.address);
        let unfit = addresses.filter(|addr| fitness(addr) == Fitness::Never);
        let refused: Vec<IpAddr> = unfit.collect();
        if !refused.is_empty() {
            self.refused_endpoints.insert(name.clone(), refused);
        }
    }

    /// Gives a key to the first of its claims.
    fn settle(
        &mut self,
        key: ServiceKey,
        services: &mut Services,
        renewed: &mut BTreeSet<ServiceId>,
    ) {
        match self.claims.of(&key).nth(1) {
            None => self.contested.remove(&key),
            Some(_) => self.contested.insert(key),
        };
        let winner = self.claims.first(&key);
        let frontend = winner.map(|claim| {
            let (id, _) = self.ids.assign(&(claim.service.clone(), claim.home));
            Frontend {
                service: ServiceId(id),
                kind: claim.kind,
            }
        });
        match frontend.map(|it| it.kind) {
            None | Some(FrontendKind::ClusterIp) => self.outward.remove(&key),
            Some(kind) => self.outward.insert(key, kind),
        };
        if let Found::Frontend(before) = services.find(&key)
            && Some(before) == frontend
        {
            return;
        }
        let before = services.set_frontend(key, frontend);
        renewed.extend(before.iter().chain(&frontend).map(|it| it.service));
    }

    /// Compiles a service port, or takes it away if it is no more.
    fn settle_home(
        &mut self,
        round: &Round<'_>,
        home: Home,
        services: &mut Services,
        names: &mut Slots<Arc<str>>,
    ) {
        if let Some(backend) = self.host_ports.get(&home) {
            let (id, _) = self.ids.assign(&home);
            let before = services.service(ServiceId(id));
            let compiled = host_ports::compiled(home.1, *backend, before);
            names.set(id, Some(host_ports::name(&home).into()));
            return put(ServiceId(id), compiled, round.sequence, services);
        }
        let service = round.now.services.get(&home.0);
        let port = service.and_then(|it| Some((it, port_at(it, &home.1)?)));
        let Some((service, port)) = port else {
            if let Some(id) = self.ids.release(&home) {
                services.set(ServiceId(id), None);
                names.set(id, None);
            }
            return;
        };
        let (id, _) = self.ids.assign(&home);
        let before = services.service(ServiceId(id));
        let compiled = self.compile(round, service, port, home.1, before);
        put(ServiceId(id), compiled, round.sequence, services);
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
        let slices = self.slices_of.of(&service.name);
        let slices = slices.filter_map(|name| round.now.slices.get(name));
        let family = key.addr.family();
        let members = Members::of(slices, port, family, &self.site);
        let reach = |policy: TrafficPolicy| match policy {
            TrafficPolicy::Cluster => Reach::Cluster,
            TrafficPolicy::Local => Reach::Local,
        };
        let (internal, external) = (reach(service.internal), reach(service.external));
        let cluster = members.cluster(&self.site);
        let local = match (internal, external) {
            (Reach::Cluster, Reach::Cluster) => Vec::new(),
            (Reach::Local, _) | (_, Reach::Local) => members.local(),
        };
        let spared = members.spared(&cluster, &local);
        Compiled {
            key,
            cluster: backends(cluster, before.map(|before| &before.cluster)),
            local: backends(local, before.map(|before| &before.local)),
            spared,
            // Nobody anywhere is refused (S1), somebody elsewhere is silence (S2, S3).
            refusal: match members.nobody_serves() {
                true => Refusal::Reject,
                false => Refusal::Drop,
            },
            internal,
            external,
            sources: sources(service, family, &self.site),
            affinity_timeout_s: match service.affinity {
                Affinity::None => None,
                Affinity::ClientIp { timeout_s } => Some(timeout_s),
            },
            generation: before.map_or(0, |before| before.generation),
        }
    }
}

/// Puts a service port in its place if it differs from what is there.
fn put(id: ServiceId, mut compiled: Compiled, sequence: u32, services: &mut Services) {
    if services.service(id) != Some(&compiled) {
        compiled.generation = sequence;
        services.set(id, Some(compiled));
    }
}

/// The set of these: the one from before, if it is the same.
fn backends(all: Vec<Backend>, before: Option<&Arc<Backends>>) -> Arc<Backends> {
    match before.filter(|before| before.all() == all) {
        Some(before) => before.clone(),
        None => Arc::new(Backends::new(all)),
    }
}

/// S13: the source ranges of a family; without any, everybody.
///
/// A node that is allowed may see its own packets with the load balancer's address as their source: where that is
/// bound to a device, the kernel picks it.
fn sources(service: &Service, family: Family, site: &Site) -> Option<Arc<PrefixMap<()>>> {
    let of_family = |ip: &IpAddr| Addr::from(*ip).family() == family;
    let mut ranges = PrefixMap::default();
    for range in service
        .source_ranges
        .iter()
        .filter(|it| of_family(&it.addr()))
    {
        ranges.insert(*range, ());
    }
    if ranges.is_empty() {
        return None;
    }
    if site
        .primary
        .iter()
        .any(|ip| ranges.longest(&Addr::from(*ip)).is_some())
    {
        let balancers = service.load_balancer_ips.iter().map(|(ip, _)| ip);
        for ip in balancers.filter(|ip| of_family(ip)) {
            ranges.insert((*ip).into(), ());
        }
    }
    Some(Arc::new(ranges))
}

/// The service ports of a service, by their cluster addresses.
fn homes(service: &Service, site: &Site) -> impl Iterator<Item = Home> {
    let all = claims(service, site).into_iter();
    all.filter(|(_, claim)| claim.kind == FrontendKind::ClusterIp)
        .map(|(key, claim)| (claim.service, key))
}

/// The port that has this home; of several the first.
fn port_at<'a>(service: &'a Service, home: &ServiceKey) -> Option<&'a ServicePort> {
    let mut addresses = service.cluster_ips.iter();
    let mut ports = service.ports.iter();
    addresses.find(|ip| Addr::from(**ip) == home.addr)?;
    ports.find(|port| port.port == home.port && port.protocol == home.protocol)
}

/// `namespace/name:port`, the port by its name if it has one.
fn port_name(service: &Service, port: &ServicePort) -> String {
    match port.name.is_empty() {
        true => format!("{}:{}", service.name, port.port),
        false => format!("{}:{}", service.name, port.name),
    }
}

//! Who stands behind a service port, and which of them a packet may be given.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use podway_tables::Backend;
use podway_wire::{Addr, Family};

use super::claims::Site;
use crate::address::{Fitness, fitness};
use crate::{Endpoint, EndpointSlice, ServicePort, Serving};

/// The members of a service port of one family, in order.
pub(super) struct Members<'a>(BTreeMap<Backend, Member<'a>>);

/// What the slices say of one backend.
#[derive(Clone, Copy, Debug)]
struct Member<'a> {
    serving: Serving,
    place: Place,
    /// The entry whose hints count.
    entry: &'a Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Elsewhere,
    Local,
}

/// Which hints the choice follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hints {
    Nodes,
    Zones,
    Ignored,
}

impl<'a> Members<'a> {
    /// What the slices say; of what several say of one backend the best counts, and where that is (S15).
    ///
    /// An address may be a new pod's already while its last owner still ends on another node: that one is nowhere.
    pub(super) fn of(
        slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
        port: &ServicePort,
        family: Family,
        site: &Site,
    ) -> Members<'a> {
        let mut members: BTreeMap<Backend, Member<'a>> = BTreeMap::new();
        for slice in slices {
            let ports = slice.ports.iter();
            let joined = ports.filter(|it| it.name == port.name && it.protocol == port.protocol);
            for slice_port in joined {
                for entry in &slice.endpoints {
                    let addr = Addr::from(entry.address);
                    if addr.family() != family || fitness(&entry.address) == Fitness::Never {
                        continue;
                    }
                    let place = match entry.node.as_ref() == Some(&site.node) {
                        true => Place::Local,
                        false => Place::Elsewhere,
                    };
                    let backend = Backend {
                        addr,
                        port: slice_port.port,
                    };
                    let member = Member {
                        serving: entry.serving,
                        place,
                        entry,
                    };
                    let merged = members.entry(backend).or_insert(member);
                    match readiness(entry.serving).cmp(&readiness(merged.serving)) {
                        Ordering::Less => {}
                        Ordering::Equal => merged.place = merged.place.max(place),
                        Ordering::Greater => *merged = member,
                    }
                }
            }
        }
        Members(members)
    }

    /// Those for packets that may go anywhere (S5), as the hints of the ready ones have it (S8).
    pub(super) fn cluster(&self, site: &Site) -> Vec<Backend> {
        match self.hints(site) {
            Hints::Ignored => self.usable(|_| true),
            Hints::Nodes => self.usable(|it| it.entry.node_hints.contains(&site.node)),
            Hints::Zones => self.usable(|it| hinted_at_zone(it.entry, site)),
        }
    }

    /// Those for packets that stay on this node (S5).
    pub(super) fn local(&self) -> Vec<Backend> {
        self.usable(|it| it.place == Place::Local)
    }

    /// True if nobody serves anywhere (S1).
    pub(super) fn nobody_serves(&self) -> bool {
        self.usable(|_| true).is_empty()
    }

    /// Those that serve and are in neither set, which are in order.
    pub(super) fn spared(&self, cluster: &[Backend], local: &[Backend]) -> Arc<[Backend]> {
        let serving = self.0.iter().filter(|(_, it)| match it.serving {
            Serving::Ready | Serving::Terminating | Serving::Unready => true,
            Serving::No => false,
        });
        let spared = serving.map(|(backend, _)| *backend).filter(|backend| {
            cluster.binary_search(backend).is_err() && local.binary_search(backend).is_err()
        });
        spared.collect()
    }

    /// The ready ones of some; if none of them is ready, those that terminate but still serve (S5).
    fn usable(&self, some: impl Fn(&Member<'_>) -> bool) -> Vec<Backend> {
        let of = |serving: Serving| {
            let all = self.0.iter();
            let matching = all.filter(|(_, it)| it.serving == serving && some(it));
            matching.map(|(backend, _)| *backend).collect::<Vec<_>>()
        };
        let ready = of(Serving::Ready);
        match ready.is_empty() {
            true => of(Serving::Terminating),
            false => ready,
        }
    }

    /// S8: hints count if every ready endpoint has one and any of them is for us; nodes' before zones'.
    fn hints(&self, site: &Site) -> Hints {
        let ready = || {
            let all = self.0.values();
            all.filter(|it| it.serving == Serving::Ready)
                .map(|it| it.entry)
        };
        let for_node = ready().any(|it| it.node_hints.contains(&site.node));
        if for_node && ready().all(|it| !it.node_hints.is_empty()) {
            return Hints::Nodes;
        }
        let for_zone = ready().any(|it| hinted_at_zone(it, site));
        if for_zone && ready().all(|it| !it.zone_hints.is_empty()) {
            return Hints::Zones;
        }
        Hints::Ignored
    }
}

fn hinted_at_zone(entry: &Endpoint, site: &Site) -> bool {
    let zone = site.zone.as_ref();
    zone.is_some_and(|zone| entry.zone_hints.contains(zone))
}

/// What goes before what; who terminates goes last, for its address may be somebody else's (Kubernetes #135593).
fn readiness(serving: Serving) -> u8 {
    match serving {
        Serving::No => 0,
        Serving::Terminating => 1,
        Serving::Unready => 2,
        Serving::Ready => 3,
    }
}

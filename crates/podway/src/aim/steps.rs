//! From what is in force to what is desired: in which order, so that no step opens what is closed before and after, and the
//! node's own traffic never stops.
//!
//! The XDP program redirects only what workers know as ours: it stops before they forget something, and begins once all of
//! them know it. A port is opened before tables give it packets, and closed once none does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podway_host::node::Wanted;
use podway_intent::Name;
use podway_tables::{PortId, PortKind};
use podway_xsk::{Plan, Setting};

use super::{Desired, Port, Tables};

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// Workers' tables.
    pub tables: Given,
    /// What the XDP program redirects.
    pub plan: Plan,
    /// Whether it may be partly something else: it could not be told all of a step.
    pub torn: Torn,
    /// Open ports.
    pub ports: BTreeMap<PortId, Port>,
    /// What the kernel was last made; `None` if it never was.
    pub host: Option<Wanted>,
    /// Whether it may be something else by now.
    pub looked: LastLook,
    /// The services whose health is answered.
    pub listeners: BTreeMap<u16, Name>,
}

/// What tables workers have.
#[derive(Clone, Debug, Default)]
pub enum Given {
    /// There are no workers.
    #[default]
    Nothing,
    /// Some have these, others still older ones.
    Some(Arc<Tables>),
    /// All have these.
    All(Arc<Tables>),
}

/// Whether a plan is redirected as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Torn {
    /// It is.
    #[default]
    No,
    /// Something of the plan that was to follow is, too, or something is missing.
    Yes,
}

/// Whether the last look at the kernel still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastLook {
    /// It does.
    Counts,
    /// The kernel may have changed since, or time has passed.
    #[default]
    IsOld,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Step {
    /// Start the workers with their first tables.
    Start(Arc<Tables>),
    /// Have the XDP program redirect no more than this.
    Narrow(Plan),
    /// Give workers new tables.
    Publish(Arc<Tables>),
    /// Wait until all of them have those.
    Await(Arc<Tables>),
    /// Have the XDP program redirect all of this.
    Widen(Plan),
    /// Answer for the health of these services, and for no others.
    Listen(BTreeMap<u16, Name>),
    /// Take a device from the dataplane.
    Close(PortId, Port),
    /// Have a NIC be so.
    Prepare(String, Vec<Setting>),
    /// Make a device the dataplane's.
    Open(PortId, Port),
    /// Set a device up.
    Raise(PortId, Port),
    /// Look at the kernel and mend what differs.
    Look(Look),
}

/// A look at the kernel.
#[derive(Clone, Debug)]
pub struct Look {
    /// What it is made.
    pub wanted: Wanted,
    /// The devices that should still be there.
    pub devices: Vec<(PortId, Port)>,
    /// The uplinks that are looked at as NICs, by index.
    pub uplinks: BTreeMap<u32, String>,
}

/// Who carries a step out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Whoever has the tables: it takes moments, and what follows relies on it.
    Tables,
    /// The same, but nothing relies on it.
    Beside,
    /// Whoever may wait for the kernel's lock of devices.
    Kernel,
}

impl Given {
    /// The last tables that workers were given.
    pub fn last(&self) -> Option<&Arc<Tables>> {
        match self {
            Given::Nothing => None,
            Given::Some(tables) | Given::All(tables) => Some(tables),
        }
    }
}

impl Step {
    /// Who carries it out.
    pub fn lane(&self) -> Lane {
        match self {
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_) => Lane::Tables,
            Step::Listen(_) => Lane::Beside,
            Step::Close(..)
            | Step::Prepare(..)
            | Step::Open(..)
            | Step::Raise(..)
            | Step::Look(_) => Lane::Kernel,
        }
    }

    /// True if both do the same.
    pub fn is(&self, other: &Step) -> bool {
        match (self, other) {
            (Step::Start(one), Step::Start(two))
            | (Step::Publish(one), Step::Publish(two))
            | (Step::Await(one), Step::Await(two)) => one.sequence() == two.sequence(),
            (Step::Narrow(one), Step::Narrow(two)) | (Step::Widen(one), Step::Widen(two)) => {
                one == two
            }
            (Step::Listen(one), Step::Listen(two)) => one == two,
            (Step::Close(one, a), Step::Close(two, b))
            | (Step::Open(one, a), Step::Open(two, b))
            | (Step::Raise(one, a), Step::Raise(two, b)) => (one, a) == (two, b),
            (Step::Prepare(one, a), Step::Prepare(two, b)) => (one, a) == (two, b),
            (Step::Look(one), Step::Look(two)) => {
                (&one.wanted, &one.uplinks) == (&two.wanted, &two.uplinks)
            }
            (
                Step::Start(_)
                | Step::Narrow(_)
                | Step::Publish(_)
                | Step::Await(_)
                | Step::Widen(_)
                | Step::Listen(_)
                | Step::Close(..)
                | Step::Prepare(..)
                | Step::Open(..)
                | Step::Raise(..)
                | Step::Look(_),
                _,
            ) => false,
        }
    }
}

/// What leads from what is in force to what is desired. The steps are in order: each may be carried out only if those before
/// it were, and after any of them the rest may be left, or others be taken instead.
pub fn steps(now: &InForce, to: &Desired) -> Vec<Step> {
    let Some(tables) = &to.tables else {
        return Vec::new();
    };
    let mut steps = of_tables(now, tables);
    if now.listeners != tables.listeners {
        steps.push(Step::Listen(tables.listeners.clone()));
    }
    steps.extend(of_devices(now, to));
    let is_known = to.unknown.is_empty();
    if now.host.as_ref() != Some(&tables.host) || now.looked == LastLook::IsOld || !is_known {
        steps.push(Step::Look(Look {
            wanted: tables.host.clone(),
            devices: now.ports.clone().into_iter().collect(),
            uplinks: to.uplinks.clone(),
        }));
    }
    steps
}

fn of_tables(now: &InForce, tables: &Arc<Tables>) -> Vec<Step> {
    let mut steps = Vec::new();
    let narrow = common(&now.plan, &tables.plan);
    let mut plan = &now.plan;
    match &now.tables {
        Given::Nothing => {
            steps.push(Step::Start(tables.clone()));
            steps.push(Step::Await(tables.clone()));
        }
        Given::Some(last) if last.sequence() == tables.sequence() => {
            steps.push(Step::Await(tables.clone()));
        }
        Given::All(last) if last.sequence() == tables.sequence() => {}
        Given::Some(_) | Given::All(_) => {
            if narrow != now.plan || now.torn == Torn::Yes {
                steps.push(Step::Narrow(narrow.clone()));
                plan = &narrow;
            }
            steps.push(Step::Publish(tables.clone()));
            steps.push(Step::Await(tables.clone()));
        }
    }
    if *plan != tables.plan || now.torn == Torn::Yes {
        steps.push(Step::Widen(tables.plan.clone()));
    }
    steps
}

/// The host's port opens first and the uplinks last, so that what comes from the wire finds the node's pods.
fn of_devices(now: &InForce, to: &Desired) -> Vec<Step> {
    let is_open = |id: &PortId, port: &Port| now.ports.get(id).is_some_and(|it| it.is_same(port));
    let closing = now.ports.iter().filter(|(id, port)| {
        let wanted = to.ports.get(id);
        !wanted.is_some_and(|wanted| wanted.is_same(port))
    });
    let closing = closing.map(|(id, port)| Step::Close(*id, port.clone()));
    let mut wanted: Vec<_> = to.ports.iter().map(|(id, port)| (*id, port)).collect();
    wanted.sort_by_key(|(id, port)| match port.kind {
        PortKind::Host => (0, *id),
        PortKind::Pod(_) => (1, *id),
        PortKind::Uplink => (2, *id),
    });
    let opening = wanted.iter().filter(|(id, port)| !is_open(id, port));
    let opening = opening.map(|(id, port)| Step::Open(*id, (*port).clone()));
    let raising = wanted.iter().filter(|(id, port)| {
        let open = now.ports.get(id).filter(|open| open.is_same(port));
        open.is_some_and(|open| open.raises < port.raises)
    });
    // Before the program is there: some drivers change nothing of their queues from then on.
    let preparing = to.nics.iter();
    let preparing = preparing.map(|(nic, settings)| Step::Prepare(nic.clone(), settings.clone()));
    // Somebody waits for those that only have to be set up.
    let raising = raising.map(|(id, port)| Step::Raise(*id, (*port).clone()));
    closing
        .chain(raising)
        .chain(preparing)
        .chain(opening)
        .collect()
}

impl Port {
    /// True if both are one device, for the same purpose.
    fn is_same(&self, other: &Port) -> bool {
        (self.ifindex, self.kind, self.bind) == (other.ifindex, other.kind, other.bind)
    }
}

impl InForce {
    /// Takes up what a step has brought about.
    pub fn carried(&mut self, step: &Step) {
        match step {
            Step::Start(tables) | Step::Publish(tables) => {
                self.tables = Given::Some(tables.clone());
            }
            Step::Await(tables) => self.tables = Given::All(tables.clone()),
            Step::Narrow(plan) | Step::Widen(plan) => {
                self.plan.clone_from(plan);
                self.torn = Torn::No;
            }
            Step::Listen(listeners) => self.listeners.clone_from(listeners),
            Step::Close(id, _) => drop(self.ports.remove(id)),
            Step::Open(id, port) => {
                let port = Port {
                    raises: 0,
                    ..port.clone()
                };
                self.ports.insert(*id, port);
            }
            Step::Raise(id, port) => {
                if let Some(open) = self.ports.get_mut(id) {
                    open.raises = port.raises;
                }
            }
            Step::Look(look) => {
                self.host = Some(look.wanted.clone());
                self.looked = LastLook::Counts;
            }
            // What the NIC is like now is a fact.
            Step::Prepare(..) => {}
        }
    }

    /// Takes up that a step was begun and failed.
    pub fn failed(&mut self, step: &Step) {
        match step {
            Step::Narrow(_) | Step::Widen(_) => self.torn = Torn::Yes,
            Step::Start(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Listen(_)
            | Step::Close(..)
            | Step::Prepare(..)
            | Step::Open(..)
            | Step::Raise(..)
            | Step::Look(_) => {}
        }
    }

    /// True if all workers have these tables, and the program redirects what they say.
    pub fn has(&self, tables: &Tables) -> bool {
        let given = match &self.tables {
            Given::All(given) => given.sequence() == tables.sequence(),
            Given::Some(_) | Given::Nothing => false,
        };
        given && self.plan == tables.plan && self.torn == Torn::No
    }
}

/// What both plans take for ours: in force while workers go from the one's tables to the other's.
fn common(old: &Plan, new: &Plan) -> Plan {
    fn both<T: Clone + Ord>(old: &[T], new: &[T]) -> Vec<T> {
        let new: BTreeSet<&T> = new.iter().collect();
        old.iter()
            .filter(|item| new.contains(item))
            .cloned()
            .collect()
    }
    Plan {
        local: both(&old.local, &new.local),
        node_addresses: both(&old.node_addresses, &new.node_addresses),
        direct: both(&old.direct, &new.direct),
        tunnel_port: old
            .tunnel_port
            .filter(|port| new.tunnel_port == Some(*port)),
        node_ports: both(&old.node_ports, &new.node_ports),
        own_ports: both(&old.own_ports, &new.own_ports),
        host_ifindex: new.host_ifindex,
        host_ports: old
            .host_ports
            .intersection(&new.host_ports)
            .copied()
            .collect(),
        snat_ports: old
            .snat_ports
            .clone()
            .filter(|ports| new.snat_ports.as_ref() == Some(ports)),
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    #[test]
    fn nothing_is_redirected_that_only_one_of_two_plans_has() {
        let plan = |ranges: &[&str], tunnel_port| {
            let ranges = ranges.iter().map(|text| text.parse().expect("range"));
            let local: Vec<IpNet> = ranges.collect();
            Plan {
                direct: local.clone(),
                local,
                tunnel_port,
                ..Plan::default()
            }
        };
        let old = plan(&["10.1.0.0/24", "10.2.0.0/24"], Some(4789));
        let new = plan(&["10.2.0.0/24", "10.3.0.0/24"], Some(8472));
        assert_eq!(common(&old, &new), plan(&["10.2.0.0/24"], None));
        assert_eq!(common(&old, &old), old);
    }
}

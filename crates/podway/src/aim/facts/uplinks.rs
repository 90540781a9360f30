//! The uplinks beside the first: devices that the host's routes lead to (R1).

use std::collections::{BTreeMap, BTreeSet};

use podway_host::router::{Interface, News};
use podway_intent::{Change, NodeSetup, Uplink};
use podway_tables::PortId;

use super::{Due, Facts, WireState};
use crate::aim::{HOST, PORTS, UPLINK};

/// Uplinks at most, the first among them.
const UPLINKS: usize = 16;
/// Devices that one problem names.
const NAMED: usize = 8;

/// How far an uplink has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No table knows of it: its port is to open.
    Asked,
    /// Its port is open, so that tables may send by it.
    Open,
    /// It goes: first from the tables, then its port is closed.
    Leaving,
}

/// What is known of them. One stays open when its routes go, for when they come back.
#[derive(Clone, Debug, Default)]
pub(super) struct Uplinks {
    ports: BTreeMap<PortId, (Interface, State)>,
    /// The devices that routes lead to.
    wanted: Vec<Interface>,
    /// Those that are none, and why: they are tried again once they or their routes were otherwise.
    refused: BTreeMap<u32, (Interface, String)>,
    /// The names of those that there is no room for.
    crowded: Vec<String>,
}

impl Uplinks {
    /// Takes in to which devices routes lead.
    pub(super) fn want(&mut self, wanted: Vec<Interface>) {
        self.refused.retain(|_, (it, _)| wanted.contains(it));
        self.wanted = wanted;
    }

    /// Asks for ports for those that are wanted, and lets go of those that nothing can be made of; `first` is the first
    /// uplink's device, and `free` gives ports that nobody has. True if tables follow.
    pub(super) fn follow(&mut self, first: u32, mut free: impl Iterator<Item = PortId>) -> bool {
        let mut changed = false;
        for (interface, state) in self.ports.values_mut() {
            if interface.ifindex == first && *state != State::Leaving {
                *state = State::Leaving;
                changed = true;
            }
            let now = self.wanted.iter();
            let mut now = now.filter(|it| it.ifindex == interface.ifindex);
            if let Some(now) = now.next().filter(|now| *now != interface) {
                interface.clone_from(now);
                changed = true;
            }
        }
        self.crowded.clear();
        for wanted in self.wanted.clone() {
            let is_known = |(it, _): &(Interface, State)| it.ifindex == wanted.ifindex;
            let known = wanted.ifindex == first || self.ports.values().any(is_known);
            if known || self.refused.contains_key(&wanted.ifindex) {
                continue;
            }
            let has_room = self.ports.len() + 1 < UPLINKS;
            match free.next().filter(|_| has_room) {
                Some(port) => {
                    self.ports.insert(port, (wanted, State::Asked));
                    changed = true;
                }
                None => {
                    changed |= self.make_room();
                    self.crowded.push(wanted.name);
                }
            }
        }
        changed
    }

    /// Lets go of one that no route leads to; true if there was one. Who waits for its port gets it once it is closed.
    fn make_room(&mut self) -> bool {
        let is_wanted = |it: &Interface| self.wanted.iter().any(|one| one.ifindex == it.ifindex);
        if self.ports.values().any(|(_, it)| *it == State::Leaving) {
            return false;
        }
        let mut spare = self.ports.values_mut().filter(|(it, _)| !is_wanted(it));
        let spare = spare.next();
        spare.map(|(_, state)| *state = State::Leaving).is_some()
    }

    /// A port is open; true if it is one of them.
    pub(super) fn opened(&mut self, port: PortId) -> bool {
        match self.ports.get_mut(&port) {
            Some((_, state)) if *state == State::Asked => {
                *state = State::Open;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A port can't be opened; true if it is one of them.
    pub(super) fn not_opened(&mut self, port: PortId, why: String) -> bool {
        match self.ports.remove(&port) {
            Some((interface, State::Asked)) => {
                self.refused.insert(interface.ifindex, (interface, why));
                true
            }
            Some(other) => {
                self.ports.insert(port, other);
                false
            }
            None => false,
        }
    }

    /// A port's device is gone; true if it is one of them.
    pub(super) fn leave(&mut self, port: PortId) -> bool {
        match self.ports.get_mut(&port) {
            Some((_, state)) if *state != State::Leaving => {
                *state = State::Leaving;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A port is closed; true if it is one of them that was to go.
    pub(super) fn closed(&mut self, port: PortId) -> bool {
        let is_over = self.ports.get(&port);
        let is_over = is_over.is_some_and(|(_, state)| *state == State::Leaving);
        if is_over {
            self.ports.remove(&port);
        }
        is_over
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (PortId, &Interface, State)> {
        let all = self.ports.iter();
        all.map(|(port, (interface, state))| (*port, interface, *state))
    }

    /// Those that tables may send by.
    pub(super) fn open(&self) -> impl Iterator<Item = Uplink> {
        let open = self.all().filter(|(_, _, state)| *state == State::Open);
        open.map(|(port, interface, _)| Uplink {
            port,
            device: interface.ifindex,
            mac: interface.mac,
            mtu: interface.mtu,
        })
    }

    /// What is wrong with them, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let told = "pods that send there are told that the net is unreachable";
        let refused = self.refused.values();
        let refused = refused.map(|(interface, why)| {
            let name = &interface.name;
            format!("{name}, which routes lead to, is no uplink ({why}): {told}")
        });
        let (named, more) = self.crowded.split_at(self.crowded.len().min(NAMED));
        let more = match more.len() {
            0 => String::new(),
            more => format!(" and {more} more devices"),
        };
        let crowded = (!named.is_empty()).then(|| {
            let named = named.join(", ");
            format!(
                "{named}{more}, which routes lead to, are no uplinks (there are {UPLINKS}): {told}"
            )
        });
        refused.chain(crowded).collect()
    }
}

impl Facts {
    pub(super) fn routed(&mut self, news: News) -> Due {
        let due = match news.changes.is_empty() {
            true => Due::Nothing,
            false => Due::Soon,
        };
        for change in news.changes {
            self.cluster.apply(change);
        }
        self.routing_problems = news.problems;
        self.uplinks.want(news.uplinks);
        due.max(self.follow_uplinks())
    }

    /// Has ports for the devices that routes lead to, and the tables know which of them are open.
    pub(super) fn follow_uplinks(&mut self) -> Due {
        let Some(first) = self.kernel.as_ref().map(|it| &it.seen.uplink) else {
            return Due::Nothing;
        };
        let taken: BTreeSet<PortId> = self.ports().collect();
        let free = (HOST.0 + 1..PORTS).map(PortId);
        let free = free.filter(|port| !taken.contains(port));
        let asked = self.uplinks.follow(first.ifindex, free);
        let first = Uplink {
            port: UPLINK,
            device: first.ifindex,
            mac: first.mac,
            mtu: first.mtu,
        };
        let uplinks: Vec<Uplink> = [first].into_iter().chain(self.uplinks.open()).collect();
        let setup = self.cluster.setup().filter(|it| it.uplinks != uplinks);
        match (setup, asked) {
            (Some(setup), _) => {
                let setup = NodeSetup {
                    uplinks,
                    ..setup.clone()
                };
                self.cluster.apply(Change::Setup(setup));
                Due::Now
            }
            (None, true) => Due::Now,
            (None, false) => Due::Nothing,
        }
    }

    pub(super) fn not_opened(&mut self, port: PortId, why: String) -> Due {
        match self.uplinks.not_opened(port, why) {
            true => self.follow_uplinks(),
            false => self.forget(port, WireState::Asked),
        }
    }

    pub(super) fn closed(&mut self, port: PortId) -> Due {
        let is_other = self.uplinks.closed(port);
        if is_other || port == UPLINK {
            self.nics.forgive();
        }
        match is_other {
            true => self.follow_uplinks(),
            false => self.forget(port, WireState::Leaving),
        }
    }

    /// The devices of all uplinks that are to be open, by index.
    pub fn uplink_devices(&self) -> BTreeMap<u32, String> {
        let first = self.kernel.iter().map(|it| &it.seen.uplink);
        let first = first.map(|it| (it.ifindex, it.name.clone()));
        let more = self.uplinks();
        first
            .chain(more.map(|(_, it)| (it.ifindex, it.name.clone())))
            .collect()
    }

    /// The uplinks beside the first that are to be open, by port.
    pub fn uplinks(&self) -> impl Iterator<Item = (PortId, &Interface)> {
        let staying = self.uplinks.all();
        let staying = staying.filter(|(_, _, state)| *state != State::Leaving);
        staying.map(|(port, interface, _)| (port, interface))
    }

    /// The ports that wires and uplinks beside the first have.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        let wires = self.wires.keys().copied();
        wires.chain(self.uplinks.all().map(|(port, _, _)| port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podway_wire::Mac;

    const FIRST: u32 = 2;

    fn interface(ifindex: u32) -> Interface {
        Interface {
            ifindex,
            name: format!("eth{ifindex}"),
            mac: Mac([2, 0, 0, 0, 0, ifindex as u8]),
            mtu: 1_500,
        }
    }

    fn follow(uplinks: &mut Uplinks, wanted: impl IntoIterator<Item = u32>) -> bool {
        uplinks.want(wanted.into_iter().map(interface).collect());
        again(uplinks)
    }

    fn again(uplinks: &mut Uplinks) -> bool {
        let taken: Vec<PortId> = uplinks.all().map(|(port, _, _)| port).collect();
        let free = (2..100).map(PortId).filter(|port| !taken.contains(port));
        uplinks.follow(FIRST, free)
    }

    fn devices(uplinks: &Uplinks) -> Vec<u32> {
        uplinks.all().map(|(_, it, _)| it.ifindex).collect()
    }

    #[test]
    fn r1_the_first_uplink_and_fifteen_more_are_there_and_the_others_are_named() {
        let mut uplinks = Uplinks::default();
        assert!(follow(&mut uplinks, FIRST..30));
        assert_eq!(devices(&uplinks), (3..18).collect::<Vec<_>>());
        let [problem] = &uplinks.problems()[..] else {
            panic!("one problem");
        };
        assert!(problem.starts_with("eth18, eth19, "), "{problem}");
        assert!(problem.contains(" and 4 more devices, "), "{problem}");
        assert!(!again(&mut uplinks), "nothing is new");
        // One that no route leads to any more makes room.
        for (port, _, _) in uplinks.clone().all() {
            assert!(uplinks.opened(port));
        }
        assert!(follow(&mut uplinks, [FIRST].into_iter().chain(4..19)));
        assert_eq!(uplinks.open().count(), 14);
        assert!(uplinks.closed(PortId(2)));
        assert!(again(&mut uplinks));
        assert_eq!(uplinks.all().next().expect("one").1.ifindex, 18);
        assert_eq!(uplinks.problems(), [""; 0]);
    }

    #[test]
    fn r1_a_device_that_cant_be_one_is_named_and_tried_again_when_it_or_its_routes_change() {
        let mut uplinks = Uplinks::default();
        let refuse = |uplinks: &mut Uplinks| {
            let (port, _, _) = uplinks.all().next().expect("it is asked for");
            assert!(uplinks.not_opened(port, "no queue".to_owned()));
        };
        follow(&mut uplinks, [3]);
        refuse(&mut uplinks);
        assert!(
            uplinks.problems()[0]
                .starts_with("eth3, which routes lead to, is no uplink (no queue)")
        );
        assert!(!follow(&mut uplinks, [3]), "it is as it was");
        follow(&mut uplinks, []);
        assert!(follow(&mut uplinks, [3]), "its routes are back");
        refuse(&mut uplinks);
        uplinks.want(vec![Interface {
            mtu: 9_000,
            ..interface(3)
        }]);
        assert!(again(&mut uplinks), "it is another");
        assert_eq!(uplinks.problems(), [""; 0]);
    }

    #[test]
    fn r1_an_uplink_stays_without_routes_and_goes_with_its_device_or_as_the_first() {
        let mut uplinks = Uplinks::default();
        follow(&mut uplinks, [3, 4]);
        assert_eq!(uplinks.open().count(), 0, "no table knows of it");
        for port in [2, 3].map(PortId) {
            assert!(uplinks.opened(port));
        }
        assert!(!follow(&mut uplinks, []));
        assert_eq!(uplinks.open().count(), 2);
        assert!(uplinks.leave(PortId(2)));
        assert!(uplinks.follow(4, [].into_iter()));
        assert_eq!(uplinks.open().count(), 0);
        assert!(uplinks.closed(PortId(2)) && uplinks.closed(PortId(3)));
        assert_eq!(devices(&uplinks), [0; 0]);
    }
}

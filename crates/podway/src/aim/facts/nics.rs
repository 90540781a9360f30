//! What the uplinks' NICs are like, and what their drivers refused.

use std::collections::{BTreeMap, BTreeSet};

use podway_xsk::{Nic, Place, Refused, Setting, Wants};

use super::{Due, Facts};

/// What came of having a device be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What was to be set.
    pub asked: Vec<Setting>,
    /// What its driver refused of it, and why.
    pub refused: Vec<Refused>,
    /// What it is like now.
    pub nic: Nic,
}

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Nics {
    /// By the index of the uplink: its own device, and those that it is made of.
    of: BTreeMap<u32, Vec<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    place: Place,
    nic: Nic,
    /// Refused while the device was like that: not asked again before it is otherwise, or its port was closed.
    refused: Vec<Refused>,
}

impl Nics {
    /// Takes in what a look at the uplinks' devices showed.
    pub(super) fn looked(&mut self, seen: &BTreeMap<u32, Vec<Nic>>) {
        let before = std::mem::take(&mut self.of);
        let before: Vec<Known> = before.into_values().flatten().collect();
        let refused = |nic: &Nic| {
            let same = before.iter().find(|it| it.nic == *nic);
            same.map_or_else(Vec::new, |it| it.refused.clone())
        };
        for (uplink, nics) in seen {
            let places = [Place::Uplink]
                .into_iter()
                .chain(std::iter::repeat(Place::Below));
            let known = nics.iter().zip(places).map(|(nic, place)| Known {
                place,
                nic: nic.clone(),
                refused: refused(nic),
            });
            self.of.insert(*uplink, known.collect());
        }
    }

    fn prepared(&mut self, prepared: Prepared, workers: u32) {
        let Prepared {
            asked,
            refused,
            nic,
        } = prepared;
        let known = self.of.values_mut().flatten();
        for known in known.filter(|it| it.nic.interface == nic.interface) {
            if known.nic != nic {
                known.refused.clear();
            }
            known.nic = nic.clone();
            known.refused.extend(refused.iter().cloned());
            // What a driver takes and doesn't do is refused, too.
            let left = nic.wants(known.place, workers, &known.refused).settings;
            let ignored = left.into_iter().filter(|it| asked.contains(it));
            let ignored = ignored.map(|it| (it, "it took it, and is as before".to_owned()));
            known.refused.extend(ignored.collect::<Vec<_>>());
        }
    }

    /// A port was closed: what a driver refuses while the program is there, it may do now.
    pub(super) fn forgive(&mut self) {
        for known in self.of.values_mut().flatten() {
            known.refused.clear();
        }
    }

    fn wants(&self, workers: u32) -> impl Iterator<Item = (&Nic, Wants)> {
        let all = self.of.values().flatten();
        all.map(move |it| (&it.nic, it.nic.wants(it.place, workers, &it.refused)))
    }
}

impl Facts {
    pub(super) fn prepared(&mut self, prepared: Prepared) -> Due {
        let workers = self.worker_count();
        self.nics.prepared(prepared, workers);
        Due::Nothing
    }

    /// An uplink's own device, as it was last seen.
    pub fn nic(&self, uplink: u32) -> Option<&Nic> {
        self.nics.of.get(&uplink)?.first().map(|it| &it.nic)
    }

    /// The uplinks that no look has shown as NICs.
    pub fn unknown_nics(&self) -> BTreeSet<u32> {
        let all = self.uplink_devices().into_keys();
        all.filter(|it| self.nic(*it).is_none()).collect()
    }

    /// What NICs are to be made, by the device's name.
    pub fn settings(&self) -> BTreeMap<String, Vec<Setting>> {
        let wants = self.nics.wants(self.worker_count());
        let wants = wants.filter(|(_, wants)| !wants.settings.is_empty());
        wants
            .map(|(nic, wants)| (nic.interface.clone(), wants.settings))
            .collect()
    }

    /// Why some packets would find no worker, or some workers no queue, and what to do about it.
    pub fn unowned(&self) -> Option<String> {
        let mut wants = self.nics.wants(self.worker_count());
        wants.find_map(|(_, wants)| wants.unowned)
    }

    pub(super) fn nic_problems(&self) -> Vec<String> {
        let wants = self.nics.wants(self.worker_count());
        let problems = wants.flat_map(|(_, it)| it.problems.into_iter().chain(it.unowned));
        problems.collect()
    }

    fn worker_count(&self) -> u32 {
        self.workers as u32
    }
}

//! What the kernel says of the ways out of the node, and what it is asked about them (R1, R2).

use podway_engine::Want;
use podway_host::router::News;
use podway_intent::LinkAddress;
use podway_tables::{NextHop, Upkeep};

use super::Agent;
use crate::aim::{Due, Event, UPLINK};

impl Agent {
    /// Takes in how the kernel's routes, neighbours and addresses differ.
    pub(super) fn routed(&mut self, news: News) -> Due {
        let problems = self.facts.node_problems();
        let due = self.facts.take(Event::Routing(news));
        self.tell_of_problems(&problems);
        due
    }

    /// Has the kernel resolve a neighbour that packets are for.
    pub(super) fn ask_for(&self, want: Want) {
        let setup = self.facts.cluster().setup();
        let mut uplinks = setup.map_or(&[][..], |it| &it.uplinks).iter();
        if let Some(uplink) = uplinks.find(|it| it.port == want.port) {
            self.router.want(LinkAddress {
                device: uplink.device,
                address: want.addr.ip(),
            });
        }
    }

    /// Has the kernel resolve the nodes that are neighbours on uplinks beside the first, whose own are looked after with it.
    pub(super) fn ask_for_peers(&self) {
        let snapshot = &self.tables.compiled.snapshot;
        for peer in snapshot.peers.iter().flatten() {
            let next = snapshot.world.to(snapshot.world.next_hop(&peer.vtep));
            let is_kept = |next: &NextHop| next.upkeep == Upkeep::Kept;
            match peer.port {
                Some(port) if port != UPLINK && !next.is_some_and(is_kept) => {
                    let addr = peer.vtep;
                    self.ask_for(Want { port, addr });
                }
                Some(_) | None => {}
            }
        }
    }
}

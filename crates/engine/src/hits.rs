//! What policies did: counted when a flow is decided or looked at again, never for the packets that follow.

use std::sync::Arc;

use podway_state::{Counters, Row};
use podway_tables::{Direction, EndpointId, RuleId};

/// Rules of one node that are counted apart.
const RULES: usize = 1 << 16;
/// Pods of one node whose isolation is counted apart.
const ENDPOINTS: usize = 1 << 12;

/// Something that decides about flows and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A rule that lets through or stops.
    Rule(RuleId),
    /// A pod's isolation in one direction: no rule let the packet through.
    Isolation(EndpointId, Direction),
    /// A rule or isolation of an observed policy, which would have stopped the flow.
    Observed(RuleId),
}

/// How often each cause decided: a row for each worker, of fixed size.
#[derive(Debug)]
pub struct Hits {
    counters: Arc<Counters>,
    places: Places,
}

/// A worker's row of them.
#[derive(Debug)]
pub(crate) struct OwnHits {
    row: Row,
    places: Places,
}

/// For how many of each kind there is room.
#[derive(Clone, Copy, Debug)]
struct Places {
    rules: usize,
    endpoints: usize,
}

impl Hits {
    /// Room for 65 536 rules and the isolation of 4 096 pods, for each of so many workers.
    pub fn new(workers: usize) -> Hits {
        Hits::with_room(workers, RULES, ENDPOINTS)
    }

    /// Without room: all is counted as what has none.
    pub fn brief() -> Hits {
        Hits::with_room(1, 0, 0)
    }

    fn with_room(workers: usize, rules: usize, endpoints: usize) -> Hits {
        Hits {
            counters: Arc::new(Counters::new(workers, 1 + 2 * rules + 2 * endpoints)),
            places: Places { rules, endpoints },
        }
    }

    /// How often a cause decided; `None` if there is no room for it.
    pub fn of(&self, cause: Cause) -> Option<u64> {
        Some(self.counters.total(self.places.of(cause)?))
    }

    /// How often causes decided that there is no room for.
    pub fn elsewhere(&self) -> u64 {
        self.counters.total(0)
    }

    /// A worker's row, if nobody has it.
    pub(crate) fn own(&self, worker: usize) -> OwnHits {
        OwnHits {
            row: self.counters.row(worker),
            places: self.places,
        }
    }
}

impl OwnHits {
    pub(crate) fn count(&self, cause: Cause) {
        self.row.add(self.places.of(cause).unwrap_or(0), 1);
    }
}

impl Places {
    fn of(&self, cause: Cause) -> Option<usize> {
        let below = |id: u32, limit: usize| Some(id as usize).filter(|place| *place < limit);
        let (start, place) = match cause {
            Cause::Rule(id) => (0, below(id.0, self.rules)?),
            Cause::Observed(id) => (self.rules, below(id.0, self.rules)?),
            Cause::Isolation(id, Direction::Ingress) => {
                (2 * self.rules, below(id.0, self.endpoints)?)
            }
            Cause::Isolation(id, Direction::Egress) => {
                let start = 2 * self.rules + self.endpoints;
                (start, below(id.0, self.endpoints)?)
            }
        };
        Some(1 + start + place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_place_of_its_own_and_the_rest_share_one() {
        let hits = Hits::with_room(2, 3, 2);
        let (rule, endpoint) = (RuleId, EndpointId);
        let isolation = |id, direction| Cause::Isolation(endpoint(id), direction);
        let all = [
            Cause::Rule(rule(0)),
            Cause::Rule(rule(2)),
            Cause::Observed(rule(0)),
            Cause::Observed(rule(2)),
            isolation(0, Direction::Ingress),
            isolation(1, Direction::Ingress),
            isolation(0, Direction::Egress),
            isolation(1, Direction::Egress),
        ];
        let workers = [0, 1].map(|worker| hits.own(worker));
        for (times, cause) in (1..).zip(all) {
            (0..times).for_each(|_| workers[times % 2].count(cause));
        }
        let counts: Vec<_> = all.iter().map(|cause| hits.of(*cause)).collect();
        assert_eq!(counts, (1..=8).map(Some).collect::<Vec<Option<u64>>>());
        let beyond = [
            Cause::Rule(rule(3)),
            Cause::Observed(rule(u32::MAX)),
            isolation(2, Direction::Egress),
        ];
        for cause in beyond {
            workers[0].count(cause);
            assert_eq!(hits.of(cause), None);
        }
        assert_eq!(hits.elsewhere(), 3);
    }
}

//! The flows that observed policies would have stopped, the last ones of each worker.

use podway_tables::{Direction, EndpointId, RuleId};
use podway_wire::FlowKey;

/// How many flows a worker keeps.
const PLACES: usize = 512;

/// A flow that an observed policy would have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// As policies judge it: from its first source to the target after DNAT.
    pub key: FlowKey,
    /// The pod whose policy it is.
    pub endpoint: EndpointId,
    /// From that pod's point of view.
    pub direction: Direction,
    /// The rule or isolation that would have stopped it.
    pub rule: RuleId,
    /// How often a flow like it was decided.
    pub times: u32,
    /// When the last time, on the clock of the engine's caller.
    pub seen_ms: u32,
}

/// The last flows, each at the place that its key gives: a new one takes the place of an older one.
#[derive(Debug)]
pub(crate) struct LastObserved {
    places: Box<[Option<Observed>]>,
}

/// Whether a flow was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    Anew,
    Again,
}

impl LastObserved {
    pub(crate) fn new() -> LastObserved {
        LastObserved {
            places: vec![None; PLACES].into(),
        }
    }

    /// Notes a flow.
    pub(crate) fn note(&mut self, seen: Observed) -> Noted {
        let hash = seen.key.entropy() ^ u64::from(seen.rule.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.places[(hash ^ hash >> 32) as usize % PLACES];
        let same = |before: &Observed| {
            (before.key, before.direction, before.rule, before.endpoint)
                == (seen.key, seen.direction, seen.rule, seen.endpoint)
        };
        let before = place.filter(same);
        *place = Some(Observed {
            times: before.map_or(seen.times, |it| it.times.saturating_add(seen.times)),
            ..seen
        });
        match before {
            Some(_) => Noted::Again,
            None => Noted::Anew,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Observed> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use podway_wire::{Addr, Protocol};

    use super::*;

    fn flow(port: u16, rule: u32) -> Observed {
        Observed {
            key: FlowKey {
                source: Addr::v4([10, 0, 0, 1]),
                target: Addr::v4([10, 0, 0, 2]),
                source_port: port,
                target_port: 80,
                protocol: Protocol::TCP,
            },
            endpoint: EndpointId(1),
            direction: Direction::Ingress,
            rule: RuleId(rule),
            times: 1,
            seen_ms: 7,
        }
    }

    #[test]
    fn a_flow_is_listed_once_with_how_often_it_came() {
        let mut last = LastObserved::new();
        assert_eq!(last.note(flow(1, 2)), Noted::Anew);
        let later = Observed {
            seen_ms: 9,
            ..flow(1, 2)
        };
        assert_eq!(last.note(later), Noted::Again);
        let expected = Observed { times: 2, ..later };
        assert_eq!(last.iter().collect::<Vec<_>>(), [&expected]);
        assert_eq!(last.note(flow(1, 3)), Noted::Anew, "by another rule");
    }

    #[test]
    fn a_flood_of_flows_takes_no_more_room_and_the_last_is_there() {
        let mut last = LastObserved::new();
        (0..u16::MAX).for_each(|port| {
            last.note(flow(port, 1));
        });
        assert!(last.iter().count() <= PLACES);
        assert!(last.iter().any(|it| *it == flow(u16::MAX - 1, 1)));
    }
}

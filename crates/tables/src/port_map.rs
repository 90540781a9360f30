//! Which rule decides at which port, of rules about the same peers.

use podway_wire::Protocol;

use crate::{Effect, Identity, PortMatch, PortNameId, Rule, RuleId};

/// A rule as an answer; the lower one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Answer {
    pub(crate) order: u32,
    pub(crate) id: Option<RuleId>,
    pub(crate) effect: Effect,
}

/// From ports to the first rule that covers them: ranges are cut where they overlap, so that at most one holds a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortMap {
    everything: Option<Answer>,
    /// In the order of protocols and ports.
    ranges: Box<[Range]>,
    /// In the order of judgement.
    named: Box<[(Protocol, PortNameId, Answer)]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    protocol: Protocol,
    first: u16,
    last: u16,
    answer: Answer,
}

impl PortMap {
    /// The map of these rules, which are in the order of judgement.
    pub(crate) fn new<'a>(rules: impl Iterator<Item = &'a Rule>) -> PortMap {
        let mut everything = None;
        let mut ranges = Vec::new();
        let mut named = Vec::new();
        for rule in rules {
            let answer = Answer {
                order: rule.rank.order,
                id: rule.id,
                effect: rule.effect,
            };
            for ports in rule.ports.iter() {
                match *ports {
                    PortMatch::Everything => everything = everything.or(Some(answer)),
                    PortMatch::Range(protocol, first, last) => {
                        let range = Range {
                            protocol,
                            first,
                            last,
                            answer,
                        };
                        fill(&mut ranges, range);
                    }
                    PortMatch::Named(protocol, name) => named.push((protocol, name, answer)),
                }
            }
            if everything.is_some() {
                // No later rule is ever asked.
                break;
            }
        }
        PortMap {
            everything,
            ranges: ranges.into(),
            named: named.into(),
        }
    }

    /// The first rule that covers a port; `identity` is the peer's, whose port it may be by name.
    #[inline]
    pub(crate) fn find(
        &self,
        identity: Option<&Identity>,
        protocol: Protocol,
        port: u16,
    ) -> Option<Answer> {
        let mut found = self.everything;
        let after = self
            .ranges
            .partition_point(|range| (range.protocol, range.first) <= (protocol, port));
        if let Some(range) = after.checked_sub(1).map(|index| &self.ranges[index])
            && range.protocol == protocol
            && port <= range.last
        {
            found = first(found, range.answer);
        }
        if let (Some(identity), false) = (identity, self.named.is_empty()) {
            let mut named = self.named.iter();
            let theirs = named.find(|(ours, name, _)| {
                *ours == protocol && identity.ports.contains(&(*name, protocol, port))
            });
            if let Some((_, _, answer)) = theirs {
                found = first(found, *answer);
            }
        }
        found
    }

    /// True if some rule goes by the names that peers give their ports.
    pub(crate) fn reads_names(&self) -> bool {
        !self.named.is_empty()
    }
}

/// The one of two answers that goes first.
#[inline]
pub(crate) fn first(one: Option<Answer>, other: Answer) -> Option<Answer> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Puts a range where no range is yet: those that are there go first.
fn fill(ranges: &mut Vec<Range>, range: Range) {
    let start = ranges.partition_point(|it| (it.protocol, it.last) < (range.protocol, range.first));
    let mut at = start;
    let mut from = Some(range.first);
    while let (Some(first), Some(taken)) = (from, ranges.get(at).copied()) {
        if taken.protocol != range.protocol || taken.first > range.last {
            break;
        }
        if first < taken.first {
            let last = taken.first - 1;
            ranges.insert(
                at,
                Range {
                    first,
                    last,
                    ..range
                },
            );
            at += 1;
        }
        from = taken.last.checked_add(1);
        at += 1;
    }
    if let Some(first) = from.filter(|first| *first <= range.last) {
        ranges.insert(at, Range { first, ..range });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Peers, Rank, Tier};

    fn ports() -> impl Strategy<Value = PortMatch> {
        let protocol = || prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP)];
        let port = || prop_oneof![0u16..12, (u16::MAX - 4)..=u16::MAX];
        prop_oneof![
            1 => Just(PortMatch::Everything),
            12 => (protocol(), port(), port())
                .prop_map(|(it, one, two)| PortMatch::Range(it, one.min(two), one.max(two))),
            2 => (protocol(), 0u32..2).prop_map(|(it, name)| PortMatch::Named(it, PortNameId(name))),
        ]
    }

    proptest! {
        #[test]
        fn the_first_rule_that_covers_a_port_is_found_as_in_a_scan(
            lists in prop::collection::vec(prop::collection::vec(ports(), 0..5), 0..8),
        ) {
            let rules: Vec<Rule> = (0u32..)
                .zip(&lists)
                .map(|(order, ports)| Rule {
                    rank: Rank { tier: Tier::Admin, order },
                    id: Some(RuleId(order)),
                    effect: Effect::Deny,
                    peers: [Peers::Everyone].into(),
                    ports: ports.as_slice().into(),
                })
                .collect();
            let map = PortMap::new(rules.iter());
            let identity = Identity {
                selectors: Vec::new(),
                ports: vec![(PortNameId(1), Protocol::TCP, 3)],
            };
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                for port in (0..14).chain(u16::MAX - 6..=u16::MAX) {
                    let covers = |ports: &PortMatch| match *ports {
                        PortMatch::Everything => true,
                        PortMatch::Range(ours, first, last) => {
                            ours == protocol && first <= port && port <= last
                        }
                        PortMatch::Named(ours, name) => {
                            ours == protocol && identity.ports.contains(&(name, protocol, port))
                        }
                    };
                    let naive = rules.iter().find(|rule| rule.ports.iter().any(covers));
                    let found = map.find(Some(&identity), protocol, port);
                    prop_assert_eq!(found.and_then(|it| it.id), naive.and_then(|it| it.id));
                }
            }
            let disjoint = map.ranges.windows(2).all(|pair| {
                (pair[0].protocol, pair[0].last) < (pair[1].protocol, pair[1].first)
            });
            prop_assert!(disjoint);
        }
    }
}

//! The rules of one pod and direction, by whom they are about.

use ipnet::IpNet;
use podway_wire::{Addr, Protocol};

use crate::{Identity, Judgement, PortNameId, PrefixMap, RuleId, SelectorId};

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Lets the connection through.
    Allow,
    /// Stops it.
    Deny,
}

/// Who a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peers {
    /// Every address.
    Everyone,
    /// The pods that the selector matches.
    Selected(SelectorId),
    /// The addresses of a range that are in none of its exceptions, pods among them.
    Block(IpNet, Vec<IpNet>),
}

/// Which of the target's ports a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Every protocol, with ports or without.
    Everything,
    /// The ports of a protocol from the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The peer's own port with this name.
    Named(Protocol, PortNameId),
}

/// One rule at one set of ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Its place in the order of judgement: the lowest that matches decides.
    pub rank: u32,
    /// What names it; `None` is the isolation that a policy means by selecting a pod.
    pub id: Option<RuleId>,
    /// What it does.
    pub effect: Effect,
    /// Who it is about.
    pub peers: Peers,
    /// Which ports it is about.
    pub ports: PortMatch,
}

/// What holds for a pod in one direction: rules, of which the lowest rank that matches decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    everyone: Vec<Entry>,
    /// In the order of selectors.
    selected: Vec<(SelectorId, Vec<Entry>)>,
    blocks: PrefixMap<Vec<Block>>,
    reads_names: bool,
}

/// A rule without its peers; the order is that of judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    rank: u32,
    id: Option<RuleId>,
    effect: Effect,
    ports: PortMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    entry: Entry,
    except: Vec<IpNet>,
}

impl Verdicts {
    /// The verdicts of these rules; their order doesn't matter, of equal ranks the lower rule id goes first.
    pub fn new(mut rules: Vec<Rule>) -> Verdicts {
        rules.sort();
        rules.dedup();
        let mut verdicts = Verdicts::default();
        for rule in rules {
            let entry = Entry {
                rank: rule.rank,
                id: rule.id,
                effect: rule.effect,
                ports: rule.ports,
            };
            verdicts.reads_names |= matches!(rule.ports, PortMatch::Named(..));
            match rule.peers {
                Peers::Everyone => verdicts.everyone.push(entry),
                Peers::Selected(selector) => verdicts.selected_mut(selector).push(entry),
                Peers::Block(range, except) => {
                    let blocks = verdicts.blocks.or_default(range);
                    blocks.push(Block { entry, except });
                }
            }
        }
        verdicts
    }

    /// The selectors that its rules name peers by, in order.
    pub fn selectors(&self) -> impl Iterator<Item = SelectorId> {
        self.selected.iter().map(|(selector, _)| *selector)
    }

    /// Judges a connection with `peer`, which is a pod of `identity`, if it is a pod.
    pub fn judge(
        &self,
        peer: &Addr,
        identity: Option<&Identity>,
        protocol: Protocol,
        port: u16,
    ) -> Judgement {
        let matches = |entry: &&Entry| entry.covers(identity, protocol, port);
        let everyone = self.everyone.iter().find(matches);
        let selected = self
            .matching(identity)
            .filter_map(|entries| entries.iter().find(matches));
        let blocks = self
            .blocks
            .covering(peer)
            .flat_map(|blocks| blocks.iter().filter(|block| block.holds(peer)))
            .map(|block| &block.entry)
            .filter(matches);
        let decisive = everyone.into_iter().chain(selected).chain(blocks).min();
        match decisive.map(|entry| (entry.effect, entry.id)) {
            None => Judgement::None,
            Some((Effect::Allow, Some(id))) => Judgement::Allow(id),
            Some((Effect::Allow, None)) => Judgement::None,
            Some((Effect::Deny, id)) => Judgement::Deny(id),
        }
    }

    /// True if some rule could tell the two apart: connections judged for the one have to be judged again for the other.
    pub fn distinguishes(&self, one: Option<&Identity>, other: Option<&Identity>) -> bool {
        let ports = |identity: Option<&Identity>| identity.map(|it| it.ports.clone());
        !self.matching(one).eq(self.matching(other))
            || self.reads_names && ports(one) != ports(other)
    }

    /// The entries of the selectors that match an identity, in the order of selectors.
    fn matching<'a>(
        &'a self,
        identity: Option<&'a Identity>,
    ) -> impl Iterator<Item = &'a Vec<Entry>> {
        let theirs = identity.map_or(&[][..], |identity| &identity.selectors);
        // Each of the shorter list is looked for in the longer one: either may be long.
        let (few_ours, few_theirs) = match theirs.len() < self.selected.len() {
            true => (&[][..], theirs),
            false => (&self.selected[..], &[][..]),
        };
        let by_ours = few_ours
            .iter()
            .filter(move |(selector, _)| theirs.binary_search(selector).is_ok());
        let by_theirs = few_theirs.iter().filter_map(|selector| {
            let found = self.selected.binary_search_by_key(selector, |(id, _)| *id);
            found.ok().map(|index| &self.selected[index])
        });
        by_ours.chain(by_theirs).map(|(_, entries)| entries)
    }

    /// The entries of a selector, made in their place if there are none.
    fn selected_mut(&mut self, selector: SelectorId) -> &mut Vec<Entry> {
        let found = self.selected.binary_search_by_key(&selector, |(id, _)| *id);
        let index = found.unwrap_or_else(|index| {
            self.selected.insert(index, (selector, Vec::new()));
            index
        });
        &mut self.selected[index].1
    }
}

impl Entry {
    #[inline]
    fn covers(&self, identity: Option<&Identity>, protocol: Protocol, port: u16) -> bool {
        match self.ports {
            PortMatch::Everything => true,
            PortMatch::Range(ours, first, last) => {
                ours == protocol && (first..=last).contains(&port)
            }
            PortMatch::Named(ours, name) => {
                let theirs = identity.map_or(&[][..], |identity| &identity.ports);
                ours == protocol && theirs.contains(&(name, protocol, port))
            }
        }
    }
}

impl Block {
    /// True if no exception takes the address out again.
    #[inline]
    fn holds(&self, peer: &Addr) -> bool {
        self.except.is_empty() || !self.except.iter().any(|range| range.contains(&peer.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(rank: u32, id: u32, effect: Effect, peers: Peers, ports: PortMatch) -> Rule {
        Rule {
            rank,
            id: Some(RuleId(id)),
            effect,
            peers,
            ports,
        }
    }

    fn isolation() -> Rule {
        Rule {
            rank: 9,
            id: None,
            effect: Effect::Deny,
            peers: Peers::Everyone,
            ports: PortMatch::Everything,
        }
    }

    const POD: Addr = Addr::UNSPECIFIED;

    #[test]
    fn the_lowest_rank_decides_over_all_ways_to_name_a_peer() {
        let net = |text: &str| -> IpNet { text.parse().expect("range") };
        let block = Peers::Block(net("10.0.0.0/8"), vec![net("10.9.0.0/16")]);
        let verdicts = Verdicts::new(vec![
            isolation(),
            rule(5, 1, Effect::Allow, block, PortMatch::Everything),
            rule(
                4,
                2,
                Effect::Deny,
                Peers::Selected(SelectorId(7)),
                PortMatch::Everything,
            ),
            rule(
                3,
                3,
                Effect::Allow,
                Peers::Everyone,
                PortMatch::Range(Protocol::TCP, 80, 90),
            ),
        ]);
        let marked = Identity {
            selectors: vec![SelectorId(2), SelectorId(7)],
            ports: Vec::new(),
        };
        let (inside, excepted) = (Addr::v4([10, 1, 1, 1]), Addr::v4([10, 9, 1, 1]));
        let judge = |peer, identity, port| verdicts.judge(peer, identity, Protocol::TCP, port);
        assert_eq!(judge(&inside, None, 22), Judgement::Allow(RuleId(1)));
        assert_eq!(judge(&excepted, None, 22), Judgement::Deny(None));
        assert_eq!(
            judge(&inside, Some(&marked), 22),
            Judgement::Deny(Some(RuleId(2)))
        );
        assert_eq!(
            judge(&inside, Some(&marked), 90),
            Judgement::Allow(RuleId(3))
        );
        assert_eq!(
            judge(&excepted, Some(&Identity::default()), 91),
            Judgement::Deny(None)
        );
        assert_eq!(
            verdicts.judge(&inside, Some(&marked), Protocol::UDP, 80),
            Judgement::Deny(Some(RuleId(2)))
        );
    }

    #[test]
    fn n7_a_named_port_is_the_peers_own() {
        let name = PortNameId(3);
        let named = PortMatch::Named(Protocol::TCP, name);
        let verdicts = Verdicts::new(vec![
            isolation(),
            rule(1, 1, Effect::Allow, Peers::Everyone, named),
        ]);
        let peer = |port| Identity {
            selectors: Vec::new(),
            ports: vec![(name, Protocol::TCP, port)],
        };
        let judge = |identity: Option<&Identity>, protocol, port| {
            verdicts.judge(&POD, identity, protocol, port)
        };
        assert_eq!(
            judge(Some(&peer(80)), Protocol::TCP, 80),
            Judgement::Allow(RuleId(1))
        );
        assert_eq!(
            judge(Some(&peer(81)), Protocol::TCP, 80),
            Judgement::Deny(None)
        );
        assert_eq!(
            judge(Some(&peer(80)), Protocol::UDP, 80),
            Judgement::Deny(None)
        );
        assert_eq!(judge(None, Protocol::TCP, 80), Judgement::Deny(None));
        assert!(verdicts.distinguishes(Some(&peer(80)), Some(&peer(81))));
    }

    #[test]
    fn identities_are_the_same_to_rules_that_name_neither() {
        let selected = |id| Peers::Selected(SelectorId(id));
        let verdicts = Verdicts::new(vec![
            isolation(),
            rule(1, 1, Effect::Allow, selected(4), PortMatch::Everything),
            rule(1, 2, Effect::Allow, selected(2), PortMatch::Everything),
        ]);
        let identity = |selectors: &[u32]| Identity {
            selectors: selectors.iter().copied().map(SelectorId).collect(),
            ports: vec![(PortNameId(0), Protocol::TCP, 1)],
        };
        assert_eq!(
            verdicts.selectors().collect::<Vec<_>>(),
            [SelectorId(2), SelectorId(4)]
        );
        assert!(!verdicts.distinguishes(Some(&identity(&[1, 3])), None));
        assert!(!verdicts.distinguishes(Some(&identity(&[1, 2, 4])), Some(&identity(&[2, 4, 5]))));
        assert!(verdicts.distinguishes(Some(&identity(&[2])), Some(&identity(&[2, 4]))));
        assert!(verdicts.distinguishes(Some(&identity(&[2])), None));
    }
}

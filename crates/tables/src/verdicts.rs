//! The rules of one pod and direction, by whom they are about.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::{Addr, Protocol};

use crate::port_map::{Answer, PortMap, first};
use crate::{Identity, Judgement, PortNameId, PrefixMap, RuleId, SelectorId};

/// Which rules are asked first (network-policy-api, ClusterNetworkPolicy v1alpha2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// ClusterNetworkPolicies that nobody overrides.
    Admin,
    /// NetworkPolicies; final for the pods that one selects.
    Namespaced,
    /// ClusterNetworkPolicies for pods that no NetworkPolicy selects.
    Baseline,
}

/// A rule's place in the order of judgement: of the rules that match, the lowest one decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rank {
    /// What is asked before it and after it.
    pub tier: Tier,
    /// Its place in the tier.
    pub order: u32,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Lets the connection through.
    Allow,
    /// Stops it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
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

/// One rule: any of its peers at any of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// Its place in the order of judgement; of equal ones the lower id goes first.
    pub rank: Rank,
    /// What names it; `None` is the isolation that a policy means by selecting a pod.
    pub id: Option<RuleId>,
    /// What it does.
    pub effect: Effect,
    /// Who it is about.
    pub peers: Arc<[Peers]>,
    /// Which ports it is about.
    pub ports: Arc<[PortMatch]>,
}

/// What holds for a pod in one direction: tiers, in each of which the lowest rank that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// In the order of judgement, without those that have no rules.
    stages: Vec<Stage>,
    reads_names: bool,
}

/// The rules of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stage {
    everyone: Arc<PortMap>,
    /// In the order of selectors.
    selected: Vec<(SelectorId, Arc<PortMap>)>,
    blocks: PrefixMap<Vec<Block>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    except: Vec<IpNet>,
    ports: Arc<PortMap>,
}

impl Verdicts {
    /// The verdicts of these rules, in whatever order they come.
    pub fn new(mut rules: Vec<Rule>) -> Verdicts {
        rules.sort_unstable_by_key(|rule| (rule.rank, rule.id, rule.effect));
        let stages: Vec<Stage> = rules
            .chunk_by(|one, other| one.rank.tier == other.rank.tier)
            .map(Stage::new)
            .collect();
        let reads_names = stages.iter().any(Stage::reads_names);
        Verdicts {
            stages,
            reads_names,
        }
    }

    /// The selectors that its rules name peers by; one may come twice.
    pub fn selectors(&self) -> impl Iterator<Item = SelectorId> {
        let all = self.stages.iter().flat_map(|stage| &stage.selected);
        all.map(|(selector, _)| *selector)
    }

    /// True if some rule goes by the names that peers give their ports.
    pub fn reads_names(&self) -> bool {
        self.reads_names
    }

    /// Judges a connection with `peer`, which is a pod of `identity`, if it is a pod.
    pub fn judge(
        &self,
        peer: &Addr,
        identity: Option<&Identity>,
        protocol: Protocol,
        port: u16,
    ) -> Judgement {
        for stage in &self.stages {
            let Some(answer) = stage.answer(peer, identity, protocol, port) else {
                continue;
            };
            match (answer.effect, answer.id) {
                (Effect::Pass, _) => {}
                (Effect::Allow, Some(id)) => return Judgement::Allow(id),
                (Effect::Allow, None) => return Judgement::None,
                (Effect::Deny, id) => return Judgement::Deny(id),
            }
        }
        Judgement::None
    }

    /// The rule with an id that stops a connection: the one that denies it, or the last that passed it on to a denial.
    pub fn denier(
        &self,
        peer: &Addr,
        identity: Option<&Identity>,
        protocol: Protocol,
        port: u16,
    ) -> Option<RuleId> {
        let mut passed = None;
        for stage in &self.stages {
            let Some(answer) = stage.answer(peer, identity, protocol, port) else {
                continue;
            };
            match answer.effect {
                Effect::Pass => passed = answer.id.or(passed),
                Effect::Allow => return None,
                Effect::Deny => return answer.id.or(passed),
            }
        }
        None
    }

    /// True if some rule could tell the two apart: connections judged for the one have to be judged again for the other.
    pub fn distinguishes(&self, one: Option<&Identity>, other: Option<&Identity>) -> bool {
        let ports = |identity: Option<&Identity>| identity.map(|it| it.ports.clone());
        let mut stages = self.stages.iter();
        stages.any(|stage| !stage.matching(one).eq(stage.matching(other)))
            || self.reads_names && ports(one) != ports(other)
    }
}

impl Stage {
    /// The tier of these rules, which are in the order of judgement.
    fn new(rules: &[Rule]) -> Stage {
        let mut everyone = Vec::new();
        let mut selected: BTreeMap<SelectorId, Vec<usize>> = BTreeMap::new();
        let mut blocks: BTreeMap<(IpNet, &[IpNet]), Vec<usize>> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            for peers in rule.peers.iter() {
                let about = match peers {
                    Peers::Everyone => &mut everyone,
                    Peers::Selected(selector) => selected.entry(*selector).or_default(),
                    Peers::Block(range, except) => {
                        blocks.entry((range.trunc(), except)).or_default()
                    }
                };
                if about.last() != Some(&index) {
                    about.push(index);
                }
            }
        }
        // Most peers share their rules with others of the same policy.
        let mut maps: HashMap<Vec<usize>, Arc<PortMap>> = HashMap::new();
        let mut map = |about: Vec<usize>| {
            if let Some(map) = maps.get(&about) {
                return map.clone();
            }
            let map = Arc::new(PortMap::new(about.iter().map(|index| &rules[*index])));
            maps.insert(about, map.clone());
            map
        };
        let mut stage = Stage {
            everyone: map(everyone),
            ..Stage::default()
        };
        for (selector, about) in selected {
            stage.selected.push((selector, map(about)));
        }
        for ((range, except), about) in blocks {
            let except = except.to_vec();
            let ports = map(about);
            stage.blocks.or_default(range).push(Block { except, ports });
        }
        stage
    }

    #[inline]
    fn answer(
        &self,
        peer: &Addr,
        identity: Option<&Identity>,
        protocol: Protocol,
        port: u16,
    ) -> Option<Answer> {
        let mut decisive = self.everyone.find(identity, protocol, port);
        for ports in self.matching(identity) {
            if let Some(answer) = ports.find(identity, protocol, port) {
                decisive = first(decisive, answer);
            }
        }
        let blocks = self.blocks.covering(peer).flatten();
        for block in blocks.filter(|block| block.holds(peer)) {
            if let Some(answer) = block.ports.find(identity, protocol, port) {
                decisive = first(decisive, answer);
            }
        }
        decisive
    }

    /// The ports of the selectors that match an identity, in the order of selectors.
    fn matching<'a>(
        &'a self,
        identity: Option<&'a Identity>,
    ) -> impl Iterator<Item = &'a Arc<PortMap>> {
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
        by_ours.chain(by_theirs).map(|(_, ports)| ports)
    }

    fn reads_names(&self) -> bool {
        let selected = self.selected.iter().map(|(_, ports)| ports);
        let blocks = self.blocks.values().flatten().map(|block| &block.ports);
        let mut all = selected.chain(blocks).chain([&self.everyone]);
        all.any(|ports| ports.reads_names())
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

    fn at(tier: Tier, order: u32) -> Rank {
        Rank { tier, order }
    }

    fn rule(rank: u32, id: u32, effect: Effect, peers: Peers, ports: PortMatch) -> Rule {
        Rule {
            rank: at(Tier::Namespaced, rank),
            id: Some(RuleId(id)),
            effect,
            peers: [peers].into(),
            ports: [ports].into(),
        }
    }

    fn isolation() -> Rule {
        Rule {
            rank: at(Tier::Namespaced, 9),
            id: None,
            effect: Effect::Deny,
            peers: [Peers::Everyone].into(),
            ports: [PortMatch::Everything].into(),
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

    #[test]
    fn a1_a3_tiers_are_asked_in_order_and_a_pass_leaves_its_own() {
        let everyone = |tier, order, id, effect| Rule {
            rank: at(tier, order),
            ..rule(0, id, effect, Peers::Everyone, PortMatch::Everything)
        };
        let pass_tcp = |tier, id| Rule {
            ports: [PortMatch::Range(Protocol::TCP, 0, u16::MAX)].into(),
            ..everyone(tier, 0, id, Effect::Pass)
        };
        let judge = |rules: &[Rule], protocol| {
            Verdicts::new(rules.to_vec()).judge(&POD, None, protocol, 80)
        };
        let (allow, deny) = (
            |id| Judgement::Allow(RuleId(id)),
            |id| Judgement::Deny(Some(RuleId(id))),
        );
        let admin = [
            pass_tcp(Tier::Admin, 1),
            everyone(Tier::Admin, 1, 2, Effect::Deny),
        ];
        let namespaced = [everyone(Tier::Namespaced, 0, 3, Effect::Allow), isolation()];
        let baseline = [
            pass_tcp(Tier::Baseline, 4),
            everyone(Tier::Baseline, 1, 5, Effect::Deny),
        ];
        let all = [&admin[..], &namespaced, &baseline].concat();
        assert_eq!(judge(&all, Protocol::TCP), allow(3));
        assert_eq!(judge(&all, Protocol::UDP), deny(2));
        let around = [&admin[..], &baseline].concat();
        assert_eq!(judge(&around, Protocol::TCP), Judgement::None);
        assert_eq!(judge(&baseline, Protocol::UDP), deny(5));
        let isolated = [&admin[..], &[isolation()], &baseline].concat();
        assert_eq!(judge(&isolated, Protocol::TCP), Judgement::Deny(None));
    }
}

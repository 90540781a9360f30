//! A policy's rules, made once for all the pods that it selects.

use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::{Direction, Effect, Peers, PortMatch, Rank, Rule, RuleId, Slots, Tier};
use podway_wire::Protocol;

use crate::identities::{Identities, Scope};
use crate::ids::Ids;
use crate::{
    Cluster, ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule,
    ClusterTier, Name, NamedPort, NetworkPolicy, PolicyMode, PolicyName, PolicyPeer, PolicyPort,
    PolicyRule, Ports, RuleName, RulePlace,
};

/// The protocols that a port's name may be of.
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// The order of a NetworkPolicy's isolation, which all rules are exceptions of.
const ISOLATION: u32 = 1;

/// A policy with its selectors and names as ids; only what is each selected pod's own is open.
#[derive(Debug)]
pub(super) struct Prepared {
    tier: Tier,
    pub(super) mode: PolicyMode,
    ingress: Option<List>,
    egress: Option<List>,
}

/// The rules of a direction.
#[derive(Debug)]
pub(super) struct List {
    rules: Vec<PreparedRule>,
    /// What isolation is called; of NetworkPolicies only.
    isolation: Option<RuleId>,
}

#[derive(Debug)]
struct PreparedRule {
    id: RuleId,
    effect: Effect,
    peers: Arc<[Peers]>,
    ports: Arc<[PortMatch]>,
    /// Ports by the names that the selected pod itself gives them.
    own_ports: Vec<(Protocol, Arc<str>)>,
}

impl Prepared {
    /// The rules of a direction; `None` if it has nothing to say there.
    pub(super) fn rules(&self, direction: Direction) -> Option<&List> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }

    /// True if its rules differ with the named ports of the pod that it selects.
    pub(super) fn reads_own_ports(&self) -> bool {
        let lists = self.ingress.iter().chain(&self.egress);
        let mut rules = lists.flat_map(|list| &list.rules);
        rules.any(|rule| !rule.own_ports.is_empty())
    }
}

/// What of rules is named in verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Every rule, but not isolation: it is of all policies that isolate.
    Rules,
    /// All that observed policies mean, and nothing of others.
    Observed,
}

/// The rules of policies in the order of judgement, for a pod with these named ports.
pub(super) fn rules(
    policies: &[&Prepared],
    direction: Direction,
    own: &[NamedPort],
    named: Named,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut isolating = Vec::new();
    let mut order = 0;
    for policy in policies {
        let Some(list) = policy.rules(direction) else {
            continue;
        };
        isolating.extend(
            list.isolation
                .map(|id| (policy.mode == PolicyMode::Observe, id)),
        );
        for rule in &list.rules {
            let order = match policy.tier {
                // Allows are a union (N1).
                Tier::Namespaced => 0,
                Tier::Admin | Tier::Baseline => {
                    order += 1;
                    order
                }
            };
            rules.push(Rule {
                rank: Rank {
                    tier: policy.tier,
                    order,
                },
                id: match (named, policy.mode) {
                    (Named::Rules, _) | (Named::Observed, PolicyMode::Observe) => Some(rule.id),
                    (Named::Observed, PolicyMode::Enforce) => None,
                },
                effect: rule.effect,
                peers: rule.peers.clone(),
                ports: rule.ports_of(own),
            });
        }
    }
    // What is in force anyway goes before what is only observed.
    isolating.sort_by_key(|(observed, _)| *observed);
    rules.extend(isolating.first().map(|(observed, id)| Rule {
        rank: Rank {
            tier: Tier::Namespaced,
            order: ISOLATION,
        },
        id: (named == Named::Observed && *observed).then_some(*id),
        effect: Effect::Deny,
        peers: [Peers::Everyone].into(),
        ports: [PortMatch::Everything].into(),
    }));
    rules
}

impl PreparedRule {
    fn ports_of(&self, own: &[NamedPort]) -> Arc<[PortMatch]> {
        if self.own_ports.is_empty() {
            return self.ports.clone();
        }
        let mut ports = self.ports.to_vec();
        for (protocol, name) in &self.own_ports {
            let named = own
                .iter()
                .filter(|it| it.name == *name && it.protocol == *protocol);
            ports.extend(named.map(|it| PortMatch::Range(*protocol, it.port, it.port)));
        }
        ports.into()
    }
}

/// Where policies are written to.
pub(super) struct Writing<'a> {
    pub(super) identities: &'a mut Identities,
    pub(super) rules: &'a mut Ids<RuleName>,
    pub(super) names: &'a mut Slots<RuleName>,
}

impl Writing<'_> {
    /// A NetworkPolicy.
    pub(super) fn namespaced(&mut self, policy: &NetworkPolicy) -> Prepared {
        let mut list = |direction, rules: &Option<Vec<PolicyRule>>| {
            let rules = rules.as_ref()?;
            let name = |place| rule_name(policy, direction, place);
            let isolation = Some(self.id(name(RulePlace::Isolation)));
            let rules = (0..).zip(rules).map(|(index, rule)| {
                let id = self.id(name(RulePlace::Rule(index)));
                self.namespaced_rule(id, rule, direction, &policy.name)
            });
            let rules = rules.collect();
            Some(List { rules, isolation })
        };
        let ingress = list(Direction::Ingress, &policy.ingress);
        let egress = list(Direction::Egress, &policy.egress);
        Prepared {
            tier: Tier::Namespaced,
            mode: policy.mode,
            ingress,
            egress,
        }
    }

    /// A ClusterNetworkPolicy.
    pub(super) fn cluster(&mut self, policy: &ClusterNetworkPolicy, cluster: &Cluster) -> Prepared {
        let mut list = |direction, rules: &[ClusterRule]| {
            let rules = (0..).zip(rules).filter_map(|(index, rule)| {
                let name = cluster_rule_name(policy, direction, index);
                self.cluster_rule(name, rule, direction, cluster)
            });
            let rules: Vec<PreparedRule> = rules.collect();
            let isolation = None;
            (!rules.is_empty()).then_some(List { rules, isolation })
        };
        let ingress = list(Direction::Ingress, &policy.ingress);
        let egress = list(Direction::Egress, &policy.egress);
        Prepared {
            tier: match policy.tier {
                ClusterTier::Admin => Tier::Admin,
                ClusterTier::Baseline => Tier::Baseline,
            },
            mode: policy.mode,
            ingress,
            egress,
        }
    }

    fn namespaced_rule(
        &mut self,
        id: RuleId,
        rule: &PolicyRule,
        direction: Direction,
        policy: &Name,
    ) -> PreparedRule {
        let peers = match &rule.peers {
            None => vec![Peers::Everyone],
            Some(peers) => peers
                .iter()
                .map(|peer| match peer {
                    PolicyPeer::Pods { namespaces, pods } => {
                        let scope = Scope::of(policy, namespaces, pods);
                        Peers::Selected(self.identities.selector(scope))
                    }
                    PolicyPeer::Block { range, except } => Peers::Block(*range, except.clone()),
                })
                .collect(),
        };
        let mut own_ports = Vec::new();
        let ports = match &rule.ports {
            None => vec![PortMatch::Everything],
            Some(ports) => ports
                .iter()
                .filter_map(|port| self.port(port, direction, &mut own_ports))
                .collect(),
        };
        PreparedRule {
            id,
            effect: Effect::Allow,
            peers: peers.into(),
            ports: ports.into(),
            own_ports,
        }
    }

    fn port(
        &mut self,
        port: &PolicyPort,
        direction: Direction,
        own_ports: &mut Vec<(Protocol, Arc<str>)>,
    ) -> Option<PortMatch> {
        let protocol = port.protocol;
        match &port.ports {
            Ports::All => Some(PortMatch::Range(protocol, 0, u16::MAX)),
            Ports::Range(first, last) => Some(PortMatch::Range(protocol, *first, *last)),
            Ports::Named(name) => self.named(protocol, name, direction, own_ports),
        }
    }

    /// A name is the target's own: of the pod itself on ingress, of the peer on egress (N7).
    fn named(
        &mut self,
        protocol: Protocol,
        name: &Arc<str>,
        direction: Direction,
        own_ports: &mut Vec<(Protocol, Arc<str>)>,
    ) -> Option<PortMatch> {
        match direction {
            Direction::Egress => Some(PortMatch::Named(protocol, self.identities.port_name(name))),
            Direction::Ingress => {
                own_ports.push((protocol, name.clone()));
                None
            }
        }
    }

    /// A rule; one that is not understood fails closed: it accepts nobody, or denies everybody (A4).
    fn cluster_rule(
        &mut self,
        name: RuleName,
        rule: &ClusterRule,
        direction: Direction,
        cluster: &Cluster,
    ) -> Option<PreparedRule> {
        let effect = match rule.action {
            ClusterAction::Accept => Effect::Allow,
            ClusterAction::Deny => Effect::Deny,
            ClusterAction::Pass => Effect::Pass,
        };
        let mut own_ports = Vec::new();
        let understood = self.cluster_peers(&rule.peers, cluster).and_then(|peers| {
            let ports = self.cluster_ports(rule.ports.as_deref(), direction, &mut own_ports)?;
            Some((peers, ports))
        });
        let (effect, peers, ports) = match (understood, rule.action) {
            (Some((peers, ports)), _) => (effect, peers, ports),
            (None, ClusterAction::Accept) => return None,
            (None, ClusterAction::Deny | ClusterAction::Pass) => {
                own_ports.clear();
                (
                    Effect::Deny,
                    vec![Peers::Everyone],
                    vec![PortMatch::Everything],
                )
            }
        };
        Some(PreparedRule {
            id: self.id(name),
            effect,
            peers: peers.into(),
            ports: ports.into(),
            own_ports,
        })
    }

    /// `None` if they are not understood.
    fn cluster_peers(&mut self, peers: &[ClusterPeer], cluster: &Cluster) -> Option<Vec<Peers>> {
        let mut all = Vec::new();
        for peer in peers {
            match peer {
                ClusterPeer::Pods(set) => {
                    let selector = self.identities.selector(Scope::of_set(set));
                    all.push(Peers::Selected(selector));
                }
                ClusterPeer::Nodes(selector) => {
                    let nodes = cluster.nodes.iter().map(|(_, node)| node);
                    let nodes = nodes.filter(|node| selector.matches(&node.labels));
                    let addresses = nodes.flat_map(|node| node.addresses.iter());
                    all.extend(addresses.map(|ip| Peers::Block(IpNet::from(*ip), Vec::new())));
                }
                ClusterPeer::Networks(ranges) if !ranges.is_empty() => {
                    all.extend(ranges.iter().map(|range| Peers::Block(*range, Vec::new())));
                }
                ClusterPeer::Networks(_) | ClusterPeer::Unknown => return None,
            }
        }
        (!peers.is_empty()).then_some(all)
    }

    /// `None` if they are not understood.
    fn cluster_ports(
        &mut self,
        ports: Option<&[ClusterPort]>,
        direction: Direction,
        own_ports: &mut Vec<(Protocol, Arc<str>)>,
    ) -> Option<Vec<PortMatch>> {
        let Some(ports) = ports else {
            return Some(vec![PortMatch::Everything]);
        };
        let mut all = Vec::new();
        for port in ports {
            match port {
                ClusterPort::Range(protocol, first, last) => {
                    all.push(PortMatch::Range(*protocol, *first, *last));
                }
                ClusterPort::Named(name) => {
                    let named = PROTOCOLS.map(|it| self.named(it, name, direction, own_ports));
                    all.extend(named.into_iter().flatten());
                }
                ClusterPort::Unknown => return None,
            }
        }
        (!ports.is_empty()).then_some(all)
    }

    fn id(&mut self, name: RuleName) -> RuleId {
        let (id, _) = self.rules.assign(&name);
        if self.names.get(id) != Some(&name) {
            self.names.set(id, Some(name));
        }
        RuleId(id)
    }
}

/// What the rules of a NetworkPolicy are called.
pub(super) fn names_of_rules(policy: &NetworkPolicy) -> impl Iterator<Item = RuleName> {
    let lists = [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ];
    lists.into_iter().flat_map(move |(direction, rules)| {
        let count = rules.as_ref().map_or(0, Vec::len) as u32;
        let isolation = rules.is_some().then_some(RulePlace::Isolation);
        let places = (0..count).map(RulePlace::Rule).chain(isolation);
        places.map(move |place| rule_name(policy, direction, place))
    })
}

/// What the rules of a ClusterNetworkPolicy are called.
pub(super) fn names_of_cluster_rules(
    policy: &ClusterNetworkPolicy,
) -> impl Iterator<Item = RuleName> {
    let lists = [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ];
    lists.into_iter().flat_map(move |(direction, rules)| {
        let places = 0..rules.len() as u32;
        places.map(move |index| cluster_rule_name(policy, direction, index))
    })
}

fn rule_name(policy: &NetworkPolicy, direction: Direction, place: RulePlace) -> RuleName {
    RuleName {
        policy: PolicyName::Namespaced(policy.name.clone()),
        direction,
        place,
    }
}

fn cluster_rule_name(policy: &ClusterNetworkPolicy, direction: Direction, index: u32) -> RuleName {
    RuleName {
        policy: PolicyName::Cluster(policy.tier, policy.name.clone()),
        direction,
        place: RulePlace::Rule(index),
    }
}

//! NetworkPolicies become verdicts of the pods on this node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podway_tables::{
    Direction, Effect, EndpointId, IdentityId, Peers, Policies, PortMatch, Rule, RuleId, Slots,
    Snapshot, Verdicts,
};
use podway_wire::Addr;

use crate::identities::{Identities, Scope, Traits};
use crate::ids::Ids;
use crate::pods::PodTable;
use crate::round::Round;
use crate::topology::Topology;
use crate::{NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Ports, RuleName};

/// Ranks: NetworkPolicy rules, then the isolation that they are exceptions of. Tiers that come
/// before (Admin) have lower ones, tiers that come after (Baseline) higher ones.
const RANK_RULE: u32 = 1 << 16;
const RANK_ISOLATION: u32 = RANK_RULE + 1;

/// What is remembered of policies from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct PolicyTable {
    /// The names of policies by namespace.
    in_namespace: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    identities: Identities,
    rules: Ids<RuleName>,
    /// What holds for each identity that a pod here has.
    verdicts: BTreeMap<IdentityId, Both>,
}

/// The verdicts of both directions; `None` where no policy isolates.
#[derive(Clone, Debug, Default, PartialEq)]
struct Both {
    ingress: Option<Arc<Verdicts>>,
    egress: Option<Arc<Verdicts>>,
}

impl PolicyTable {
    /// Brings identities and verdicts up to date; `addresses` are those whose owner or whose owner's labels may differ.
    pub(crate) fn update(
        &mut self,
        round: &Round<'_>,
        topology: &Topology,
        pods: &PodTable,
        addresses: &BTreeSet<Addr>,
        snapshot: &mut Snapshot,
        names: &mut Slots<RuleName>,
    ) {
        let before = snapshot.policies.clone();
        for addr in addresses {
            let owner = pods.owner(topology, addr);
            let pod = owner.and_then(|name| round.now.pods.get(name));
            self.identities
                .set_address(*addr, pod.map(Arc::as_ref), &mut snapshot.policies);
        }
        let subjects = self.subjects(pods, snapshot);
        let dirty = self.renew_index(round);
        self.renew_verdicts(round, &subjects, &dirty, names);
        self.release_rules(round, names);
        let used = self.verdicts.values().flat_map(Both::each);
        let used = used
            .flat_map(|(_, verdicts)| verdicts.selectors())
            .collect();
        let rewritten = self.identities.update(
            round.now,
            &used,
            &round.touched.namespaces,
            &mut snapshot.policies,
        );
        let differing = self.differing(&before, &snapshot.policies, addresses, &rewritten);
        self.publish(round, &subjects, &differing, snapshot);
    }

    /// The identity of each pod on this node.
    fn subjects(
        &self,
        pods: &PodTable,
        snapshot: &Snapshot,
    ) -> BTreeMap<EndpointId, Option<IdentityId>> {
        let slots = (0..).map(EndpointId).zip(&snapshot.endpoints);
        let mut subjects: BTreeMap<_, _> = slots.map(|(id, _)| (id, None)).collect();
        for (_, id) in pods.endpoints() {
            let endpoint = snapshot.endpoint(id);
            let first = endpoint.and_then(|endpoint| endpoint.addresses.first());
            subjects.insert(id, first.and_then(|addr| self.identities.of(addr)));
        }
        subjects
    }

    /// Notes which namespaces have which policies; gives the namespaces where one differs.
    fn renew_index(&mut self, round: &Round<'_>) -> BTreeSet<Arc<str>> {
        for name in &round.touched.policies {
            let policies = self.in_namespace.entry(name.namespace.clone()).or_default();
            match round.now.policies.get(name) {
                Some(_) => policies.insert(name.name.clone()),
                None => policies.remove(&name.name),
            };
        }
        self.in_namespace.retain(|_, policies| !policies.is_empty());
        let touched = round.touched.policies.iter();
        touched.map(|name| name.namespace.clone()).collect()
    }

    fn renew_verdicts(
        &mut self,
        round: &Round<'_>,
        subjects: &BTreeMap<EndpointId, Option<IdentityId>>,
        dirty: &BTreeSet<Arc<str>>,
        names: &mut Slots<RuleName>,
    ) {
        let here: BTreeSet<IdentityId> = subjects.values().flatten().copied().collect();
        let mut old = std::mem::take(&mut self.verdicts);
        for id in here {
            let Some(traits) = self.identities.traits(id).cloned() else {
                continue;
            };
            let kept = old
                .remove(&id)
                .filter(|_| !dirty.contains(&traits.namespace));
            let both = kept.unwrap_or_else(|| self.both(round, &traits, names));
            self.verdicts.insert(id, both);
        }
    }

    /// The verdicts of pods with these traits.
    fn both(&mut self, round: &Round<'_>, traits: &Traits, names: &mut Slots<RuleName>) -> Both {
        let all = self.in_namespace.get(&traits.namespace);
        let policies: Vec<Arc<NetworkPolicy>> = all
            .into_iter()
            .flatten()
            .filter_map(|name| {
                let namespace = traits.namespace.clone();
                let name = name.clone();
                round.now.policies.get(&crate::Name { namespace, name })
            })
            .filter(|policy| policy.subject.matches(&traits.labels))
            .cloned()
            .collect();
        let mut direction = |direction, rules: fn(&NetworkPolicy) -> &Option<Vec<PolicyRule>>| {
            let mut compiled = Vec::new();
            let mut isolated = false;
            for policy in &policies {
                for (index, rule) in rules(policy).iter().flatten().enumerate() {
                    let name = RuleName {
                        policy: policy.name.clone(),
                        direction,
                        index: index as u32,
                    };
                    self.rule(name, rule, traits, names, &mut compiled);
                }
                isolated |= rules(policy).is_some();
            }
            isolated.then(|| {
                compiled.push(isolation());
                Arc::new(Verdicts::new(compiled))
            })
        };
        Both {
            ingress: direction(Direction::Ingress, |policy| &policy.ingress),
            egress: direction(Direction::Egress, |policy| &policy.egress),
        }
    }

    /// One rule, once for each pair of a peer and a port that it names (N3, N4).
    fn rule(
        &mut self,
        name: RuleName,
        rule: &PolicyRule,
        traits: &Traits,
        names: &mut Slots<RuleName>,
        compiled: &mut Vec<Rule>,
    ) {
        let (id, _) = self.rules.assign(&name);
        if names.get(id) != Some(&name) {
            names.set(id, Some(name.clone()));
        }
        let ports: Vec<PortMatch> = match &rule.ports {
            None => vec![PortMatch::Everything],
            Some(ports) => ports
                .iter()
                .flat_map(|port| self.ports(port, name.direction, traits))
                .collect(),
        };
        let peers: Vec<Peers> = match &rule.peers {
            None => vec![Peers::Everyone],
            Some(peers) => peers
                .iter()
                .map(|peer| match peer {
                    PolicyPeer::Pods { namespaces, pods } => {
                        let scope = Scope::of(&name.policy, namespaces, pods);
                        Peers::Selected(self.identities.selector(scope))
                    }
                    PolicyPeer::Block { range, except } => Peers::Block(*range, except.clone()),
                })
                .collect(),
        };
        for peers in peers {
            compiled.extend(ports.iter().map(|ports| Rule {
                rank: RANK_RULE,
                id: Some(RuleId(id)),
                effect: Effect::Allow,
                peers: peers.clone(),
                ports: *ports,
            }));
        }
    }

    /// A rule's ports; a name is the target's own: of the pod itself on ingress, of the peer on egress (N7).
    fn ports(
        &mut self,
        port: &PolicyPort,
        direction: Direction,
        traits: &Traits,
    ) -> Vec<PortMatch> {
        let protocol = port.protocol;
        match (&port.ports, direction) {
            (Ports::All, _) => vec![PortMatch::Range(protocol, 0, u16::MAX)],
            (Ports::Range(first, last), _) => vec![PortMatch::Range(protocol, *first, *last)],
            (Ports::Named(name), Direction::Egress) => {
                vec![PortMatch::Named(protocol, self.identities.port_name(name))]
            }
            (Ports::Named(name), Direction::Ingress) => {
                let own = traits.ports.iter();
                own.filter(|own| own.name == *name && own.protocol == protocol)
                    .map(|own| PortMatch::Range(protocol, own.port, own.port))
                    .collect()
            }
        }
    }

    /// Frees the ids of rules that are no longer written anywhere.
    fn release_rules(&mut self, round: &Round<'_>, names: &mut Slots<RuleName>) {
        for policy in &round.touched.policies {
            for direction in [Direction::Ingress, Direction::Egress] {
                let count = |policy: Option<&Arc<NetworkPolicy>>| {
                    let rules = policy.and_then(|policy| match direction {
                        Direction::Ingress => policy.ingress.as_ref(),
                        Direction::Egress => policy.egress.as_ref(),
                    });
                    rules.map_or(0, Vec::len) as u32
                };
                let now = count(round.now.policies.get(policy));
                for index in now..count(round.before.policies.get(policy)) {
                    let name = RuleName {
                        policy: policy.clone(),
                        direction,
                        index,
                    };
                    if let Some(id) = self.rules.release(&name) {
                        names.set(id, None);
                    }
                }
            }
        }
    }

    /// The identities whose verdicts tell some peer that changed apart from what it was.
    fn differing(
        &self,
        before: &Policies,
        now: &Policies,
        addresses: &BTreeSet<Addr>,
        rewritten: &BTreeSet<IdentityId>,
    ) -> BTreeSet<IdentityId> {
        let moved = addresses
            .iter()
            .map(|addr| (before.identity_id(addr), now.identity_id(addr)));
        let same = rewritten.iter().map(|id| (Some(*id), Some(*id)));
        let ids: BTreeSet<_> = moved.chain(same).collect();
        let records = ids.iter().map(|(one, other)| {
            let then = one.and_then(|id| before.record(id));
            (then, other.and_then(|id| now.record(id)))
        });
        let pairs: Vec<_> = records.filter(|(then, now)| then != now).collect();
        let tells = |both: &Both| {
            let mut verdicts = both.each();
            verdicts.any(|(_, verdicts)| {
                let mut pairs = pairs.iter();
                pairs.any(|(then, now)| verdicts.distinguishes(*then, *now))
            })
        };
        let all = self.verdicts.iter().filter(|(_, both)| tells(both));
        all.map(|(id, _)| *id).collect()
    }

    /// Gives each pod here its verdicts, and a new generation if connections have to be judged again (N12).
    fn publish(
        &self,
        round: &Round<'_>,
        subjects: &BTreeMap<EndpointId, Option<IdentityId>>,
        differing: &BTreeSet<IdentityId>,
        snapshot: &mut Snapshot,
    ) {
        for (id, identity) in subjects {
            let both = identity.and_then(|identity| self.verdicts.get(&identity));
            let both = both.cloned().unwrap_or_default();
            let was = |direction| snapshot.policies.verdicts(*id, direction).cloned();
            let was = Both {
                ingress: was(Direction::Ingress),
                egress: was(Direction::Egress),
            };
            let told_apart = identity.is_some_and(|identity| differing.contains(&identity));
            if let Some(Some(endpoint)) = snapshot.endpoints.get_mut(id.0 as usize)
                && (both != was || told_apart)
            {
                endpoint.generation = round.sequence;
            }
            if both != was {
                let policies = &mut snapshot.policies;
                policies.set_subject(*id, both.ingress, both.egress);
            }
        }
    }
}

impl Both {
    fn each(&self) -> impl Iterator<Item = (Direction, &Arc<Verdicts>)> {
        let ingress = self.ingress.iter().map(|it| (Direction::Ingress, it));
        ingress.chain(self.egress.iter().map(|it| (Direction::Egress, it)))
    }
}

/// What a policy means for all connections that no rule allows (N1).
fn isolation() -> Rule {
    Rule {
        rank: RANK_ISOLATION,
        id: None,
        effect: Effect::Deny,
        peers: Peers::Everyone,
        ports: PortMatch::Everything,
    }
}

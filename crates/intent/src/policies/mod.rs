//! Policies of both kinds become verdicts of the pods on this node.

mod prepare;
mod users;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podway_tables::{
    Direction, EndpointId, IdentityId, Judged, Policies, Slots, Snapshot, Verdicts,
};
use podway_wire::Addr;

use crate::identities::{Identities, Traits};
use crate::ids::Ids;
use crate::pods::PodTable;
use crate::policies::prepare::{Named, Prepared, names_of_cluster_rules, names_of_rules};
use crate::policies::users::Users;
use crate::round::Round;
use crate::topology::Topology;
use crate::{
    ClusterNetworkPolicy, ClusterPeer, ClusterTier, Labels, Name, NamedPort, PodSet, PolicyMode,
    PolicyName, RuleName,
};

/// What is remembered of policies from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct PolicyTable {
    /// The names of NetworkPolicies by namespace.
    in_namespace: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    identities: Identities,
    rules: Ids<RuleName>,
    /// What holds for each identity that a pod here has.
    verdicts: BTreeMap<IdentityId, Both>,
    users: Users,
}

/// The verdicts of both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Both {
    ingress: Judged,
    egress: Judged,
}

/// Whose verdicts have to be made anew.
struct Dirty {
    namespaces: BTreeSet<Arc<str>>,
    subjects: Vec<PodSet>,
}

/// The policies and verdicts that one round has made so far: pods that the same policies select share them.
struct Workshop<'a> {
    /// In the order of judgement.
    cluster_policies: Vec<&'a ClusterNetworkPolicy>,
    prepared: Vec<Prepared>,
    of_policy: HashMap<PolicyName, usize>,
    made: HashMap<(Vec<usize>, Arc<[NamedPort]>), Both>,
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
        let subjects = subjects(pods, snapshot);
        let dirty = self.renew_index(round);
        let renewed = self.renew_verdicts(round, &subjects, &dirty, names);
        self.release_rules(round, names);
        let users = &mut self.users;
        let retired = users.take_retired();
        let rewritten = self.identities.update(
            round.now,
            retired,
            |selector| users.has(selector),
            &round.touched.namespaces,
            &mut snapshot.policies,
        );
        let mut differing = self.differing(&before, &snapshot.policies, addresses, &rewritten);
        differing.extend(renewed);
        self.publish(round, &subjects, &differing, snapshot);
    }

    /// Notes which namespaces have which policies; gives whom a policy that differs may select.
    fn renew_index(&mut self, round: &Round<'_>) -> Dirty {
        let touched = &round.touched;
        for name in &touched.policies {
            let policies = self.in_namespace.entry(name.namespace.clone()).or_default();
            match round.now.policies.get(name) {
                Some(_) => policies.insert(name.name.clone()),
                None => policies.remove(&name.name),
            };
        }
        self.in_namespace.retain(|_, policies| !policies.is_empty());
        let names = touched.policies.iter();
        let mut namespaces: BTreeSet<_> = names.map(|name| name.namespace.clone()).collect();
        let mut subjects = Vec::new();
        for name in &touched.cluster_policies {
            let policies = [&round.before.cluster_policies, &round.now.cluster_policies];
            let versions = policies.into_iter().filter_map(|all| all.get(name));
            subjects.extend(versions.map(|policy| policy.subject.clone()));
        }
        if !round.now.cluster_policies.is_empty() {
            // Their subjects go by the labels of namespaces, and peers by those of nodes.
            namespaces.extend(touched.namespaces.iter().cloned());
            let all = round.now.cluster_policies.iter().map(|(_, policy)| policy);
            let about_nodes =
                all.filter(|policy| policy.names_nodes() && !touched.nodes.is_empty());
            subjects.extend(about_nodes.map(|policy| policy.subject.clone()));
        }
        Dirty {
            namespaces,
            subjects,
        }
    }

    /// Gives each identity here its verdicts; those whose verdicts are not what they were are returned.
    fn renew_verdicts(
        &mut self,
        round: &Round<'_>,
        subjects: &BTreeMap<EndpointId, Option<IdentityId>>,
        dirty: &Dirty,
        names: &mut Slots<RuleName>,
    ) -> BTreeSet<IdentityId> {
        let here: BTreeSet<IdentityId> = subjects.values().flatten().copied().collect();
        let mut old = std::mem::take(&mut self.verdicts);
        let mut workshop = Workshop::new(round);
        let mut renewed = BTreeSet::new();
        for id in here {
            let Some(traits) = self.identities.traits(id).cloned() else {
                continue;
            };
            let labels = round.now.namespace_labels(&traits.namespace);
            let kept = old.remove(&id);
            if let Some(kept) = kept.as_ref().filter(|_| !dirty.has(&traits, &labels)) {
                self.verdicts.insert(id, kept.clone());
                continue;
            }
            let both = self.both(round, &traits, &labels, &mut workshop, names);
            if kept.as_ref() != Some(&both) {
                self.users.replace(id, &kept.unwrap_or_default(), &both);
                renewed.insert(id);
            }
            self.verdicts.insert(id, both);
        }
        for (id, both) in old {
            self.users.replace(id, &both, &Both::default());
        }
        renewed
    }

    /// The verdicts of pods with these traits.
    fn both(
        &mut self,
        round: &Round<'_>,
        traits: &Traits,
        labels: &Labels,
        workshop: &mut Workshop<'_>,
        names: &mut Slots<RuleName>,
    ) -> Both {
        let mut selected = Vec::new();
        let own = self.in_namespace.get(&traits.namespace);
        let own: Vec<Arc<str>> = own.into_iter().flatten().cloned().collect();
        let mut cluster = std::mem::take(&mut workshop.cluster_policies);
        let matching = |policy: &&&ClusterNetworkPolicy| policy.subject.has(traits, labels);
        let (admin, baseline): (Vec<_>, Vec<_>) = cluster
            .iter()
            .filter(matching)
            .partition(|policy| policy.tier == ClusterTier::Admin);
        for policy in admin {
            selected.push(self.prepared_cluster(round, policy, workshop, names));
        }
        for name in own {
            let namespace = traits.namespace.clone();
            let policy = round.now.policies.get(&Name { namespace, name });
            let policy = policy.filter(|policy| policy.subject.matches(&traits.labels));
            selected.extend(policy.map(|policy| {
                let name = PolicyName::Namespaced(policy.name.clone());
                workshop.prepared(name, || self.writing(names).namespaced(policy))
            }));
        }
        for policy in baseline {
            selected.push(self.prepared_cluster(round, policy, workshop, names));
        }
        std::mem::swap(&mut workshop.cluster_policies, &mut cluster);
        workshop.both(selected, traits)
    }

    fn prepared_cluster(
        &mut self,
        round: &Round<'_>,
        policy: &ClusterNetworkPolicy,
        workshop: &mut Workshop<'_>,
        names: &mut Slots<RuleName>,
    ) -> usize {
        let name = PolicyName::Cluster(policy.tier, policy.name.clone());
        workshop.prepared(name, || self.writing(names).cluster(policy, round.now))
    }

    fn writing<'a>(&'a mut self, names: &'a mut Slots<RuleName>) -> prepare::Writing<'a> {
        prepare::Writing {
            identities: &mut self.identities,
            rules: &mut self.rules,
            names,
        }
    }

    /// Frees the ids of rules that are no longer written anywhere.
    fn release_rules(&mut self, round: &Round<'_>, names: &mut Slots<RuleName>) {
        let mut gone = Vec::new();
        for name in &round.touched.policies {
            let rules = |policy| names_of_rules(policy).collect::<BTreeSet<_>>();
            let now = round.now.policies.get(name).map(|it| rules(it));
            let before = round.before.policies.get(name).map(|it| rules(it));
            gone.extend(&before.unwrap_or_default() - &now.unwrap_or_default());
        }
        for name in &round.touched.cluster_policies {
            let rules = |policy| names_of_cluster_rules(policy).collect::<BTreeSet<_>>();
            let now = round.now.cluster_policies.get(name).map(|it| rules(it));
            let before = round.before.cluster_policies.get(name).map(|it| rules(it));
            gone.extend(&before.unwrap_or_default() - &now.unwrap_or_default());
        }
        for name in gone {
            if let Some(id) = self.rules.release(&name) {
                names.set(id, None);
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
        let mut differing = BTreeSet::new();
        for (one, other) in ids {
            let then = one.and_then(|id| before.record(id));
            let now = other.and_then(|id| now.record(id));
            if then == now {
                continue;
            }
            for id in self.users.concerned(then, now) {
                let both = self.verdicts.get(&id);
                let mut verdicts = both.into_iter().flat_map(Both::each);
                if !differing.contains(&id) && verdicts.any(|it| it.distinguishes(then, now)) {
                    differing.insert(id);
                }
            }
        }
        differing
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
            let both = both.map_or_else(|| Cow::Owned(Both::default()), Cow::Borrowed);
            let nothing = Judged::default();
            let was = |direction| snapshot.policies.judged(*id, direction).unwrap_or(&nothing);
            let is_same =
                both.ingress == *was(Direction::Ingress) && both.egress == *was(Direction::Egress);
            let told_apart = identity.is_some_and(|identity| differing.contains(&identity));
            if let Some(Some(endpoint)) = snapshot.endpoints.get_mut(id.0 as usize)
                && (!is_same || told_apart)
            {
                endpoint.generation = round.sequence;
            }
            if !is_same {
                let Both { ingress, egress } = both.into_owned();
                snapshot.policies.set_subject(*id, ingress, egress);
            }
        }
    }
}

impl<'a> Workshop<'a> {
    fn new(round: &'a Round<'_>) -> Workshop<'a> {
        let all = round.now.cluster_policies.iter();
        let mut cluster_policies: Vec<_> = all.map(|(_, policy)| policy.as_ref()).collect();
        // Equal priorities go by name (A2).
        cluster_policies.sort_unstable_by_key(|it| (it.tier, it.priority, &it.name));
        Workshop {
            cluster_policies,
            prepared: Vec::new(),
            of_policy: HashMap::new(),
            made: HashMap::new(),
        }
    }

    /// The place of a policy among the prepared ones, where it is put if it isn't there.
    fn prepared(&mut self, name: PolicyName, prepare: impl FnOnce() -> Prepared) -> usize {
        if let Some(place) = self.of_policy.get(&name) {
            return *place;
        }
        let place = self.prepared.len();
        self.prepared.push(prepare());
        self.of_policy.insert(name, place);
        place
    }

    /// The verdicts of a pod that these policies, in the order of judgement, select.
    fn both(&mut self, selected: Vec<usize>, traits: &Traits) -> Both {
        let reads_own = selected
            .iter()
            .any(|it| self.prepared[*it].reads_own_ports());
        let own = match reads_own {
            true => traits.ports.clone(),
            false => [].into(),
        };
        let key = (selected, own);
        if let Some(both) = self.made.get(&key) {
            return both.clone();
        }
        let policies: Vec<&Prepared> = key.0.iter().map(|it| &self.prepared[*it]).collect();
        let judged = |direction| {
            let enforced = |it: &&Prepared| it.mode == PolicyMode::Enforce;
            let in_force: Vec<&Prepared> = policies.iter().copied().filter(enforced).collect();
            let mut all = policies.iter();
            let observes = all.any(|it| !enforced(it) && it.rules(direction).is_some());
            Judged {
                enforced: verdicts(&in_force, direction, &key.1, Named::Rules),
                observed: observes
                    .then(|| verdicts(&policies, direction, &key.1, Named::Observed))
                    .flatten(),
            }
        };
        let both = Both {
            ingress: judged(Direction::Ingress),
            egress: judged(Direction::Egress),
        };
        self.made.insert(key, both.clone());
        both
    }
}

/// The identity of each pod on this node.
fn subjects(pods: &PodTable, snapshot: &Snapshot) -> BTreeMap<EndpointId, Option<IdentityId>> {
    let slots = (0..).map(EndpointId).zip(&snapshot.endpoints);
    let mut subjects: BTreeMap<_, _> = slots.map(|(id, _)| (id, None)).collect();
    for (_, id) in pods.endpoints() {
        let endpoint = snapshot.endpoint(id);
        let first = endpoint.and_then(|endpoint| endpoint.addresses.first());
        subjects.insert(
            id,
            first.and_then(|addr| snapshot.policies.identity_id(addr)),
        );
    }
    subjects
}

/// What policies in the order of judgement make of a pod with these named ports; `None` if they have nothing to say.
fn verdicts(
    policies: &[&Prepared],
    direction: Direction,
    own: &[NamedPort],
    named: Named,
) -> Option<Arc<Verdicts>> {
    let rules = prepare::rules(policies, direction, own, named);
    (!rules.is_empty()).then(|| Arc::new(Verdicts::new(rules)))
}

impl Both {
    fn each(&self) -> impl Iterator<Item = &Arc<Verdicts>> {
        let all = [&self.ingress, &self.egress].into_iter();
        all.flat_map(|judged| [judged.enforced.as_ref(), judged.observed.as_ref()])
            .flatten()
    }
}

impl Dirty {
    fn has(&self, traits: &Traits, labels: &Labels) -> bool {
        let mut subjects = self.subjects.iter();
        self.namespaces.contains(&traits.namespace)
            || subjects.any(|subject| subject.has(traits, labels))
    }
}

impl PodSet {
    /// True if pods with these traits, in a namespace with these labels, are among them.
    fn has(&self, traits: &Traits, namespace: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(&traits.labels)
    }
}

impl ClusterNetworkPolicy {
    fn names_nodes(&self) -> bool {
        let rules = self.ingress.iter().chain(&self.egress);
        let mut peers = rules.flat_map(|rule| &rule.peers);
        peers.any(|peer| matches!(peer, ClusterPeer::Nodes(_)))
    }
}

//! Pods become identities: what selectors and named ports can tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podway_tables::{Identity, IdentityId, Policies, PortNameId, SelectorId};
use podway_wire::Addr;

use crate::ids::{Assigned, Ids};
use crate::{Cluster, Labels, Name, NamedPort, Pod, PodSet, Requirement, Selector};

/// What makes an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Traits {
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Arc<Labels>,
    pub(crate) ports: Arc<[NamedPort]>,
}

/// The pods that a rule's peer names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) namespaces: Namespaces,
    pub(crate) pods: Selector,
}

/// The namespaces that a rule's peer names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Namespaces {
    One(Arc<str>),
    Matching(Selector),
}

/// The identities of all pods, and which selectors in use match which.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    ids: Ids<Arc<Traits>>,
    traits: HashMap<IdentityId, Member>,
    by_namespace: BTreeMap<Arc<str>, BTreeSet<IdentityId>>,
    selectors: Ids<Scope>,
    port_names: Ids<Arc<str>>,
    /// Identities without a record yet.
    fresh: BTreeSet<IdentityId>,
    /// Identities that may have lost their last address.
    idle: BTreeSet<IdentityId>,
    scopes: HashMap<SelectorId, Scope>,
    anchored: HashMap<Anchor, BTreeSet<SelectorId>>,
    /// Selectors that no identity has been held against yet.
    unmatched: BTreeSet<SelectorId>,
}

/// One thing that all pods of a scope have, so that few scopes have to be held against a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Anchor {
    Namespace(Arc<str>),
    NamespaceLabel(Arc<str>, Arc<str>),
    PodLabel(Arc<str>, Arc<str>),
    Nothing,
}

#[derive(Debug)]
struct Member {
    traits: Arc<Traits>,
    addresses: usize,
}

impl Identities {
    /// Gives an address to a pod, or with `None` to nobody.
    pub(crate) fn set_address(&mut self, addr: Addr, pod: Option<&Pod>, policies: &mut Policies) {
        let id = pod.map(|pod| self.identity(pod));
        let before = policies.identity_id(&addr);
        if before == id {
            return;
        }
        if let Some(member) = id.and_then(|id| self.traits.get_mut(&id)) {
            member.addresses += 1;
        }
        if let Some(before) = before
            && let Some(member) = self.traits.get_mut(&before)
        {
            member.addresses -= 1;
            self.idle.insert(before);
        }
        policies.set_address(addr, id);
    }

    /// What an identity is made of.
    pub(crate) fn traits(&self, id: IdentityId) -> Option<&Arc<Traits>> {
        self.traits.get(&id).map(|member| &member.traits)
    }

    /// The id of a selector, which from now on is in use.
    pub(crate) fn selector(&mut self, scope: Scope) -> SelectorId {
        let (id, assigned) = self.selectors.assign(&scope);
        let id = SelectorId(id);
        match assigned {
            Assigned::Now => {
                self.unmatched.insert(id);
                for anchor in scope.anchors() {
                    self.anchored.entry(anchor).or_default().insert(id);
                }
                self.scopes.insert(id, scope);
            }
            Assigned::Before => {}
        }
        id
    }

    /// The id of a port's name.
    pub(crate) fn port_name(&mut self, name: &Arc<str>) -> PortNameId {
        PortNameId(self.port_names.assign(name).0)
    }

    /// Brings the records of identities up to date; gives those that were rewritten.
    ///
    /// `retired` are the selectors that may be in use no longer, `namespaces` those whose labels may differ.
    pub(crate) fn update(
        &mut self,
        cluster: &Cluster,
        retired: BTreeSet<SelectorId>,
        is_used: impl Fn(SelectorId) -> bool,
        namespaces: &[Arc<str>],
        policies: &mut Policies,
    ) -> BTreeSet<IdentityId> {
        self.forget_idle(policies);
        let mut stale = std::mem::take(&mut self.fresh);
        for namespace in namespaces {
            stale.extend(self.by_namespace.get(namespace).into_iter().flatten());
        }
        let unmatched = std::mem::take(&mut self.unmatched);
        for id in unmatched.union(&retired) {
            let scope = match is_used(*id) {
                true if unmatched.contains(id) => self.scopes.get(id).cloned(),
                true => None,
                false => self.release(*id),
            };
            if stale.len() < self.traits.len() {
                stale.extend(scope.iter().flat_map(|scope| self.inside(cluster, scope)));
            }
        }
        for id in &stale {
            let record = self.record(cluster, *id).map(Arc::new);
            policies.set_identity(*id, record);
        }
        stale
    }

    /// Forgets a selector.
    fn release(&mut self, id: SelectorId) -> Option<Scope> {
        let scope = self.scopes.remove(&id)?;
        self.selectors.release(&scope);
        for anchor in scope.anchors() {
            if let Some(ids) = self.anchored.get_mut(&anchor) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.anchored.remove(&anchor);
                }
            }
        }
        Some(scope)
    }

    /// The identity of a pod, made if there is none yet.
    fn identity(&mut self, pod: &Pod) -> IdentityId {
        let traits = Arc::new(Traits {
            namespace: pod.name.namespace.clone(),
            labels: pod.labels.clone(),
            ports: in_order(&pod.ports),
        });
        let (id, assigned) = self.ids.assign(&traits);
        let id = IdentityId(id);
        match assigned {
            Assigned::Before => {}
            Assigned::Now => {
                self.fresh.insert(id);
                let namespace = self.by_namespace.entry(traits.namespace.clone());
                namespace.or_default().insert(id);
                let addresses = 0;
                self.traits.insert(id, Member { traits, addresses });
            }
        }
        id
    }

    fn forget_idle(&mut self, policies: &mut Policies) {
        for id in std::mem::take(&mut self.idle) {
            let Some(member) = self.traits.get(&id).filter(|member| member.addresses == 0) else {
                continue;
            };
            let traits = member.traits.clone();
            self.ids.release(&traits);
            self.traits.remove(&id);
            self.fresh.remove(&id);
            if let Some(siblings) = self.by_namespace.get_mut(&traits.namespace) {
                siblings.remove(&id);
                if siblings.is_empty() {
                    self.by_namespace.remove(&traits.namespace);
                }
            }
            policies.set_identity(id, None);
        }
    }

    /// The identities that a scope names.
    fn inside(&self, cluster: &Cluster, scope: &Scope) -> Vec<IdentityId> {
        let namespaces: Vec<&BTreeSet<IdentityId>> = match &scope.namespaces {
            Namespaces::One(name) => self.by_namespace.get(name).into_iter().collect(),
            Namespaces::Matching(selector) => {
                let all = self.by_namespace.iter();
                all.filter(|(name, _)| selector.matches(&cluster.namespace_labels(name)))
                    .map(|(_, ids)| ids)
                    .collect()
            }
        };
        let ids = namespaces.into_iter().flatten().copied();
        ids.filter(|id| {
            self.traits(*id)
                .is_some_and(|it| scope.pods.matches(&it.labels))
        })
        .collect()
    }

    /// What rules see of an identity: the selectors in use that match it, and its ports.
    fn record(&mut self, cluster: &Cluster, id: IdentityId) -> Option<Identity> {
        let traits = self.traits(id)?.clone();
        let labels = cluster.namespace_labels(&traits.namespace);
        let candidates = anchors_of(&traits, &labels).filter_map(|it| self.anchored.get(&it));
        let matching = candidates.flatten().copied().filter(|id| {
            let scope = self.scopes.get(id);
            scope.is_some_and(|scope| scope.has(&traits, &labels))
        });
        let mut selectors: Vec<SelectorId> = matching.collect();
        selectors.sort_unstable();
        selectors.dedup();
        let named = traits.ports.iter();
        let ports = named
            .map(|it| (self.port_name(&it.name), it.protocol, it.port))
            .collect();
        Some(Identity { selectors, ports })
    }
}

/// The ports in order and without repetition; those that are so already are shared.
fn in_order(ports: &Arc<[NamedPort]>) -> Arc<[NamedPort]> {
    if ports.is_sorted_by(|one, next| one < next) {
        return ports.clone();
    }
    ports
        .iter()
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// What a pod can be found by.
fn anchors_of<'a>(traits: &'a Traits, namespace: &'a Labels) -> impl Iterator<Item = Anchor> + 'a {
    let outer = namespace.iter();
    let outer = outer.map(|(key, value)| Anchor::NamespaceLabel(key.clone(), value.clone()));
    let inner = traits.labels.iter();
    let inner = inner.map(|(key, value)| Anchor::PodLabel(key.clone(), value.clone()));
    let alone = [Anchor::Namespace(traits.namespace.clone()), Anchor::Nothing];
    alone.into_iter().chain(outer).chain(inner)
}

/// A label that a selector asks for, with its possible values.
fn required(selector: &Selector) -> Option<(&Arc<str>, &[Arc<str>])> {
    selector.requirements.iter().find_map(|one| match one {
        Requirement::In(key, values) => Some((key, values.as_slice())),
        Requirement::NotIn(..) | Requirement::Exists(_) | Requirement::Absent(_) => None,
    })
}

impl Scope {
    /// The scope of a peer in a policy of `policy`'s namespace (N3).
    pub(crate) fn of(policy: &Name, namespaces: &Option<Selector>, pods: &Selector) -> Scope {
        Scope {
            namespaces: match namespaces {
                Some(selector) => Namespaces::Matching(selector.clone()),
                None => Namespaces::One(policy.namespace.clone()),
            },
            pods: pods.clone(),
        }
    }

    /// The scope of a cluster-wide policy's peer.
    pub(crate) fn of_set(set: &PodSet) -> Scope {
        Scope {
            namespaces: Namespaces::Matching(set.namespaces.clone()),
            pods: set.pods.clone(),
        }
    }

    /// True if pods with these traits, in a namespace with these labels, are among them.
    fn has(&self, traits: &Traits, labels: &Labels) -> bool {
        let inside = match &self.namespaces {
            Namespaces::One(name) => *name == traits.namespace,
            Namespaces::Matching(selector) => selector.matches(labels),
        };
        inside && self.pods.matches(&traits.labels)
    }

    /// Each of its pods has one of these.
    fn anchors(&self) -> Vec<Anchor> {
        let by = |(key, values): (&Arc<str>, &[Arc<str>]),
                  anchor: fn(Arc<str>, Arc<str>) -> Anchor| {
            let all = values
                .iter()
                .map(|value| anchor(key.clone(), value.clone()));
            all.collect()
        };
        match &self.namespaces {
            Namespaces::One(name) => vec![Anchor::Namespace(name.clone())],
            Namespaces::Matching(selector) => match (required(selector), required(&self.pods)) {
                (Some(label), _) => by(label, Anchor::NamespaceLabel),
                (None, Some(label)) => by(label, Anchor::PodLabel),
                (None, None) => vec![Anchor::Nothing],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PodNetwork, PodPhase};

    fn pod(app: &str) -> Pod {
        Pod {
            name: Name {
                namespace: "a".into(),
                name: app.into(),
            },
            uid: "".into(),
            node: None,
            labels: Labels::from([("app".into(), app.into())]).into(),
            addresses: Vec::new(),
            ports: [].into(),
            host_ports: Vec::new(),
            network: PodNetwork::Own,
            phase: PodPhase::Alive,
        }
    }

    #[test]
    fn identities_and_selectors_that_nobody_needs_are_forgotten() {
        let (mut identities, mut policies) = (Identities::default(), Policies::default());
        let cluster = Cluster::default();
        let scope = Scope {
            namespaces: Namespaces::One("a".into()),
            pods: Selector::default(),
        };
        let selector = identities.selector(scope);
        let addr = Addr::v4([10, 244, 1, 10]);
        for round in 0..100 {
            let pod = pod(&format!("app-{round}"));
            identities.set_address(addr, Some(&pod), &mut policies);
            identities.update(&cluster, BTreeSet::new(), |_| true, &[], &mut policies);
            let seen = policies.identity(&addr).expect("an identity");
            assert_eq!(seen.selectors, [selector]);
            assert!(policies.identity_id(&addr) <= Some(IdentityId(1)));
        }
        identities.update(&cluster, [selector].into(), |_| false, &[], &mut policies);
        let seen = policies.identity(&addr).expect("an identity");
        assert_eq!(seen.selectors, []);
        identities.set_address(addr, None, &mut policies);
        identities.update(&cluster, BTreeSet::new(), |_| false, &[], &mut policies);
        assert_eq!(policies.identity(&addr), None);
        assert!(identities.traits.is_empty() && identities.by_namespace.is_empty());
        assert_eq!((0..9).find_map(|id| policies.record(IdentityId(id))), None);
    }
}

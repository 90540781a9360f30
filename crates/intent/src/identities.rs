//! Pods become identities: what selectors and named ports can tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podway_tables::{Identity, IdentityId, Policies, PortNameId, SelectorId};
use podway_wire::Addr;

use crate::ids::{Assigned, Ids};
use crate::{Cluster, Labels, Name, NamedPort, Pod, Selector};

/// The label that every namespace has, whatever its source says.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// What makes an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Traits {
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Labels,
    pub(crate) ports: Vec<NamedPort>,
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
    of_address: HashMap<Addr, IdentityId>,
    by_namespace: BTreeMap<Arc<str>, BTreeSet<IdentityId>>,
    selectors: Ids<Scope>,
    port_names: Ids<Arc<str>>,
    /// Identities without a record yet.
    fresh: BTreeSet<IdentityId>,
    /// Identities that may have lost their last address.
    idle: BTreeSet<IdentityId>,
    /// Selectors that no identity has been held against yet.
    unmatched: Vec<(SelectorId, Scope)>,
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
        let before = self.of_address.get(&addr).copied();
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
        match id {
            Some(id) => self.of_address.insert(addr, id),
            None => self.of_address.remove(&addr),
        };
        policies.set_address(addr, id);
    }

    /// The identity behind an address.
    pub(crate) fn of(&self, addr: &Addr) -> Option<IdentityId> {
        self.of_address.get(addr).copied()
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
            Assigned::Now => self.unmatched.push((id, scope)),
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
    /// `used` are the selectors that any rule still needs, `namespaces` those whose labels may differ.
    pub(crate) fn update(
        &mut self,
        cluster: &Cluster,
        used: &BTreeSet<SelectorId>,
        namespaces: &[Arc<str>],
        policies: &mut Policies,
    ) -> BTreeSet<IdentityId> {
        self.forget_idle(policies);
        let mut stale = std::mem::take(&mut self.fresh);
        for namespace in namespaces {
            stale.extend(self.by_namespace.get(namespace).into_iter().flatten());
        }
        let gone: Vec<Scope> = self
            .selectors
            .iter()
            .filter(|(_, id)| !used.contains(&SelectorId(*id)))
            .map(|(scope, _)| scope.clone())
            .collect();
        let mut unmatched = std::mem::take(&mut self.unmatched);
        unmatched.extend(gone.iter().filter_map(|scope| {
            let id = self.selectors.release(scope)?;
            Some((SelectorId(id), scope.clone()))
        }));
        for (_, scope) in &unmatched {
            stale.extend(self.inside(cluster, scope));
        }
        for id in &stale {
            let record = self.record(cluster, *id).map(Arc::new);
            policies.set_identity(*id, record);
        }
        stale
    }

    /// The identity of a pod, made if there is none yet.
    fn identity(&mut self, pod: &Pod) -> IdentityId {
        let mut ports = pod.ports.clone();
        ports.sort_unstable();
        ports.dedup();
        let traits = Arc::new(Traits {
            namespace: pod.name.namespace.clone(),
            labels: pod.labels.clone(),
            ports,
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
                all.filter(|(name, _)| selector.matches(&namespace_labels(cluster, name)))
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
        let labels = namespace_labels(cluster, &traits.namespace);
        let matching = self.selectors.iter().filter(|(scope, _)| {
            let inside = match &scope.namespaces {
                Namespaces::One(name) => *name == traits.namespace,
                Namespaces::Matching(selector) => selector.matches(&labels),
            };
            inside && scope.pods.matches(&traits.labels)
        });
        let mut selectors: Vec<SelectorId> = matching.map(|(_, id)| SelectorId(id)).collect();
        selectors.sort_unstable();
        let named = traits.ports.iter();
        let ports = named
            .map(|it| (self.port_name(&it.name), it.protocol, it.port))
            .collect();
        Some(Identity { selectors, ports })
    }
}

/// The labels of a namespace, its name among them even if nobody told us about it (N16).
fn namespace_labels(cluster: &Cluster, name: &Arc<str>) -> Labels {
    let known = cluster.namespaces.get(name);
    let mut labels = known.map_or_else(Labels::new, |it| it.labels.clone());
    labels.insert(METADATA_NAME.into(), name.clone());
    labels
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
            labels: [("app".into(), app.into())].into(),
            addresses: Vec::new(),
            ports: Vec::new(),
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
            identities.update(&cluster, &[selector].into(), &[], &mut policies);
            let seen = policies.identity(&addr).expect("an identity");
            assert_eq!(seen.selectors, [selector]);
            assert!(identities.of(&addr) <= Some(IdentityId(1)));
        }
        identities.update(&cluster, &BTreeSet::new(), &[], &mut policies);
        let seen = policies.identity(&addr).expect("an identity");
        assert_eq!(seen.selectors, []);
        identities.set_address(addr, None, &mut policies);
        identities.update(&cluster, &BTreeSet::new(), &[], &mut policies);
        assert_eq!(policies.identity(&addr), None);
        assert!(identities.traits.is_empty() && identities.by_namespace.is_empty());
        assert_eq!((0..9).find_map(|id| policies.record(IdentityId(id))), None);
    }
}

//! What stays in force while a namespace goes: its policies may be deleted before its pods (N18, CVE-2024-7598).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Cluster, Namespace, NamespacePhase, NetworkPolicy, PodPhase};

/// The namespaces that are being deleted, with the policies that they had when that began.
///
/// This is the one thing that the facts of now don't say: a policy that goes before its namespace is known to go, goes.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    namespaces: BTreeMap<Arc<str>, Remains>,
    last: Cluster,
}

/// What a namespace was.
#[derive(Debug)]
struct Remains {
    namespace: Arc<Namespace>,
    policies: Vec<Arc<NetworkPolicy>>,
}

impl Lingering {
    /// The cluster with what is deleted in it but has to hold until the last pod is gone.
    pub(crate) fn in_force(&mut self, now: &Cluster) -> Cluster {
        for name in now.namespaces.changed(&self.last.namespaces) {
            let namespace = now.namespaces.get(&name);
            match namespace.map(|it| (it, it.phase)) {
                Some((namespace, NamespacePhase::Terminating)) => {
                    self.begin(name, namespace.clone());
                }
                Some((_, NamespacePhase::Active)) => drop(self.namespaces.remove(&name)),
                // It may only be told of before the last of its pods.
                None => {}
            }
        }
        self.last = now.clone();
        if self.namespaces.is_empty() {
            return now.clone();
        }
        self.namespaces.retain(|name, _| has_pods(now, name));
        let mut in_force = now.clone();
        for (name, remains) in &self.namespaces {
            if in_force.namespaces.get(name).is_none() {
                let namespace = remains.namespace.clone();
                in_force.namespaces.insert(name.clone(), namespace);
            }
            for policy in &remains.policies {
                if in_force.policies.get(&policy.name).is_none() {
                    let name = policy.name.clone();
                    in_force.policies.insert(name, policy.clone());
                }
            }
        }
        in_force
    }

    /// Notes what a namespace has: as it was just before, for some of it may have gone already.
    fn begin(&mut self, name: Arc<str>, namespace: Arc<Namespace>) {
        let all = self.last.policies.iter().map(|(_, policy)| policy);
        let own = all.filter(|policy| policy.name.namespace == name);
        let policies = own.cloned().collect();
        let remains = Remains {
            namespace,
            policies,
        };
        self.namespaces.entry(name).or_insert(remains);
    }
}

fn has_pods(cluster: &Cluster, namespace: &Arc<str>) -> bool {
    let mut pods = cluster.pods.iter().map(|(_, pod)| pod);
    pods.any(|pod| pod.name.namespace == *namespace && pod.phase == PodPhase::Alive)
}

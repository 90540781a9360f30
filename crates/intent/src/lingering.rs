//! What stays in force while something goes: a namespace's policies may be deleted before its pods (N18, CVE-2024-7598),
//! and a pod before its device, by which it still ends its connections (F18).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Attachment, Cluster, Name, Namespace, NamespacePhase, NetworkPolicy, Pod, PodNetwork, PodPhase,
};

/// The namespaces that are being deleted, with the policies that they had when that began, and the pods here that are
/// over and still have their devices.
///
/// This is the one thing that the facts of now don't say: a policy that goes before its namespace is known to go, goes.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    namespaces: BTreeMap<Arc<str>, Remains>,
    pods: BTreeMap<Name, Ending>,
    last: Cluster,
}

/// A pod as it was when the cluster had heard the last of it.
#[derive(Debug)]
struct Ending {
    pod: Arc<Pod>,
    attachment: Arc<Attachment>,
}

/// What a namespace was.
#[derive(Debug)]
struct Remains {
    namespace: Arc<Namespace>,
    policies: Vec<Arc<NetworkPolicy>>,
}

impl Lingering {
    /// The cluster with what is deleted in it but has to hold until the last pod is gone.
    pub(crate) fn in_force(&mut self, now: &Cluster, node: &Arc<str>) -> Cluster {
        let mut in_force = now.clone();
        self.end_pods(now, node);
        for (name, ending) in &self.pods {
            in_force.pods.insert(name.clone(), ending.pod.clone());
        }
        self.keep_policies(now, &mut in_force);
        self.last = now.clone();
        in_force
    }

    /// Notes pods whose wires are still here after them, and forgets them with their wires.
    fn end_pods(&mut self, now: &Cluster, node: &Arc<str>) {
        for name in now.pods.changed(&self.last.pods) {
            let (Some(pod), Some(attachment)) =
                (self.last.pods.get(&name), now.attachments.get(&name))
            else {
                continue;
            };
            if lives(pod) && pod.network == PodNetwork::Own && pod.node.as_ref() == Some(node) {
                let pod = Pod {
                    phase: PodPhase::Ending,
                    ..Pod::clone(pod)
                };
                let ending = Ending {
                    pod: Arc::new(pod),
                    attachment: attachment.clone(),
                };
                self.pods.entry(name).or_insert(ending);
            }
        }
        self.pods.retain(|name, ending| {
            let same_wire = now.attachments.get(name) == Some(&ending.attachment);
            same_wire && now.pods.get(name).is_none_or(|pod| !lives(pod))
        });
    }

    /// Puts what namespaces had when they began to go where they have it no more.
    fn keep_policies(&mut self, now: &Cluster, in_force: &mut Cluster) {
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
        if self.namespaces.is_empty() {
            return;
        }
        self.namespaces.retain(|name, _| has_pods(in_force, name));
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
    pods.any(|pod| match pod.phase {
        PodPhase::Alive | PodPhase::Leaving | PodPhase::Ending => pod.name.namespace == *namespace,
        PodPhase::Ended => false,
    })
}

fn lives(pod: &Pod) -> bool {
    match pod.phase {
        PodPhase::Alive | PodPhase::Leaving => true,
        PodPhase::Ending | PodPhase::Ended => false,
    }
}

//! Workloads as the pods that their controllers would make.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podway_intent::Selector;

use super::{Cluster, daemon, pods};
use crate::fields::{label_value, labels, selector};
use crate::object::{is_stored, title};
use crate::problem::Findings;
use crate::workload::Count;
use crate::{Place, Workload};

/// Adds the pods of every workload: `name-0`, `name-1`, … and those of DaemonSets by their nodes.
///
/// What is there already is not made again: a workload that an API server gave out has its pods beside it, if they were
/// dumped at all, and what another workload owns is that one's matter.
pub(super) fn expand(cluster: &mut Cluster) {
    let workloads = std::mem::take(&mut cluster.workloads);
    let titles: BTreeSet<String> = workloads
        .iter()
        .map(|(workload, _)| title(workload.kind(), workload.metadata()))
        .collect();
    let given = Given::of(&cluster.pods);
    // Names that are fixed go before those that are free.
    let (fixed, free): (Vec<_>, Vec<_>) = workloads
        .iter()
        .partition(|(workload, _)| matches!(workload.count(), Count::From(..)));
    let mut taken = given.titles.clone();
    for (workload, place) in fixed.into_iter().chain(free) {
        if is_owned(workload.metadata(), &titles) || given.has_pods_of(workload) {
            continue;
        }
        for pod in make(workload, &mut taken, &cluster.nodes) {
            let place = place.inside(workload.template_field());
            cluster.pods.push((pod, place));
        }
    }
    cluster.workloads = workloads;
    cluster
        .pods
        .sort_by_cached_key(|(pod, _)| title("Pod", &pod.metadata));
}

/// The pods that manifests give.
struct Given {
    titles: BTreeSet<String>,
    labels: BTreeMap<String, Vec<podway_intent::Labels>>,
}

impl Given {
    fn of(pods: &[(Pod, Place)]) -> Given {
        let mut by_namespace: BTreeMap<String, Vec<podway_intent::Labels>> = BTreeMap::new();
        for (pod, _) in pods {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let labels = labels(pod.metadata.labels.as_ref());
            by_namespace.entry(namespace).or_default().push(labels);
        }
        Given {
            titles: pods
                .iter()
                .map(|(pod, _)| title("Pod", &pod.metadata))
                .collect(),
            labels: by_namespace,
        }
    }

    /// True if a controller has made the workload's pods already.
    fn has_pods_of(&self, workload: &Workload) -> bool {
        if !is_stored(workload.metadata()) {
            return false;
        }
        if let Workload::CronJob(_) = workload {
            // A cluster's clock says when; what runs now is there.
            return true;
        }
        let namespace = workload.metadata().namespace.as_deref().unwrap_or_default();
        let (Some(selector), Some(pods)) = (chosen(workload), self.labels.get(namespace)) else {
            return false;
        };
        pods.iter().any(|labels| selector.matches(labels))
    }
}

fn chosen(workload: &Workload) -> Option<Selector> {
    let place = Place::default();
    let mut findings = Findings::new(String::new(), &place);
    selector(&workload.selector()?, "spec.selector", &mut findings)
}

/// True if the object that controls it is among the manifests.
fn is_owned(metadata: &ObjectMeta, titles: &BTreeSet<String>) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| {
        let name = Some(owner.name.clone());
        let namespace = metadata.namespace.clone();
        titles.contains(&title(
            &owner.kind,
            &ObjectMeta {
                name,
                namespace,
                ..ObjectMeta::default()
            },
        ))
    })
}

fn make(workload: &Workload, taken: &mut BTreeSet<String>, nodes: &[(Node, Place)]) -> Vec<Pod> {
    let owner = title(workload.kind(), workload.metadata());
    let template = workload.pod();
    let base = workload.metadata().name.clone().unwrap_or_default();
    let named = |number: &str| {
        let mut pod = template.clone();
        pod.metadata.name = Some(format!("{base}-{number}"));
        pod
    };
    let mut made = Vec::new();
    match workload.count() {
        Count::EachNode => {
            for (node, _) in nodes {
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let mut pod = named(name);
                if daemon::fits(&pod, node) && taken.insert(title("Pod", &pod.metadata)) {
                    pod.spec.get_or_insert_default().node_name = node.metadata.name.clone();
                    made.push(pod);
                }
            }
        }
        Count::From(first, count) => {
            for number in first..first.saturating_add(count) {
                let mut pod = named(&number.to_string());
                // One that is given is that very pod.
                if taken.insert(title("Pod", &pod.metadata)) {
                    mark(&mut pod, workload, number);
                    let index = usize::try_from(number).unwrap_or_default();
                    pods::schedule(&mut pod, &owner, index, nodes);
                    made.push(pod);
                }
            }
        }
        Count::Any(count) => {
            let free = (0..).filter_map(|number: i32| {
                let pod = named(&number.to_string());
                taken.insert(title("Pod", &pod.metadata)).then_some(pod)
            });
            let count = usize::try_from(count).unwrap_or_default();
            for (index, mut pod) in free.take(count).enumerate() {
                mark(&mut pod, workload, i32::try_from(index).unwrap_or_default());
                pods::schedule(&mut pod, &owner, index, nodes);
                made.push(pod);
            }
        }
    }
    made
}

/// The labels that controllers add, which services and policies may go by.
fn mark(pod: &mut Pod, workload: &Workload, number: i32) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let owner = workload.metadata().name.clone().unwrap_or_default();
    let added: &[(&str, String)] = match workload {
        Workload::StatefulSet(_) => &[
            ("statefulset.kubernetes.io/pod-name", name),
            ("apps.kubernetes.io/pod-index", number.to_string()),
        ],
        Workload::Job(_) | Workload::CronJob(_) => &[
            ("job-name", owner.clone()),
            ("batch.kubernetes.io/job-name", owner),
            (
                "batch.kubernetes.io/job-completion-index",
                number.to_string(),
            ),
        ],
        Workload::Deployment(_)
        | Workload::ReplicaSet(_)
        | Workload::DaemonSet(_)
        | Workload::ReplicationController(_) => &[],
    };
    let labels = pod.metadata.labels.get_or_insert_default();
    for (key, value) in added.iter().filter(|(_, value)| label_value(value).is_ok()) {
        labels.insert((*key).to_owned(), value.clone());
    }
}

//! Which nodes a DaemonSet's pods are for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

/// Taints that pods of DaemonSets live with, whatever they say.
const TOLERATED: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/network-unavailable",
];

/// True if a DaemonSet's controller would put such a pod on the node.
pub(super) fn fits(pod: &Pod, node: &Node) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let named = spec.node_name.as_ref().is_none_or(|name| name.is_empty());
    (named || spec.node_name == node.metadata.name)
        && is_selected(&spec, node)
        && taints.into_iter().all(|taint| is_tolerated(taint, &spec))
}

fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let mut wanted = spec.node_selector.iter().flatten();
    let affinity = spec.affinity.as_ref();
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| {
        node.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| is_term_met(term, labels, node))
        })
}

/// An empty term is met by no node.
fn is_term_met(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.metadata.name.as_ref();
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|one| is_met(one, labels.get(&one.key)))
        && fields
            .iter()
            .all(|one| is_met(one, name.filter(|_| one.key == "metadata.name")))
}

fn is_met(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let numbers = || {
        let bound: i64 = values.first()?.parse().ok()?;
        let value: i64 = value?.parse().ok()?;
        Some((value, bound))
    };
    match &*requirement.operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn is_tolerated(taint: &Taint, spec: &PodSpec) -> bool {
    let keeps_out = taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    let mut tolerations = spec.tolerations.iter().flatten();
    !keeps_out || TOLERATED.contains(&&*taint.key) || tolerations.any(|one| tolerates(one, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = given(&toleration.effect);
    let key = given(&toleration.key);
    let fits_key = key.as_ref().is_none_or(|key| *key == taint.key);
    let fits_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        // Without a key, only `Exists` is every taint.
        _ => key.is_some() && given(&toleration.value) == given(&taint.value),
    };
    effect.is_none_or(|effect| effect == taint.effect) && fits_key && fits_value
}

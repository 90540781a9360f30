//! Objects that are not read, counted by kind: a dump of a cluster has thousands.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Place, unenforced};

/// What was left out so far.
#[derive(Default)]
pub(super) struct Aside(BTreeMap<(Weight, String, String), Left>);

/// What leaving a kind out may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Somebody else may keep traffic out by it.
    Policy,
    /// It stands for pods that are not there then.
    Pods,
    /// Nothing that a dataplane would know.
    Nothing,
}

struct Left {
    count: usize,
    first: Place,
}

/// Where kinds of other projects have the template of their pods.
const TEMPLATES: [&str; 4] = [
    "/spec/template/spec/containers",
    "/spec/jobTemplate/spec/template/spec/containers",
    "/spec/podTemplate/spec/containers",
    "/template/spec/containers",
];

impl Aside {
    /// Counts an object that is not read.
    pub(super) fn put(&mut self, kind: &str, api_version: &str, value: &Value, place: &Place) {
        let key = (
            weight(kind, api_version, value),
            kind.to_owned(),
            api_version.to_owned(),
        );
        let left = self.0.entry(key).or_insert_with(|| Left {
            count: 0,
            first: place.clone(),
        });
        left.count += 1;
    }

    /// Says what was left out: a line for each kind that may matter, and one for all others.
    pub(super) fn say(&self) {
        let mut others = Vec::new();
        for ((weight, kind, api_version), Left { count, first }) in &self.0 {
            match weight {
                Weight::Policy => tracing::warn!(
                    %kind, %api_version, count, first = %first,
                    "left out: not a kind of policy that podway enforces"
                ),
                Weight::Pods => tracing::warn!(
                    %kind, %api_version, count, first = %first,
                    "left out: podway doesn't make its pods; give them as Pods"
                ),
                Weight::Nothing => others.push(format!("{count} {kind} ({api_version})")),
            }
        }
        if !others.is_empty() {
            tracing::info!(
                "left out, not kinds that podway reads: {}",
                others.join(", ")
            );
        }
    }
}

fn weight(kind: &str, api_version: &str, value: &Value) -> Weight {
    let group = api_version.split('/').next().unwrap_or_default();
    let is_policy = unenforced::is_policy(group, kind);
    let has_template = TEMPLATES
        .iter()
        .any(|pointer| value.pointer(pointer).is_some());
    match (is_policy, has_template) {
        (true, _) => Weight::Policy,
        (false, true) => Weight::Pods,
        (false, false) => Weight::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn m1_kinds_with_policies_or_pod_templates_are_told_from_others() {
        let nothing = json!({});
        for (kind, api_version, value, expected) in [
            (
                "CiliumNetworkPolicy",
                "cilium.io/v2",
                &nothing,
                Weight::Policy,
            ),
            (
                "AdminNetworkPolicy",
                "policy.networking.k8s.io/v1alpha1",
                &nothing,
                Weight::Policy,
            ),
            (
                "Tier",
                "crd.projectcalico.org/v1",
                &nothing,
                Weight::Nothing,
            ),
            (
                "AuthorizationPolicy",
                "security.istio.io/v1",
                &nothing,
                Weight::Policy,
            ),
            (
                "PodDisruptionBudget",
                "policy/v1",
                &nothing,
                Weight::Nothing,
            ),
            (
                "ValidatingAdmissionPolicy",
                "admissionregistration.k8s.io/v1",
                &nothing,
                Weight::Nothing,
            ),
            (
                "Rollout",
                "argoproj.io/v1alpha1",
                &json!({"spec": {"template": {"spec": {"containers": []}}}}),
                Weight::Pods,
            ),
            (
                "PodTemplate",
                "v1",
                &json!({"template": {"spec": {"containers": []}}}),
                Weight::Pods,
            ),
            ("Secret", "v1", &nothing, Weight::Nothing),
        ] {
            assert_eq!(weight(kind, api_version, value), expected, "{kind}");
        }
    }
}

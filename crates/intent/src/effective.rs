//! Which policies hold for a pod, in the order in which they are judged.

use podway_tables::Direction;

use crate::{
    Cluster, ClusterTier, Name, Pod, PodNetwork, PolicyMode, PolicyName, RuleName, RulePlace,
};

/// A policy that selects a pod and has something to say of a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Which.
    pub policy: PolicyName,
    /// Whether it is in force.
    pub mode: PolicyMode,
    /// Its rules of this direction, in their order.
    pub rules: Vec<RuleName>,
}

impl Effective {
    /// True of a NetworkPolicy in force: what no rule allows is denied.
    pub fn isolates(&self) -> bool {
        matches!(self.policy, PolicyName::Namespaced(_)) && self.mode == PolicyMode::Enforce
    }
}

impl Cluster {
    /// The policies of a pod in the order of judgement; a pod on its node's network has none (N14).
    pub fn effective(&self, pod: &Name, direction: Direction) -> Vec<Effective> {
        let Some(pod) = self.pod(pod).filter(|pod| pod.network == PodNetwork::Own) else {
            return Vec::new();
        };
        let mut all = self.effective_in(ClusterTier::Admin, pod, direction);
        let namespaced = self.policies().into_iter().filter(|policy| {
            policy.name.namespace == pod.name.namespace && policy.subject.matches(&pod.labels)
        });
        all.extend(namespaced.filter_map(|policy| {
            let rules = match direction {
                Direction::Ingress => policy.ingress.as_ref()?,
                Direction::Egress => policy.egress.as_ref()?,
            };
            let name = PolicyName::Namespaced(policy.name.clone());
            Some(effective(name, policy.mode, direction, rules.len()))
        }));
        all.extend(self.effective_in(ClusterTier::Baseline, pod, direction));
        all
    }

    fn effective_in(&self, tier: ClusterTier, pod: &Pod, direction: Direction) -> Vec<Effective> {
        let labels = self.namespace_labels(&pod.name.namespace);
        let mut policies = self.cluster_policies();
        policies.retain(|policy| {
            policy.tier == tier
                && policy.subject.namespaces.matches(&labels)
                && policy.subject.pods.matches(&pod.labels)
        });
        policies.sort_by_key(|policy| policy.priority);
        let all = policies.into_iter().map(|policy| {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let name = PolicyName::Cluster(tier, policy.name.clone());
            effective(name, policy.mode, direction, rules.len())
        });
        all.filter(|it| !it.rules.is_empty()).collect()
    }
}

fn effective(
    policy: PolicyName,
    mode: PolicyMode,
    direction: Direction,
    count: usize,
) -> Effective {
    let rule = |index| RuleName {
        policy: policy.clone(),
        direction,
        place: RulePlace::Rule(index),
    };
    Effective {
        rules: (0..count as u32).map(rule).collect(),
        policy,
        mode,
    }
}

//! The labels of pods that outlive a rollout.

use podway_intent::Labels;

/// Labels that controllers give to pods, each with a value that their next pods won't have.
const PASSING: [&str; 10] = [
    "pod-template-hash",
    "pod-template-generation",
    "rollouts-pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    // The node's, and another one's after the next move.
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// How labels begin that jobs give to their pods.
const OF_JOBS: &str = "batch.kubernetes.io/";

/// The labels that people gave, or templates for them.
pub(super) fn stable(labels: &Labels) -> Labels {
    let passes = |key: &str| PASSING.contains(&key) || key.starts_with(OF_JOBS);
    labels
        .iter()
        .filter(|(key, _)| !passes(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

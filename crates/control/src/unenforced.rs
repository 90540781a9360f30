//! Kinds of policies that others enforce and podway does not (N20).
//!
//! Nothing of them is read: where there are some, what podway lets through is not the whole answer, and that is said.

use std::fmt;

/// Policies of a kind that is not enforced here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unenforced {
    /// The API group.
    pub group: String,
    /// The kind as manifests spell it.
    pub kind: String,
    /// How many there are; `None` if nobody may count them.
    pub count: Option<u64>,
}

impl Unenforced {
    /// What is counted where it is served: groups and resources, as RBAC calls them.
    pub fn counted() -> impl Iterator<Item = (&'static str, &'static str)> {
        COUNTED.into_iter()
    }
}

/// The resources that config/kubernetes lets agents count; of others it is only told that they are served.
const COUNTED: [(&str, &str); 12] = [
    ("policy.networking.k8s.io", "adminnetworkpolicies"),
    ("policy.networking.k8s.io", "baselineadminnetworkpolicies"),
    ("cilium.io", "ciliumnetworkpolicies"),
    ("cilium.io", "ciliumclusterwidenetworkpolicies"),
    ("projectcalico.org", "networkpolicies"),
    ("projectcalico.org", "globalnetworkpolicies"),
    ("crd.projectcalico.org", "networkpolicies"),
    ("crd.projectcalico.org", "globalnetworkpolicies"),
    ("crd.antrea.io", "networkpolicies"),
    ("crd.antrea.io", "clusternetworkpolicies"),
    ("k8s.ovn.org", "egressfirewalls"),
    ("k8s.ovn.org", "adminpolicybasedexternalroutes"),
];

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unenforced { group, kind, count } = self;
        match count {
            None => write!(
                f,
                "{kind} ({group}) is served, and how many there are can't be told"
            )?,
            Some(count) => write!(f, "{count} of kind {kind} ({group})")?,
        }
        f.write_str(": podway does not enforce them, so more may pass than they say")
    }
}

/// Whose policies are about traffic, whatever their kinds are called.
const GROUPS: [&str; 6] = [
    "policy.networking.k8s.io",
    "projectcalico.org",
    "cilium.io",
    "antrea.io",
    "security.istio.io",
    "policy.linkerd.io",
];

/// Kinds that keep traffic out and don't call themselves policies, with their groups.
const OTHERS: [(&str, &str); 3] = [
    ("k8s.ovn.org", "EgressFirewall"),
    ("k8s.ovn.org", "AdminPolicyBasedExternalRoute"),
    ("kubeovn.io", "SecurityGroup"),
];

/// True of groups that may have such kinds.
pub(crate) fn is_about_traffic(group: &str) -> bool {
    let mut others = OTHERS.iter();
    GROUPS.iter().any(|known| group.ends_with(known)) || others.any(|(known, _)| *known == group)
}

/// True of kinds of policies that others enforce: those of a group that we know, and whatever calls itself one.
pub(crate) fn is_policy(group: &str, kind: &str) -> bool {
    let is_ours = matches!(
        (group, kind),
        ("networking.k8s.io", "NetworkPolicy")
            | ("policy.networking.k8s.io", "ClusterNetworkPolicy")
    );
    let is_known = GROUPS.iter().any(|known| group.ends_with(known));
    let is_policy = kind.contains("NetworkPolicy") || (is_known && kind.contains("Policy"));
    !is_ours && (is_policy || OTHERS.contains(&(group, kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n20_policies_of_others_are_known_as_such() {
        for (group, kind) in [
            ("policy.networking.k8s.io", "AdminNetworkPolicy"),
            ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy"),
            ("cilium.io", "CiliumNetworkPolicy"),
            ("cilium.io", "CiliumClusterwideNetworkPolicy"),
            ("projectcalico.org", "NetworkPolicy"),
            ("crd.projectcalico.org", "GlobalNetworkPolicy"),
            ("crd.antrea.io", "ClusterNetworkPolicy"),
            ("k8s.ovn.org", "EgressFirewall"),
            ("network.openshift.io", "EgressNetworkPolicy"),
            ("nobody.example.org", "NetworkPolicy"),
        ] {
            assert!(is_policy(group, kind), "{group} {kind}");
        }
        for (group, kind) in [
            ("networking.k8s.io", "NetworkPolicy"),
            ("policy.networking.k8s.io", "ClusterNetworkPolicy"),
            ("cilium.io", "CiliumEndpoint"),
            ("policy", "PodDisruptionBudget"),
            ("", "Pod"),
        ] {
            assert!(!is_policy(group, kind), "{group} {kind}");
        }
    }
}

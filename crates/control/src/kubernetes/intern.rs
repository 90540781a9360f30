//! One copy of each text that many objects have: labels, names of nodes and namespaces.

use std::collections::HashSet;
use std::sync::Arc;

use podway_intent::{Labels, Name, Pod};

/// How many texts there are before it is first looked which are still in use.
const FIRST_SWEEP: usize = 1024;

/// Texts by what they say; those that nobody uses any more go when their number has doubled.
#[derive(Debug)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    pub(super) fn new() -> Interner {
        Interner {
            texts: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }

    /// The pod with its texts shared with those of others.
    pub(super) fn share(&mut self, pod: Pod) -> Pod {
        let labels: Labels = pod
            .labels
            .iter()
            .map(|(key, value)| (self.one(key), self.one(value)))
            .collect();
        let mut ports = pod.ports;
        for port in &mut ports {
            port.name = self.one(&port.name);
        }
        Pod {
            name: Name {
                namespace: self.one(&pod.name.namespace),
                name: pod.name.name,
            },
            node: pod.node.map(|node| self.one(&node)),
            labels,
            ports,
            ..pod
        }
    }

    fn one(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.sweep_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = (self.texts.len() * 2).max(FIRST_SWEEP);
        }
        self.texts.insert(text.clone());
        text.clone()
    }
}

#[cfg(test)]
mod tests {
    use podway_intent::{PodNetwork, PodPhase};

    use super::*;

    fn pod(name: &str, app: &str) -> Pod {
        Pod {
            name: Name {
                namespace: "shop".into(),
                name: name.into(),
            },
            uid: "".into(),
            node: Some("n1".into()),
            labels: [("app".into(), app.into())].into(),
            addresses: Vec::new(),
            ports: Vec::new(),
            host_ports: Vec::new(),
            network: PodNetwork::Own,
            phase: PodPhase::Alive,
        }
    }

    #[test]
    fn pods_share_what_they_have_in_common() {
        let mut interner = Interner::new();
        let (one, two) = (
            interner.share(pod("a", "web")),
            interner.share(pod("b", "web")),
        );
        assert_eq!(two, pod("b", "web"));
        assert!(Arc::ptr_eq(&one.labels["app"], &two.labels["app"]));
        assert!(Arc::ptr_eq(&one.name.namespace, &two.name.namespace));
    }

    #[test]
    fn texts_that_nobody_uses_go() {
        let mut interner = Interner::new();
        let kept = interner.share(pod("kept", "kept"));
        for number in 0..50_000 {
            interner.share(pod("gone", &format!("app-{number}")));
        }
        assert!(interner.texts.len() <= 2 * FIRST_SWEEP);
        assert!(interner.texts.contains(&kept.labels["app"]));
    }
}

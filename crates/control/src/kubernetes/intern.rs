//! One copy of each value that many objects have: sets of labels, ports, names of nodes and namespaces.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use podway_intent::{EndpointSlice, Labels, Name, NamedPort, Pod};

/// How many values there are before it is first looked which are still in use.
const FIRST_SWEEP: usize = 1024;

/// What the objects of one kind share.
#[derive(Debug)]
pub(super) struct Interner {
    texts: Pool<str>,
    labels: Pool<Labels>,
    ports: Pool<[NamedPort]>,
}

/// Values by what they say; those that nobody uses any more go when their number has doubled.
#[derive(Debug)]
struct Pool<T: ?Sized> {
    values: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl Interner {
    pub(super) fn new() -> Interner {
        Interner {
            texts: Pool::new(),
            labels: Pool::new(),
            ports: Pool::new(),
        }
    }

    /// The pod with its values shared with those of others.
    pub(super) fn share(&mut self, pod: Pod) -> Pod {
        Pod {
            name: Name {
                namespace: self.texts.one(pod.name.namespace),
                name: pod.name.name,
            },
            node: pod.node.map(|node| self.texts.one(node)),
            labels: self.labels(pod.labels),
            ports: self.ports.one(pod.ports),
            ..pod
        }
    }

    /// The slice with the texts of its endpoints shared with those of others.
    pub(super) fn share_slice(&mut self, slice: EndpointSlice) -> EndpointSlice {
        let mut endpoints = slice.endpoints;
        for endpoint in &mut endpoints {
            let pod = endpoint.pod.iter_mut().map(|pod| &mut pod.namespace);
            let hints = endpoint.zone_hints.iter_mut();
            let hints = hints.chain(&mut endpoint.node_hints);
            for text in pod.chain(&mut endpoint.node).chain(hints) {
                *text = self.texts.one(text.clone());
            }
        }
        EndpointSlice { endpoints, ..slice }
    }

    fn labels(&mut self, labels: Arc<Labels>) -> Arc<Labels> {
        if let Some(known) = self.labels.values.get(&labels) {
            return known.clone();
        }
        let texts = labels.iter();
        let texts = texts.map(|(key, value)| [key, value].map(|it| self.texts.one(it.clone())));
        let labels: Labels = texts.map(|[key, value]| (key, value)).collect();
        self.labels.one(labels.into())
    }
}

impl<T: Eq + Hash + ?Sized> Pool<T> {
    fn new() -> Pool<T> {
        Pool {
            values: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }

    /// The copy of a value that everybody has.
    fn one(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(FIRST_SWEEP);
        }
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use podway_intent::{PodNetwork, PodPhase};
    use podway_wire::Protocol;

    use super::*;

    fn pod(name: &str, app: &str) -> Pod {
        Pod {
            name: Name {
                namespace: "shop".into(),
                name: name.into(),
            },
            uid: "".into(),
            node: Some("n1".into()),
            labels: Labels::from([("app".into(), app.into())]).into(),
            addresses: Vec::new(),
            ports: [NamedPort {
                name: app.into(),
                protocol: Protocol::TCP,
                port: 80,
            }]
            .into(),
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
        assert!(Arc::ptr_eq(&one.labels, &two.labels));
        assert!(Arc::ptr_eq(&one.ports, &two.ports));
        assert!(Arc::ptr_eq(&one.name.namespace, &two.name.namespace));
    }

    #[test]
    fn texts_that_nobody_uses_go() {
        let mut interner = Interner::new();
        let kept = interner.share(pod("kept", "kept"));
        for number in 0..50_000 {
            interner.share(pod("gone", &format!("app-{number}")));
        }
        assert!(interner.texts.values.len() <= 2 * FIRST_SWEEP);
        assert!(interner.labels.values.len() <= 2 * FIRST_SWEEP);
        assert!(interner.ports.values.len() <= 2 * FIRST_SWEEP);
        assert!(interner.texts.values.contains(&kept.labels["app"]));
        assert!(interner.labels.values.contains(&kept.labels));
    }
}

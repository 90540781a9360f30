//! What an API server is to say: the objects of the manifests, and what changes between two states of them.

use std::collections::BTreeMap;

use podway_control::{Kind, Manifests};
use serde::Serialize;
use serde_json::{Value, json};

/// Which object. Kinds are in an order in which objects can be made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// Empty for objects of the cluster.
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Objects with what they say.
pub(super) type Served = BTreeMap<Object, Value>;

/// All objects of the manifests.
pub(super) fn served(manifests: &Manifests) -> Served {
    let mut served = Served::new();
    take(&mut served, Kind::Node, &manifests.nodes);
    take(&mut served, Kind::Namespace, &manifests.namespaces);
    take(&mut served, Kind::Pod, &manifests.pods);
    take(&mut served, Kind::Service, &manifests.services);
    take(&mut served, Kind::EndpointSlice, &manifests.endpoint_slices);
    take(
        &mut served,
        Kind::NetworkPolicy,
        &manifests.network_policies,
    );
    let policies = &manifests.cluster_network_policies;
    take(&mut served, Kind::ClusterNetworkPolicy, policies);
    take(&mut served, Kind::ServiceCidr, &manifests.service_cidrs);
    served
}

fn take<T: Serialize>(served: &mut Served, kind: Kind, objects: &[T]) {
    for value in objects {
        let mut value = serde_json::to_value(value).unwrap_or_default();
        let text = |field: &str| {
            let text = value["metadata"][field].as_str();
            text.unwrap_or_default().to_owned()
        };
        let object = Object {
            kind,
            namespace: text("namespace"),
            name: text("name"),
        };
        value["kind"] = json!(kind.name());
        value["apiVersion"] = json!(match kind.group() {
            "" => kind.version().to_owned(),
            group => format!("{group}/{}", kind.version()),
        });
        served.insert(object, value);
    }
}

/// What is new or other than before, in the order in which it can be made.
pub(super) fn changed<'a>(
    before: &Served,
    now: &'a Served,
) -> impl Iterator<Item = (&'a Object, &'a Value)> {
    now.iter()
        .filter(|(object, value)| before.get(object) != Some(value))
}

/// What is no more, the last made first.
pub(super) fn gone<'a>(before: &'a Served, now: &Served) -> impl Iterator<Item = &'a Object> {
    let all = before.keys().rev();
    all.filter(|object| !now.contains_key(object))
}

//! Objects as an API server sends them, one at a time: what is wrong with one says nothing about another.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, Pod, PodIP, PodSpec, PodStatus, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use podway_intent::{Change, Key, Name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Kind;
use super::intern::Interner;
use crate::convert::{self, Converted};
use crate::{PolicyObject, Problem, Problems};

/// How the title of an object ends that doesn't say its name.
pub(super) const NAMELESS: &str = " without a name";

/// An object: which, of what version, and what it says.
pub(super) struct Decoded {
    pub(super) key: Key,
    /// Differs if the object does.
    pub(super) version: u64,
    /// `None` if it is not for us to care about; the problems if it can't be read.
    pub(super) fact: Fact,
}

/// What an object says.
pub(super) type Fact = Result<Option<Converted<Change>>, Problems>;

/// What every object has, however malformed the rest of it.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
}

/// Reads the object of a head.
pub(super) fn decode(
    kind: Kind,
    (key, version): (Key, u64),
    json: &str,
    texts: &mut Interner,
) -> Decoded {
    let title = title(kind, &key);
    let fact: Fact = match kind {
        Kind::Node => read(&title, json, |it: &Node| {
            Ok(Some(convert::node(it).map(Change::Node)))
        }),
        Kind::Namespace => read(&title, json, |it: &Namespace| {
            Ok(Some(convert::namespace(it).map(Change::Namespace)))
        }),
        Kind::Pod => read(&title, json, |it: &TrimmedPod| {
            let pod = convert::pod(&it.whole());
            Ok(Some(pod.map(|it| Change::Pod(texts.share(it)))))
        }),
        Kind::Service => read(&title, json, |it: &Service| {
            Ok(convert::service(it).map(|it| it.map(Change::Service)))
        }),
        Kind::EndpointSlice => read(&title, json, |it: &EndpointSlice| {
            let slice = convert::endpoint_slice(it)?;
            let shared = |it| Change::EndpointSlice(texts.share_slice(it));
            Ok(slice.map(|it| it.map(shared)))
        }),
        Kind::NetworkPolicy => {
            let policy = convert::network_policy(&policy(json));
            Ok(Some(policy.map(Change::NetworkPolicy)))
        }
        Kind::ClusterNetworkPolicy => {
            let policy = convert::cluster_network_policy(&policy(json));
            Ok(Some(policy.map(Change::ClusterNetworkPolicy)))
        }
        Kind::ServiceCidr => read(&title, json, |it: &ServiceCIDR| {
            Ok(Some(convert::service_cidr(it).map(Change::ServiceCidr)))
        }),
    };
    // The same texts as the object's, for there are many of them.
    let key = match &fact {
        Ok(Some(converted)) => converted.reading.value.key(),
        Ok(None) | Err(_) => key,
    };
    Decoded { key, version, fact }
}

/// Which object this is, and a number for its version; the error is about one whose name can't be told.
pub(super) fn head(kind: Kind, json: &str) -> Result<(Key, u64), Problem> {
    let metadata = match serde_json::from_str(json) {
        Ok(Head { metadata }) => metadata,
        Err(error) => {
            let object = format!("{kind}{NAMELESS}");
            return Err(problem(&object, "metadata", error));
        }
    };
    let mut hasher = DefaultHasher::new();
    (&metadata.uid, &metadata.resource_version).hash(&mut hasher);
    let name: Arc<str> = metadata.name.into();
    let namespace = metadata.namespace;
    let place = |name| Name {
        namespace: namespace.map_or_else(|| "default".into(), Arc::from),
        name,
    };
    let key = match kind {
        Kind::Node => Key::Node(name),
        Kind::Namespace => Key::Namespace(name),
        Kind::Pod => Key::Pod(place(name)),
        Kind::Service => Key::Service(place(name)),
        Kind::EndpointSlice => Key::EndpointSlice(place(name)),
        Kind::NetworkPolicy => Key::NetworkPolicy(place(name)),
        Kind::ClusterNetworkPolicy => Key::ClusterNetworkPolicy(name),
        Kind::ServiceCidr => Key::ServiceCidr(name),
    };
    Ok((key, hasher.finish()))
}

/// The object's uid; empty if it has none.
pub(super) fn uid(json: &str) -> String {
    let head: Result<Head, _> = serde_json::from_str(json);
    head.map_or_else(|_| String::new(), |head| head.metadata.uid)
}

/// Such as `Service shop/web`.
pub(super) fn title(kind: Kind, key: &Key) -> String {
    match key {
        Key::Node(name)
        | Key::Namespace(name)
        | Key::ClusterNetworkPolicy(name)
        | Key::ServiceCidr(name) => {
            format!("{kind} {name}")
        }
        Key::Pod(name)
        | Key::Service(name)
        | Key::EndpointSlice(name)
        | Key::NetworkPolicy(name)
        | Key::Attachment(name) => format!("{kind} {name}"),
        // No source tells of these.
        Key::Neighbour(_)
        | Key::Route(_)
        | Key::LinkNeighbour(_)
        | Key::OwnAddress(_)
        | Key::Setup => kind.to_string(),
    }
}

/// The object without what nobody here reads, and without line ends.
pub(super) fn trimmed(kind: Kind, json: &str) -> serde_json::Result<String> {
    let (metadata, annotations) = (
        [
            "managedFields",
            "ownerReferences",
            "finalizers",
            "generateName",
        ],
        "kubectl.kubernetes.io/last-applied-configuration",
    );
    let mut object: Value = match kind {
        Kind::Pod => return serde_json::to_string(&serde_json::from_str::<TrimmedPod>(json)?),
        Kind::Node
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::ServiceCidr => serde_json::from_str(json)?,
    };
    if let Some(fields) = object["metadata"].as_object_mut() {
        for field in metadata {
            fields.remove(field);
        }
        if let Some(Value::Object(fields)) = fields.get_mut("annotations") {
            fields.remove(annotations);
        }
    }
    if let (Kind::Node, Some(fields)) = (kind, object["status"].as_object_mut()) {
        fields.retain(|field, _| field == "addresses");
    }
    serde_json::to_string(&object)
}

fn read<T: DeserializeOwned>(title: &str, json: &str, convert: impl FnOnce(&T) -> Fact) -> Fact {
    let mut input = serde_json::Deserializer::from_str(json);
    match serde_path_to_error::deserialize(&mut input) {
        Ok(object) => convert(&object),
        Err(error) => {
            let field = error.path().to_string();
            Err(Problems(vec![problem(title, &field, error.inner())]))
        }
    }
}

/// A policy as it is written; of metadata that can't be read, the name counts.
fn policy(json: &str) -> PolicyObject {
    let mut fields: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    let metadata = fields.remove("metadata").unwrap_or_default();
    let text = |field: &str| metadata[field].as_str().map(str::to_owned);
    let name = || ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        ..ObjectMeta::default()
    };
    PolicyObject {
        metadata: serde_json::from_value(metadata.clone()).unwrap_or_else(|_| name()),
        fields,
    }
}

fn problem(object: &str, field: &str, message: impl std::fmt::Display) -> Problem {
    Problem {
        file: "".into(),
        line: 0,
        object: object.to_owned(),
        field: field.to_owned(),
        message: message.to_string(),
    }
}

/// A pod without what a dataplane has no use for, which is most of it.
#[derive(Deserialize, Serialize)]
struct TrimmedPod {
    metadata: TrimmedMetadata,
    #[serde(default)]
    spec: TrimmedSpec,
    #[serde(default)]
    status: TrimmedStatus,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrimmedMetadata {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deletion_timestamp: Option<Time>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct TrimmedSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<TrimmedContainer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init_containers: Option<Vec<TrimmedContainer>>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrimmedContainer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<ContainerPort>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restart_policy: Option<String>,
}

impl TrimmedContainer {
    fn whole(&self) -> Container {
        Container {
            ports: self.ports.clone(),
            restart_policy: self.restart_policy.clone(),
            ..Container::default()
        }
    }
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct TrimmedStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

impl TrimmedPod {
    /// The same as the API's type, which is what is converted.
    fn whole(&self) -> Pod {
        let whole = |containers: &Vec<TrimmedContainer>| -> Vec<Container> {
            containers.iter().map(TrimmedContainer::whole).collect()
        };
        Pod {
            metadata: ObjectMeta {
                name: Some(self.metadata.name.clone()),
                namespace: self.metadata.namespace.clone(),
                uid: self.metadata.uid.clone(),
                labels: self.metadata.labels.clone(),
                deletion_timestamp: self.metadata.deletion_timestamp.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: self.spec.node_name.clone(),
                host_network: self.spec.host_network,
                containers: self.spec.containers.as_ref().map_or(Vec::new(), whole),
                init_containers: self.spec.init_containers.as_ref().map(whole),
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: self.status.phase.clone(),
                pod_ip: self.status.pod_ip.clone(),
                pod_ips: self.status.pod_ips.clone(),
                ..PodStatus::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests;

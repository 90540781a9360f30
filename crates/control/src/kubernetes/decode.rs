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
mod tests {
    use podway_intent::PodPhase;

    use super::super::filled::filled;
    use super::*;

    fn decoded(kind: Kind, json: &str) -> Decoded {
        let head = head(kind, json).expect("it has a name");
        decode(kind, head, json, &mut Interner::new())
    }

    #[test]
    fn a_trimmed_pod_says_what_the_whole_one_says() {
        let json = r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"7",
            "labels":{"app":"web"},"annotations":{"long":"text"},"managedFields":[{"manager":"kubelet"}],"deletionTimestamp":"2026-01-01T00:00:00Z"},
            "spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","ports":[{"name":"http","containerPort":8080}]}],
            "initContainers":[{"name":"s","restartPolicy":"Always","ports":[{"name":"side","containerPort":15020}]},
            {"name":"i","ports":[{"name":"once","containerPort":1}]}],
            "volumes":[{"name":"v","emptyDir":{}}]},
            "status":{"phase":"Running","podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"},{"ip":"fd00::9"}],"conditions":[]}}"#;
        let whole: Pod = serde_json::from_str(json).expect("a pod");
        let expected = convert::pod(&whole);
        let pod = &expected.reading.value;
        let names: Vec<&str> = pod.ports.iter().map(|port| &*port.name).collect();
        assert_eq!(
            (names, pod.phase),
            (vec!["http", "side"], PodPhase::Leaving)
        );
        let fact = decoded(Kind::Pod, json).fact;
        assert_eq!(fact, Ok(Some(expected.map(Change::Pod))));
    }

    #[test]
    fn what_is_kept_of_an_object_says_what_the_object_says() {
        let pod = r#"{"metadata":{"name":"web","namespace":"shop","uid":"u1","resourceVersion":"7","labels":{"app":"web"}},
            "spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]},"status":{}}"#;
        let node = r#"{"metadata":{"name":"n1","uid":"u","resourceVersion":"9","labels":{"zone":"a"},
            "annotations":{"a":"b","kubectl.kubernetes.io/last-applied-configuration":"long"},"managedFields":[{}]},
            "spec":{"podCIDRs":["10.244.1.0/24"]},
            "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"images":[{"names":["long"]}]}}"#;
        let service = r#"{"metadata":{"name":"web","namespace":"shop"},
            "spec":{"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],"ports":[{"port":80}]},"status":{"loadBalancer":{}}}"#;
        for (kind, json) in [
            (Kind::Pod, pod),
            (Kind::Node, node),
            (Kind::Service, service),
        ] {
            let kept = trimmed(kind, json).expect("JSON");
            let [whole, kept_too] = [json, &kept].map(|json| decoded(kind, json));
            assert_eq!((whole.key, whole.version), (kept_too.key, kept_too.version));
            assert_eq!(whole.fact.expect("legal"), kept_too.fact.expect("legal"));
            assert!(!kept.contains('\n') && !kept.contains("long"), "{kept}");
            assert_eq!(trimmed(kind, &kept).expect("JSON"), kept);
        }
    }

    /// The conversion of an object as the directory's way has it: nothing was trimmed.
    fn untrimmed(kind: Kind, object: &Value) -> Option<Fact> {
        let json = object.to_string();
        match kind {
            Kind::Pod => {
                let pod: Pod = serde_json::from_str(&json).ok()?;
                Some(Ok(Some(convert::pod(&pod).map(Change::Pod))))
            }
            Kind::Node
            | Kind::Namespace
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            // What can't be read has no fields to lose.
            | Kind::ServiceCidr => decoded(kind, &json).fact.ok().map(Ok),
        }
    }

    /// Takes each field away, or has it say something else, and returns those that the conversion reads; whatever it
    /// reads has to be there after trimming.
    fn read_fields(kind: Kind, base: &Value) -> Vec<String> {
        let before = untrimmed(kind, base).expect("a legal object");
        let mut read = Vec::new();
        let mut left = vec![String::new()];
        while let Some(parent) = left.pop() {
            let children: Vec<String> = match base.pointer(&parent) {
                Some(Value::Object(fields)) => fields.keys().cloned().collect(),
                Some(Value::Array(items)) => (0..items.len()).map(|it| it.to_string()).collect(),
                Some(_) | None => Vec::new(),
            };
            for child in children {
                let path = format!("{parent}/{}", child.replace('/', "~1"));
                let mut is_read = false;
                for object in others(base, &parent, &child, &path) {
                    // What has no name is refused before anything is trimmed.
                    if !object["metadata"]["name"].is_string() {
                        is_read = true;
                        continue;
                    }
                    let Some(whole) = untrimmed(kind, &object) else {
                        continue;
                    };
                    let kept = trimmed(kind, &object.to_string()).expect("JSON");
                    assert_eq!(decoded(kind, &kept).fact, whole, "{kind} without {path}");
                    is_read |= whole != before;
                }
                if is_read {
                    left.push(path.clone());
                    read.push(path);
                }
            }
        }
        read
    }

    /// The object without a field, and with other values of it.
    fn others(base: &Value, parent: &str, child: &str, path: &str) -> Vec<Value> {
        let mut without = base.clone();
        match without.pointer_mut(parent) {
            Some(Value::Object(fields)) => drop(fields.remove(child)),
            Some(Value::Array(items)) => items.clear(),
            Some(_) | None => unreachable!("{parent} has {child}"),
        }
        let values: Vec<Value> = match base.pointer(path) {
            Some(Value::String(_)) => ["10.0.0.2", "Failed", "UDP", "Local"]
                .map(Value::from)
                .into(),
            Some(Value::Bool(value)) => vec![Value::from(!value)],
            Some(Value::Number(_)) => vec![Value::from(2)],
            Some(Value::Array(_) | Value::Object(_) | Value::Null) | None => Vec::new(),
        };
        let changed = values.into_iter().map(|value| {
            let mut object = base.clone();
            *object.pointer_mut(path).expect("it has the field") = value;
            object
        });
        std::iter::once(without).chain(changed).collect()
    }

    #[test]
    fn f15_no_field_that_is_read_of_a_manifest_is_lost_on_the_way_from_an_api_server() {
        let pod = filled::<Pod>(Kind::Pod, "v1");
        // Of a list and its first item, only one is read while both are there.
        let less = |object: &Value, parent: &str, field: &str| {
            let mut object = object.clone();
            let fields = object[parent].as_object_mut().expect("an object");
            fields.remove(field).expect("it is filled");
            object
        };
        let one_address = less(&pod, "status", "podIPs");
        let service = filled::<Service>(Kind::Service, "v1");
        let listed = less(&service, "spec", "clusterIP");
        let single = less(&service, "spec", "clusterIPs");
        let discovery = "discovery.k8s.io/v1";
        for (kind, object, known) in [
            (Kind::Pod, pod, "/spec/initContainers/0/ports/0/name"),
            (Kind::Pod, one_address, "/status/podIP"),
            (
                Kind::Node,
                filled::<Node>(Kind::Node, "v1"),
                "/status/addresses",
            ),
            (
                Kind::Namespace,
                filled::<Namespace>(Kind::Namespace, "v1"),
                "/metadata/labels",
            ),
            (Kind::Service, service, "/spec/externalIPs/0"),
            (Kind::Service, listed, "/spec/clusterIPs"),
            (Kind::Service, single, "/spec/clusterIP"),
            (
                Kind::EndpointSlice,
                filled::<EndpointSlice>(Kind::EndpointSlice, discovery),
                "/endpoints/0/addresses",
            ),
            (
                Kind::ServiceCidr,
                filled::<ServiceCIDR>(Kind::ServiceCidr, "networking.k8s.io/v1"),
                "/spec/cidrs",
            ),
        ] {
            let read = read_fields(kind, &object);
            assert!(
                read.iter().any(|it| it == known),
                "{kind}: {known} isn't among {read:?}"
            );
        }
    }

    #[test]
    fn a_malformed_object_still_has_its_name_and_says_which_field_is_wrong() {
        let json = r#"{"metadata":{"name":"web","namespace":"shop","resourceVersion":"7"},
            "spec":{"clusterIP":"10.96.0.1","ports":[{"port":"http"}]}}"#;
        let decoded = decoded(Kind::Service, json);
        assert_eq!(decoded.key.to_string(), "service shop/web");
        let problems = decoded.fact.expect_err("malformed").to_string();
        assert!(
            problems.starts_with("Service shop/web: spec.ports[0].port: invalid type"),
            "{problems}"
        );
    }

    #[test]
    fn what_is_not_ours_is_no_problem() {
        let json = r#"{"metadata":{"name":"db","namespace":"shop"},"spec":{"clusterIP":"None"}}"#;
        assert_eq!(decoded(Kind::Service, json).fact, Ok(None));
    }

    #[test]
    fn versions_differ_with_uid_and_resource_version() {
        let version = |uid, version| {
            let json = format!(
                r#"{{"metadata":{{"name":"a","uid":"{uid}","resourceVersion":"{version}"}}}}"#
            );
            decoded(Kind::Namespace, &json).version
        };
        assert_eq!(version("u", "1"), version("u", "1"));
        assert_ne!(version("u", "1"), version("u", "2"));
        assert_ne!(version("u", "1"), version("v", "1"));
    }

    #[test]
    fn a_nameless_object_is_a_problem_of_its_kind() {
        let error = head(Kind::Pod, r#"{"metadata":{}}"#);
        let text = error.expect_err("nameless").to_string();
        assert!(
            text.starts_with("Pod without a name: metadata: missing field `name`"),
            "{text}"
        );
    }
}

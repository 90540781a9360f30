//! Manifests from files: every object of a directory that matters, or everything that is wrong with them.

mod aside;
pub(crate) mod typed;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::aside::Aside;
use crate::object::is_stored;
use crate::problem::Lines;
use crate::validate::validate;
use crate::yaml::{self, Document};
use crate::{
    ClusterNetworkPolicy, Located, Object, Place, PolicyObject, Problem, Problems, Workload,
};

/// Bytes that a file of manifests may have.
const MAX_FILE: u64 = 64 << 20;

/// Lists in lists that are followed.
const MAX_LISTS: usize = 4;

/// The objects of a file, or of the `.yaml`, `.yml` and `.json` files of a directory (not of its subdirectories).
///
/// They are in the order of files and documents; kinds that don't matter here are left out, and the log says how many.
/// The error is everything that an API server would refuse, of all files together.
pub fn read(path: &Path) -> Result<Vec<Located>, Problems> {
    let files = files(path).map_err(|error| Problems(vec![unreadable(path, &error)]))?;
    let mut reading = Reading::default();
    for file in files {
        let name: Arc<str> = file.to_string_lossy().into();
        let text = match text(&file) {
            Ok(text) => text,
            Err(error) => {
                reading.problems.push(unreadable(&file, &error));
                continue;
            }
        };
        reading.parse(&name, &text);
    }
    reading.aside.say();
    let Reading {
        objects,
        mut problems,
        ..
    } = reading;
    for located in &objects {
        validate(located, &mut problems);
    }
    let objects = unique(objects, &mut problems);
    Problems::none_or(problems, objects)
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    objects: Vec<Located>,
    problems: Vec<Problem>,
    aside: Aside,
}

/// True of the names of files that manifests are in: not of hidden ones, editors' copies and other formats.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let format = [".yaml", ".yml", ".json"]
        .iter()
        .any(|end| name.ends_with(end));
    format && !name.starts_with(['.', '#', '~'])
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        // A dangling link is a file that can't be read, and is to be reported as one.
        let is_dir = fs::metadata(&file).is_ok_and(|metadata| metadata.is_dir());
        if is_manifest(&file) && !is_dir {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn text(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.len() > MAX_FILE {
        return Err(io::Error::other("it has more than 64 MiB: split it"));
    }
    let bytes = fs::read(file)?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(io::Error::other("it is UTF-16: save it as UTF-8"));
    }
    String::from_utf8(bytes)
        .map_err(|error| io::Error::other(format!("it is not UTF-8 ({error}): save it as UTF-8")))
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        file: path.to_string_lossy().into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message: format!("can't be read: {error}"),
    }
}

impl Reading {
    fn parse(&mut self, file: &Arc<str>, text: &str) {
        let documents = match yaml::documents(text) {
            Ok(documents) => documents,
            Err(fault) => {
                self.problems.push(Problem {
                    file: file.clone(),
                    line: fault.line,
                    object: String::new(),
                    field: fault.field,
                    message: fault.message,
                });
                return;
            }
        };
        for document in documents {
            let Document {
                value,
                lines,
                repeated,
            } = document;
            for fault in repeated {
                tracing::warn!(%file, line = fault.line, field = fault.field, "{}", fault.message);
            }
            let lines: Arc<Lines> = lines.into();
            let place = Place::new(file.clone(), lines, String::new());
            self.collect(value, place, MAX_LISTS);
        }
    }

    /// The object, or those of a list.
    fn collect(&mut self, mut value: Value, place: Place, depth: usize) {
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        let api_version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
        if kind.is_empty() || api_version.is_empty() {
            let field = if kind.is_empty() {
                "kind"
            } else {
                "apiVersion"
            };
            let message = "is missing: every Kubernetes object has apiVersion and kind";
            self.problems.push(place.problem("", field, message));
            return;
        }
        if let Some(item_kind) = kind.strip_suffix("List")
            && (item_kind.is_empty() || value.get("items").is_some())
        {
            let items = value.get_mut("items").map(Value::take);
            self.list(items, (item_kind, &api_version), &place, depth);
            return;
        }
        match object(&mut value, &api_version, &kind, &place) {
            Ok(Some(object)) => self.objects.push(Located { object, place }),
            Ok(None) => self.aside.put(&kind, &api_version, &value, &place),
            Err(found) => self.problems.extend(found),
        }
    }

    /// The objects of a list, which may leave out what the list says of all.
    fn list(
        &mut self,
        items: Option<Value>,
        (kind, api_version): (&str, &str),
        place: &Place,
        depth: usize,
    ) {
        let items = match items {
            // What an empty template leaves.
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) if depth > 0 => items,
            Some(Value::Array(_)) => {
                let message = "lists in lists in lists: unfold them";
                self.problems.push(place.problem("", "items", message));
                return;
            }
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                self.problems
                    .push(place.problem("", "items", "expected a list"));
                return;
            }
        };
        for (index, mut item) in items.into_iter().enumerate() {
            if let (Some(entries), false) = (item.as_object_mut(), kind.is_empty()) {
                entries.entry("kind").or_insert_with(|| kind.into());
                entries
                    .entry("apiVersion")
                    .or_insert_with(|| api_version.into());
            }
            self.collect(item, place.inside(&format!("items[{index}]")), depth - 1);
        }
    }
}

/// The object, whose value is taken; `None` if it is not of a kind that is read.
fn object(
    value: &mut Value,
    api_version: &str,
    kind: &str,
    place: &Place,
) -> Result<Option<Object>, Vec<Problem>> {
    let expected = match kind {
        "Node" | "Namespace" | "Pod" | "Service" | "Endpoints" | "ReplicationController" => "v1",
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => "apps/v1",
        "Job" | "CronJob" => "batch/v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "NetworkPolicy" | "ServiceCIDR" => "networking.k8s.io/v1",
        "ClusterNetworkPolicy" => "policy.networking.k8s.io/v1alpha2",
        _ => return Ok(None),
    };
    if api_version != expected {
        // Knative and others have kinds of these names too.
        let ours = [
            "v1",
            "apps/",
            "batch/",
            "extensions/",
            "discovery.k8s.io/",
            "networking.k8s.io/",
            "policy.networking.k8s.io/",
        ];
        if !ours.iter().any(|group| api_version.starts_with(group)) {
            return Ok(None);
        }
        let message = format!("expected {expected} for a {kind}, found {api_version}");
        return Err(vec![place.problem(kind, "apiVersion", message)]);
    }
    let value = value.take();
    let mut object = match kind {
        "Node" => Object::Node(boxed(value, kind, place)?),
        "Namespace" => Object::Namespace(boxed(value, kind, place)?),
        "Pod" => Object::Pod(boxed(value, kind, place)?),
        "Service" => Object::Service(boxed(value, kind, place)?),
        "EndpointSlice" => Object::EndpointSlice(boxed(value, kind, place)?),
        "Endpoints" => Object::Endpoints(boxed(value, kind, place)?),
        "NetworkPolicy" => Object::NetworkPolicy(policy::<NetworkPolicy>(value, kind, place)?),
        "ClusterNetworkPolicy" => {
            Object::ClusterNetworkPolicy(policy::<ClusterNetworkPolicy>(value, kind, place)?)
        }
        "ServiceCIDR" => Object::ServiceCidr(boxed(value, kind, place)?),
        _ => Object::Workload(workload(value, kind, place)?.into()),
    };
    let is_cluster_wide = object.is_cluster_wide();
    let metadata = object.metadata_mut();
    metadata.namespace = match metadata.namespace.take() {
        _ if is_cluster_wide => None,
        Some(namespace) if !namespace.is_empty() => Some(namespace),
        Some(_) | None => Some("default".to_owned()),
    };
    Ok(Some(object))
}

fn boxed<T: DeserializeOwned + Serialize>(
    value: Value,
    kind: &str,
    place: &Place,
) -> Result<Box<T>, Vec<Problem>> {
    typed::typed(value, kind, place).map(Box::new)
}

/// The policy as it is written; one that no API server gave out has to be of the type.
fn policy<T: DeserializeOwned + Serialize>(
    value: Value,
    kind: &str,
    place: &Place,
) -> Result<Box<PolicyObject>, Vec<Problem>> {
    let policy: Box<PolicyObject> = boxed(value, kind, place)?;
    if !is_stored(&policy.metadata) {
        let value = serde_json::to_value(&policy).unwrap_or_default();
        typed::typed::<T>(value, kind, place)?;
    }
    Ok(policy)
}

fn workload(value: Value, kind: &str, place: &Place) -> Result<Workload, Vec<Problem>> {
    Ok(match kind {
        "Deployment" => Workload::Deployment(typed::typed(value, kind, place)?),
        "ReplicaSet" => Workload::ReplicaSet(typed::typed(value, kind, place)?),
        "StatefulSet" => Workload::StatefulSet(typed::typed(value, kind, place)?),
        "DaemonSet" => Workload::DaemonSet(typed::typed(value, kind, place)?),
        "Job" => Workload::Job(typed::typed(value, kind, place)?),
        "CronJob" => Workload::CronJob(typed::typed(value, kind, place)?),
        _ => Workload::ReplicationController(typed::typed(value, kind, place)?),
    })
}

/// The objects, each once: a dump of several kinds may have some twice, word for word.
fn unique(objects: Vec<Located>, problems: &mut Vec<Problem>) -> Vec<Located> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut unique: Vec<Located> = Vec::with_capacity(objects.len());
    for located in objects {
        let title = located.object.title();
        let Some(first) = seen.get(&title).map(|index| &unique[*index]) else {
            seen.insert(title, unique.len());
            unique.push(located);
            continue;
        };
        if first.object != located.object {
            let place = &first.place;
            let message = format!("{title} is at {place} already: rename or remove one");
            problems.push(located.place.problem(&title, "metadata.name", message));
        }
    }
    unique
}

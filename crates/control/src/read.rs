//! Manifests from files: every object of a directory that matters, or everything that is wrong with them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{Lines, join};
use crate::validate::validate;
use crate::yaml::{self, Document};
use crate::{Located, Object, Place, Problem, Problems};

/// Bytes that a file of manifests may have.
const MAX_FILE: u64 = 16 << 20;

/// Lists in lists that are followed.
const MAX_LISTS: usize = 4;

/// The objects of a file, or of the `.yaml`, `.yml` and `.json` files of a directory (not of its subdirectories).
///
/// They are in the order of files and documents; kinds that don't matter here are left out with a note in the
/// log. The error is everything that an API server would refuse, of all files together.
pub fn read(path: &Path) -> Result<Vec<Located>, Problems> {
    let files = files(path).map_err(|error| Problems(vec![unreadable(path, &error)]))?;
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        let name: Arc<str> = file.to_string_lossy().into();
        let text = match text(&file) {
            Ok(text) => text,
            Err(error) => {
                problems.push(unreadable(&file, &error));
                continue;
            }
        };
        parse(&name, &text, &mut objects, &mut problems);
    }
    for located in &objects {
        validate(located, &mut problems);
    }
    duplicates(&objects, &mut problems);
    Problems::none_or(problems, objects)
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
        return Err(io::Error::other("it has more than 16 MiB: split it"));
    }
    fs::read_to_string(file)
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

fn parse(file: &Arc<str>, text: &str, objects: &mut Vec<Located>, problems: &mut Vec<Problem>) {
    let documents = match yaml::documents(text) {
        Ok(documents) => documents,
        Err(fault) => {
            problems.push(Problem {
                file: file.clone(),
                line: fault.line,
                object: String::new(),
                field: fault.field,
                message: fault.message,
            });
            return;
        }
    };
    for Document { value, lines } in documents {
        let lines: Arc<Lines> = lines.into();
        let place = Place::new(file.clone(), lines, String::new());
        collect(value, place, MAX_LISTS, objects, problems);
    }
}

/// The object, or those of a list.
fn collect(
    mut value: Value,
    place: Place,
    depth: usize,
    objects: &mut Vec<Located>,
    problems: &mut Vec<Problem>,
) {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let api_version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    if kind.is_empty() || api_version.is_empty() {
        let field = if kind.is_empty() {
            "kind"
        } else {
            "apiVersion"
        };
        let message = "is missing: every Kubernetes object has apiVersion and kind";
        problems.push(place.problem("", field, message));
        return;
    }
    if let (Some(item_kind), Some(items)) = (kind.strip_suffix("List"), value.get_mut("items")) {
        let Some(items) = items.as_array_mut() else {
            problems.push(place.problem("", "items", "expected a list"));
            return;
        };
        if depth == 0 {
            problems.push(place.problem("", "items", "lists in lists in lists: unfold them"));
            return;
        }
        for (index, mut item) in std::mem::take(items).into_iter().enumerate() {
            if let (Some(entries), false) = (item.as_object_mut(), item_kind.is_empty()) {
                // A typed list's items may leave out what the list says.
                entries.entry("kind").or_insert_with(|| item_kind.into());
                entries
                    .entry("apiVersion")
                    .or_insert_with(|| (*api_version).into());
            }
            collect(
                item,
                place.inside(&format!("items[{index}]")),
                depth - 1,
                objects,
                problems,
            );
        }
        return;
    }
    match object(value, &api_version, &kind, &place) {
        Ok(Some(object)) => objects.push(Located { object, place }),
        Ok(None) if kind.ends_with("NetworkPolicy") => {
            tracing::warn!(%kind, %api_version, at = %place, "not a kind of policy that podway enforces");
        }
        Ok(None) => {
            tracing::info!(%kind, %api_version, at = %place, "not a kind that podway reads");
        }
        Err(found) => problems.extend(found),
    }
}

fn object(
    value: Value,
    api_version: &str,
    kind: &str,
    place: &Place,
) -> Result<Option<Object>, Vec<Problem>> {
    let expected = match kind {
        "Node" | "Namespace" | "Pod" | "Service" => "v1",
        "Deployment" => "apps/v1",
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
    let mut object = match kind {
        "Node" => Object::Node(typed(value, kind, place)?),
        "Namespace" => Object::Namespace(typed(value, kind, place)?),
        "Pod" => Object::Pod(typed(value, kind, place)?),
        "Deployment" => Object::Deployment(typed(value, kind, place)?),
        "Service" => Object::Service(typed(value, kind, place)?),
        "EndpointSlice" => Object::EndpointSlice(typed(value, kind, place)?),
        "ServiceCIDR" => Object::ServiceCidr(typed(value, kind, place)?),
        "ClusterNetworkPolicy" => Object::ClusterNetworkPolicy(typed(value, kind, place)?),
        _ => Object::NetworkPolicy(typed(value, kind, place)?),
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

/// The value as a Kubernetes type, in which every field is known.
fn typed<T: DeserializeOwned + Serialize>(
    value: Value,
    kind: &str,
    place: &Place,
) -> Result<Box<T>, Vec<Problem>> {
    let typed: T = serde_path_to_error::deserialize(&value).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path.trim_end_matches(".?").to_owned(),
        };
        let message = type_message(&error.inner().to_string(), &field);
        vec![place.problem(kind, &field, message)]
    })?;
    // What doesn't come out again went in unread: a misspelt field must not loosen anything in silence.
    let known = serde_json::to_value(&typed).unwrap_or_default();
    let mut unknown = Vec::new();
    unread("", &value, &known, &mut unknown);
    if unknown.is_empty() {
        return Ok(Box::new(typed));
    }
    let message = format!("is not a field of a {kind}: look for a misspelling, or remove it");
    let problem = |field: &String| place.problem(kind, field, &*message);
    Err(unknown.iter().map(problem).collect())
}

fn unread(path: &str, given: &Value, known: &Value, unknown: &mut Vec<String>) {
    if let (Value::Object(given), Value::Object(known)) = (given, known) {
        for (key, value) in given {
            match known.get(key) {
                Some(known) => unread(&join(path, key), value, known, unknown),
                None if value.is_null() => {}
                None => unknown.push(join(path, key)),
            }
        }
    }
    if let (Value::Array(given), Value::Array(known)) = (given, known) {
        for (index, (value, known)) in given.iter().zip(known).enumerate() {
            unread(&format!("{path}[{index}]"), value, known, unknown);
        }
    }
}

/// Serde's words in ours.
fn type_message(message: &str, field: &str) -> String {
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let found = found
        .trim_start_matches("invalid type: ")
        .trim_start_matches("invalid value: ");
    let is_port = field.to_ascii_lowercase().ends_with("port");
    let expected = match expected {
        "i32" if is_port => "a number 1-65535",
        "IntOrString" | "a 32-bit integer" if is_port => "a number 1-65535 or a name",
        "i32" | "i64" | "a 32-bit integer" => "a number",
        "a string" => "text (in quotes, if it looks like something else)",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        other if other.starts_with("struct ") => "a mapping",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

fn duplicates(objects: &[Located], problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<String, &Place> = BTreeMap::new();
    for Located { object, place } in objects {
        let title = object.title();
        match seen.get(&title) {
            Some(first) => {
                let message = format!("{title} is at {first} already: rename or remove one");
                problems.push(place.problem(&title, "metadata.name", message));
            }
            None => drop(seen.insert(title, place)),
        }
    }
}

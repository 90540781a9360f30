//! Values as Kubernetes types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::problem::join;
use crate::{Place, Problem};

/// Quantities without quotes that an object may have.
const MAX_QUANTITIES: usize = 1_000;

/// The value as a Kubernetes type, in which every field is known.
///
/// Objects that an API server gave out may be of a later version than ours: what is unknown in them is said and left out,
/// unless they are policies, which may mean less than we would read.
pub(super) fn typed<T: DeserializeOwned + Serialize>(
    mut value: Value,
    kind: &str,
    place: &Place,
) -> Result<T, Vec<Problem>> {
    let typed: T = quoted(&mut value).map_err(|error| {
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
        return Ok(typed);
    }
    if is_stored(&value) && !kind.contains("Policy") {
        tracing::warn!(kind, at = %place, fields = unknown.join(" "), "fields that podway doesn't know are left out");
        return Ok(typed);
    }
    let message = format!("is not a field of a {kind}: look for a misspelling, or remove it");
    let problem = |field: &String| place.problem(kind, field, &*message);
    Err(unknown.iter().map(problem).collect())
}

/// True of objects that an API server gave out: nobody else gives uids.
fn is_stored(value: &Value) -> bool {
    value
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .is_some_and(|uid| !uid.is_empty())
}

/// The value's type, whose quantities may be numbers without quotes, as an API server takes them.
fn quoted<T: DeserializeOwned>(
    value: &mut Value,
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    let mut quantities = 0;
    loop {
        let error = match serde_path_to_error::deserialize(&*value) {
            Ok(typed) => return Ok(typed),
            Err(error) => error,
        };
        let is_quantity = error.inner().to_string().ends_with("expected Quantity");
        let number = at(value, error.path()).filter(|value| value.is_number());
        let (Some(number), true) = (number, is_quantity && quantities < MAX_QUANTITIES) else {
            return Err(error);
        };
        *number = Value::String(number.to_string());
        quantities += 1;
    }
}

/// The part of a value that a path leads to.
fn at<'a>(value: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, segment| match segment {
        Segment::Seq { index } => value.get_mut(*index),
        Segment::Map { key } => value.get_mut(key),
        Segment::Enum { .. } | Segment::Unknown => None,
    })
}

/// Adds the paths of the fields that are given and not known.
pub(crate) fn unread(path: &str, given: &Value, known: &Value, unknown: &mut Vec<String>) {
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
pub(crate) fn type_message(message: &str, field: &str) -> String {
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

//! Parts of objects, each read by itself, so that what is not understood of one says nothing about the others.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::{Findings, join};
use crate::read::typed::{type_message, unread};

/// A list that may be absent.
pub(super) enum List<'a> {
    /// Absent, null or empty: of rules none, of peers and ports all.
    Empty,
    /// It has entries.
    Of(&'a [Value]),
    /// It is no list.
    Unknown,
}

/// The list of a field; `Unknown` and a note if it is none.
pub(super) fn list<'a>(
    of: &'a Map<String, Value>,
    field: &str,
    at: &str,
    findings: &mut Findings<'_>,
) -> List<'a> {
    match of.get(field) {
        None | Some(Value::Null) => List::Empty,
        Some(Value::Array(entries)) if entries.is_empty() => List::Empty,
        Some(Value::Array(entries)) => List::Of(entries),
        Some(_) => {
            findings.note(&join(at, field), "expected a list");
            List::Unknown
        }
    }
}

/// The fields of a mapping; `None` and notes if it is none, or has fields that we don't know.
pub(super) fn mapping<'a>(
    value: &'a Value,
    known: &[&str],
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<&'a Map<String, Value>> {
    let Value::Object(fields) = value else {
        findings.note(at, "expected a mapping");
        return None;
    };
    let before = findings.count();
    for (field, value) in fields {
        if !known.contains(&field.as_str()) && !value.is_null() {
            let message = "is not known: look for a misspelling, or remove it";
            findings.note(&join(at, field), message);
        }
    }
    (findings.count() == before).then_some(fields)
}

/// A part as its API's type; `None` and notes if it is none, or if something of it would fall out unread.
pub(super) fn part<T: DeserializeOwned + Serialize>(
    value: &Value,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let typed: T = match serde_path_to_error::deserialize(value) {
        Ok(typed) => typed,
        Err(error) => {
            let path = error.path().to_string();
            let field = path.trim_end_matches(".?").trim_start_matches('.');
            let message = type_message(&error.inner().to_string(), field);
            findings.note(&join(at, field), message);
            return None;
        }
    };
    let mut unknown = Vec::new();
    let known = serde_json::to_value(&typed).unwrap_or_default();
    unread("", value, &known, &mut unknown);
    for field in &unknown {
        let message = "is not known: look for a misspelling, or remove it";
        findings.note(&join(at, field), message);
    }
    unknown.is_empty().then_some(typed)
}

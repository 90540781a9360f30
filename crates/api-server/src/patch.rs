//! The three ways in which clients patch objects.

use serde_json::Value;

/// Lists whose entries a strategic merge tells apart by a field, instead of replacing the list.
const MERGED: [(&str, &str); 2] = [("conditions", "type"), ("addresses", "type")];

/// Applies a patch of this content type; the error says why it can't be.
pub(crate) fn patch(object: &mut Value, content_type: &str, patch: &Value) -> Result<(), String> {
    match content_type {
        "application/json-patch+json" => {
            let steps = patch.as_array().ok_or("a JSON patch is a list")?;
            let mut patched = object.clone();
            for step in steps {
                take_step(&mut patched, step)?;
            }
            *object = patched;
            Ok(())
        }
        "application/merge-patch+json" => {
            merge(object, patch, &[]);
            Ok(())
        }
        "application/strategic-merge-patch+json" => {
            merge(object, patch, &MERGED);
            Ok(())
        }
        other => Err(format!("no patch is of type {other:?}")),
    }
}

/// RFC 7396, and lists whose entries are told apart.
fn merge(object: &mut Value, patch: &Value, lists: &[(&str, &str)]) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Default::default());
    }
    for (field, value) in fields {
        let merged = lists.iter().find(|(list, _)| list == field);
        match (value, merged) {
            (Value::Null, _) => {
                object.as_object_mut().map(|fields| fields.remove(field));
            }
            (Value::Array(entries), Some((_, key))) => merge_list(&mut object[field], entries, key),
            _ => merge(&mut object[field], value, lists),
        }
    }
}

fn merge_list(list: &mut Value, entries: &[Value], key: &str) {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(list) = list else { return };
    for entry in entries {
        match list.iter_mut().find(|old| old[key] == entry[key]) {
            Some(old) => merge(old, entry, &[]),
            None => list.push(entry.clone()),
        }
    }
}

/// RFC 6902: `test`, `add`, `replace` and `remove`.
fn take_step(object: &mut Value, step: &Value) -> Result<(), String> {
    let path = step["path"].as_str().ok_or("a step has a path")?;
    let operation = step["op"].as_str().ok_or("a step has an op")?;
    let missing = || format!("there is no {path}");
    if operation == "test" {
        return match object.pointer(path) == Some(&step["value"]) {
            true => Ok(()),
            false => Err(format!("testing {path} failed")),
        };
    }
    let (parent, last) = path.rsplit_once('/').ok_or_else(missing)?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let parent = object.pointer_mut(parent).ok_or_else(missing)?;
    match (operation, parent) {
        ("remove", Value::Object(fields)) => fields.remove(&last).map(drop).ok_or_else(missing),
        ("add" | "replace", Value::Object(fields)) => {
            fields.insert(last, step["value"].clone());
            Ok(())
        }
        (operation, Value::Array(list)) => {
            let index = last.parse().unwrap_or(list.len());
            match operation {
                "remove" if index < list.len() => drop(list.remove(index)),
                "replace" if index < list.len() => list[index] = step["value"].clone(),
                "add" if index <= list.len() => list.insert(index, step["value"].clone()),
                _ => return Err(missing()),
            }
            Ok(())
        }
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_merged_by_their_type() {
        let mut node = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"},
        ]}});
        let wanted =
            json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}});
        patch(&mut node, "application/strategic-merge-patch+json", &wanted).expect("fits");
        assert_eq!(node["status"]["conditions"][0]["status"], "True");
        assert_eq!(node["status"]["conditions"][1]["status"], "False");
    }

    #[test]
    fn a_json_patch_whose_test_fails_changes_nothing() {
        let mut node = json!({"spec": {"taints": [{"key": "a"}, {"key": "b"}]}});
        let before = node.clone();
        let of = |key: &str| {
            json!([
                {"op": "test", "path": "/spec/taints/1/key", "value": key},
                {"op": "remove", "path": "/spec/taints/1"},
            ])
        };
        let content_type = "application/json-patch+json";
        patch(&mut node, content_type, &of("c")).expect_err("another taint");
        assert_eq!(node, before);
        patch(&mut node, content_type, &of("b")).expect("fits");
        assert_eq!(node, json!({"spec": {"taints": [{"key": "a"}]}}));
    }
}

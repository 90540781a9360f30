//! Every Kubernetes object of the shared test vectors converts, one at a time, as a watch would give them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use podway_control::convert::{self, Converted};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The vectors' folder: `PODWAY_VECTORS`, or beside the project.
fn folder() -> PathBuf {
    match std::env::var_os("PODWAY_VECTORS") {
        Some(folder) => folder.into(),
        None => PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/vectors"
        )),
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(object).map_err(|error| error.to_string())
}

/// Converts one object of a row's list; `None` for lists that we have no words for.
fn convert_one(list: &str, object: &Value) -> Option<Result<(), String>> {
    Some(match list {
        "services" => typed(object).and_then(|one| convert::service(&one).map_or(Ok(()), whole)),
        "endpointSlices" => typed(object).and_then(|one| {
            let slice = convert::endpoint_slice(&one).map_err(|problems| problems.to_string())?;
            slice.map_or(Ok(()), whole)
        }),
        "networkPolicies" => typed(object).and_then(|one| whole(convert::network_policy(&one))),
        "namespaces" => typed(object).and_then(|one| whole(convert::namespace(&one))),
        "pods" => typed(object).and_then(|one| whole(convert::pod(&one))),
        "nodes" => typed(object).and_then(|one| whole(convert::node(&one))),
        _ => return None,
    })
}

/// Nothing of it is otherwise than it is written.
fn whole<T>(converted: Converted<T>) -> Result<(), String> {
    match converted.problems.first() {
        None => Ok(()),
        Some(problem) => Err(problem.to_string()),
    }
}

#[test]
fn every_object_of_the_vectors_converts() {
    let folder = folder();
    if !podway_needs::vectors(&folder) {
        return;
    }
    let entries = fs::read_dir(&folder).expect("the folder of test vectors can be read");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for entry in entries {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|end| end != "jsonl") {
            continue;
        }
        for line in fs::read_to_string(&file).unwrap().lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let steps = row["steps"].as_array().cloned().unwrap_or_default();
            for step in steps.iter().chain([&row]) {
                // Rows that an API server would refuse may be refused here too.
                let may_fail = row["apiInvalid"] != Value::Null;
                for (list, objects) in step.as_object().unwrap() {
                    for object in objects.as_array().into_iter().flatten() {
                        match convert_one(list, object) {
                            None => {}
                            Some(Ok(())) => *counts.entry(list.clone()).or_default() += 1,
                            Some(Err(_)) if may_fail => {}
                            Some(Err(error)) => failures.push(format!("{}: {error}", row["test"])),
                        }
                    }
                }
            }
        }
    }
    println!("converted {counts:?}");
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(!counts.is_empty(), "no objects at {}", folder.display());
}

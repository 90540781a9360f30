//! The manifests that install podway in a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file of config/kubernetes.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../config/kubernetes")
        .join(name)
}

/// The one object of this type in a file, of which the API knows every field.
pub(crate) fn object<T: Resource + DeserializeOwned + Serialize>(file: &str) -> T {
    let text = fs::read_to_string(path(file)).expect("there");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let of_type = |it: &&Value| it["kind"] == T::KIND && it["apiVersion"] == T::API_VERSION;
    let found: Vec<&Value> = documents.iter().filter(of_type).collect();
    let [value] = found[..] else {
        panic!("{} objects of kind {} in {file}", found.len(), T::KIND);
    };
    let object: T = serde_json::from_value(value.clone()).expect("of its type");
    let known = serde_json::to_value(&object).expect("JSON");
    assert_eq!(*value, known, "a field that {} does not have", T::KIND);
    object
}

/// The pods that agents run in.
pub(crate) fn pod() -> PodSpec {
    let agents: DaemonSet = object("agents.yaml");
    let template = agents.spec.template;
    template.spec.expect("pods")
}

/// The capabilities that the agent is granted, and no others are left to it.
pub(crate) fn capabilities() -> Vec<String> {
    let [agent] = &pod().containers[..] else {
        panic!("one container");
    };
    let security = agent.security_context.clone().expect("limits");
    let capabilities = security.capabilities.expect("some");
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    capabilities.add.expect("some")
}

//! A policy as it is written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A policy of either kind as it is written, whether or not we understand all of it.
///
/// A type would lose what a newer API server has and we don't know, and what is left would allow more than is written
/// (N19). So policies are read where they are converted, part by part, whatever source they are from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyObject {
    /// Name, namespace, annotations.
    pub metadata: ObjectMeta,
    /// All else: `apiVersion`, `kind`, `spec`, …
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl PolicyObject {
    /// What it says; `Null` if it says nothing.
    pub fn spec(&self) -> &Value {
        self.fields.get("spec").unwrap_or(&Value::Null)
    }

    /// The same as the API's type; `None` if it is none.
    pub fn typed<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_value(serde_json::to_value(self).ok()?).ok()
    }
}

//! Tells the cluster that a node's dataplane is ready: by the node's condition, and by taking away the taint that
//! kept pods off it until then.

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};

use super::complain::CREATE_EVENT;

/// The condition that is set, as other network plugins do.
const CONDITION: &str = "NetworkUnavailable";
const REASON: &str = "PodwayIsReady";
/// The bytes of an answer at most.
const ANSWER: usize = 4 << 20;

/// Says that a node is ready.
#[derive(Clone)]
pub struct Announcer {
    pub(super) client: kube::Client,
}

/// Why a node could not be said to be ready.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The API server can't be asked.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
    /// It says no.
    #[error("the API server refuses to {verb} {resource}: {problem}")]
    Refused {
        /// What was asked for.
        verb: &'static str,
        /// Of what.
        resource: &'static str,
        /// Its answer.
        problem: String,
    },
}

/// A request of an announcement, as RBAC calls it.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) verb: &'static str,
    pub(super) resource: &'static str,
}

/// What an API server answers.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) value: Value,
}

impl Answer {
    /// What it gives; an error if it is a refusal.
    pub(super) fn succeeded(self, asked: Asked) -> Result<Value, AnnounceError> {
        if self.status.is_success() {
            return Ok(self.value);
        }
        let Asked { verb, resource } = asked;
        let message = self.value["message"].as_str().unwrap_or("no reason given");
        Err(AnnounceError::Refused {
            verb,
            resource,
            problem: format!("{} ({message})", self.status),
        })
    }
}

/// Which kinds there are; everybody who is known may ask.
pub(super) const DISCOVER: Asked = Asked {
    verb: "get",
    resource: "API groups",
};

const GET_NODE: Asked = Asked {
    verb: "get",
    resource: "nodes",
};
const PATCH_NODE: Asked = Asked {
    verb: "patch",
    resource: "nodes",
};
const PATCH_STATUS: Asked = Asked {
    verb: "patch",
    resource: "nodes/status",
};

impl Announcer {
    /// What an API server is asked for beside what is watched: resources and verbs, as RBAC calls them.
    pub fn rights() -> impl Iterator<Item = (&'static str, &'static str)> {
        [GET_NODE, PATCH_NODE, PATCH_STATUS, CREATE_EVENT]
            .into_iter()
            .map(|asked| (asked.resource, asked.verb))
    }

    /// Sets the node's condition and removes the taint with this key; what is so already is left alone.
    pub async fn announce(&self, node: &str, taint: &str) -> Result<(), AnnounceError> {
        let path = format!("/api/v1/nodes/{node}");
        let answer = self.ask(GET_NODE, Method::GET, &path, None).await?;
        let found: Node = serde_json::from_value(answer).map_err(|error| unreadable(&error))?;
        if !is_told(&found) {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = json!({
                "type": CONDITION, "status": "False", "reason": REASON,
                "message": "the tables of podway are in force",
                "lastTransitionTime": now, "lastHeartbeatTime": now,
            });
            let patch = json!({"status": {"conditions": [condition]}});
            let content = ("application/strategic-merge-patch+json", patch);
            let path = format!("{path}/status");
            self.ask(PATCH_STATUS, Method::PATCH, &path, Some(content))
                .await?;
        }
        if let Some(index) = index_of(&found, taint) {
            // Somebody else may change the list meanwhile: then this fails, and is tried again.
            let patch = json!([
                {"op": "test", "path": format!("/spec/taints/{index}/key"), "value": taint},
                {"op": "remove", "path": format!("/spec/taints/{index}")},
            ]);
            let content = ("application/json-patch+json", patch);
            self.ask(PATCH_NODE, Method::PATCH, &path, Some(content))
                .await?;
            tracing::info!(node, taint, "taint removed: pods may come");
        }
        Ok(())
    }

    async fn ask(
        &self,
        asked: Asked,
        method: Method,
        path: &str,
        content: Option<(&str, Value)>,
    ) -> Result<Value, AnnounceError> {
        self.send(method, path, content).await?.succeeded(asked)
    }

    /// Sends a request with a content of a type.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<(&str, Value)>,
    ) -> Result<Answer, AnnounceError> {
        let mut request = Request::builder().method(method).uri(path);
        let mut body = Body::empty();
        if let Some((content_type, value)) = content {
            request = request.header(header::CONTENT_TYPE, content_type);
            body = Body::from(value.to_string().into_bytes());
        }
        let request = request.body(body).map_err(|error| unreachable(&error))?;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let bytes = Limited::new(answer.into_body(), ANSWER).collect().await;
        let bytes = bytes.map_err(|error| unreachable(&*error))?.to_bytes();
        let value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Answer { status, value })
    }
}

fn is_told(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|it| it.conditions.iter().flatten());
    conditions.any(|condition| {
        condition.type_ == CONDITION
            && condition.status == "False"
            && condition.reason.as_deref() == Some(REASON)
    })
}

fn index_of(node: &Node, taint: &str) -> Option<usize> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    taints.iter().position(|it| it.key == taint)
}

fn unreachable(error: &dyn std::error::Error) -> AnnounceError {
    AnnounceError::Unreachable(error.to_string())
}

fn unreadable(error: &serde_json::Error) -> AnnounceError {
    AnnounceError::Unreachable(format!("it sends what is no Node ({error})"))
}

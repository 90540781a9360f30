//! Tells a cluster, by Events, of policies that do not hold as they are written (N19).

use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use podway_intent::Key;
use serde_json::json;
use tokio::sync::mpsc;

use super::Kind;
use super::announce::{AnnounceError, Announcer, Asked};

/// Complaints that wait at most; of more, only the status tells.
const WAITING: usize = 256;
/// The characters of an Event's message and of an object's name in the Event's at most.
const MESSAGE: usize = 1_000;
const NAME: usize = 200;

pub(super) const CREATE_EVENT: Asked = Asked {
    verb: "create",
    resource: "events",
};

/// What is wrong with a version of an object, and what happens for it.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) uid: String,
    /// The version, by which all agents call the Event the same.
    pub(super) version: u64,
    pub(super) message: String,
}

/// Where complaints go.
#[derive(Clone, Debug)]
pub(super) struct Complaints(mpsc::Sender<Complaint>);

impl Complaints {
    /// Complaints go to the end that is returned, too.
    pub(super) fn new() -> (Complaints, mpsc::Receiver<Complaint>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Complaints(sender), receiver)
    }

    /// Has something told, if there is room: nothing waits for it.
    pub(super) fn tell(&self, complaint: Complaint) {
        let _ = self.0.try_send(complaint);
    }
}

/// Tells what comes; what the server does not take is in the status in any case.
pub(super) async fn tell(announcer: Announcer, mut complaints: mpsc::Receiver<Complaint>) {
    let mut last = String::new();
    while let Some(complaint) = complaints.recv().await {
        match create(&announcer, &complaint).await {
            Ok(()) => last.clear(),
            Err(error) => {
                let error = error.to_string();
                if error != last {
                    tracing::warn!(
                        error,
                        "no Event tells of policies that are not as they are written: see `podway show status`"
                    );
                }
                last = error;
            }
        }
    }
}

/// Makes the Event; another agent may have been first.
async fn create(announcer: &Announcer, complaint: &Complaint) -> Result<(), AnnounceError> {
    let (namespace, name) = match &complaint.key {
        Key::NetworkPolicy(name) => (Some(&*name.namespace), &*name.name),
        Key::ClusterNetworkPolicy(name) => (None, &**name),
        // Of others, the status tells.
        Key::Node(_)
        | Key::Namespace(_)
        | Key::Pod(_)
        | Key::Service(_)
        | Key::EndpointSlice(_)
        | Key::ServiceCidr(_)
        | Key::Attachment(_)
        | Key::Neighbour(_)
        | Key::Route(_)
        | Key::LinkNeighbour(_)
        | Key::OwnAddress(_)
        | Key::Setup => return Ok(()),
    };
    let kind = complaint.kind;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let start: String = name.chars().take(NAME).collect();
    let start = start.trim_end_matches(['.', '-']);
    let home = namespace.unwrap_or("default");
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{start}.{:016x}", complaint.version), "namespace": home},
        "involvedObject": {
            "apiVersion": format!("{}/{}", kind.group(), kind.version()),
            "kind": kind.name(),
            "namespace": namespace,
            "name": name,
            "uid": complaint.uid,
        },
        "type": "Warning",
        "reason": "NotAsWritten",
        "message": complaint.message.chars().take(MESSAGE).collect::<String>(),
        "source": {"component": "podway"},
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    let path = format!("/api/v1/namespaces/{home}/events");
    let content = ("application/json", event);
    let answer = announcer.send(Method::POST, &path, Some(content)).await?;
    match answer.status {
        StatusCode::CONFLICT => Ok(()),
        _ => answer.succeeded(CREATE_EVENT).map(drop),
    }
}

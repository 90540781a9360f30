//! The test API server, which says whatever it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use podway_api_server::{ApiServer, Resource, Store};
use podway_control::Kind;
use serde_json::{Value, json};

use super::served::{Object, Served, changed, gone};
use crate::Error;

/// A server that listens until this value ends.
pub(super) struct Ours {
    store: Arc<Store>,
    _server: ApiServer,
}

impl Ours {
    /// Serves these objects, all of them from the first request on.
    ///
    /// Versions begin where the time is, so that a server that is started anew has a history that was compacted.
    pub(super) async fn start(address: SocketAddr, served: &Served) -> Result<Ours, Error> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let version = since.map_or(1, |since| since.as_micros() as u64);
        let resources = Kind::ALL.into_iter().map(resource);
        let store = Arc::new(Store::starting_at(version, resources));
        feed(&store, &Served::new(), served);
        let server = ApiServer::start(store.clone(), address).await;
        let server = server.map_err(|source| Error::Serve {
            address: address.ip(),
            port: address.port(),
            source,
        })?;
        Ok(Ours {
            store,
            _server: server,
        })
    }

    pub(super) fn feed(&self, before: &Served, now: &Served) {
        feed(&self.store, before, now);
    }
}

/// Applies what differs from what was served last, and deletes what is no more: what agents patched into the others stays.
fn feed(store: &Store, before: &Served, now: &Served) {
    for (object, value) in changed(before, now) {
        store.apply(
            &resource(object.kind),
            with_conditions(store, object, value),
        );
    }
    for object in gone(before, now) {
        // Gone by somebody else's hand is gone, too.
        let _ = store.delete(&resource(object.kind), &object.namespace, &object.name);
    }
}

fn resource(kind: Kind) -> Resource {
    Resource::of_path(&kind.path()).expect("kinds have paths")
}

/// The object with what a server gives it: an identity, and the conditions of before, which manifests don't speak of.
fn with_conditions(store: &Store, object: &Object, value: &Value) -> Value {
    let Object {
        kind,
        namespace,
        name,
    } = object;
    let mut value = value.clone();
    if value["metadata"]["uid"].is_null() {
        // The same after a restart, which is no new cluster.
        value["metadata"]["uid"] = json!(format!("{kind}-{namespace}-{name}"));
    }
    let before = store.object(&resource(*kind), namespace, name);
    let given = before.map(|before| before["status"]["conditions"].clone());
    if let Some(given) = given.filter(|given| !given.is_null())
        && value["status"]["conditions"].is_null()
    {
        value["status"]["conditions"] = given;
    }
    value
}

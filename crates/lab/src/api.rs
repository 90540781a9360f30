//! The API server of a lab whose agents follow one: it says what the directory of manifests says.
//!
//! It is a process of its own in the world outside, so that it can be stopped, and started again, under running agents.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use podway_api_server::{ApiServer, Resource, Store};
use podway_cni::Namespace;
use podway_control::{Directory, Kind, Manifests};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::{Node, Protocol};
use crate::process::{Recorded, listeners, start as start_process};
use crate::up::not_ready;
use crate::{Error, Up};

/// Where it listens, as API servers do.
const PORT: u16 = 6443;

/// What is served, and where.
#[derive(Clone, Copy, Debug)]
pub struct ApiService<'a> {
    /// The directory of manifests.
    pub manifests: &'a Path,
    /// Where it listens; `::` takes IPv4 too.
    pub address: SocketAddr,
}

/// The objects that were served last, by resource, namespace and name.
type Served = BTreeMap<(Resource, String, String), Value>;

/// How a node reaches the API server: at an address of the world of a family that the node has.
pub(crate) fn kubeconfig(node: &Node, outside: &[IpNet]) -> Result<String, Error> {
    let is_reached = |world: &&IpNet| {
        let mut own = node.addresses.iter();
        own.any(|address| address.is_ipv4() == world.addr().is_ipv4())
    };
    let world = outside.iter().find(is_reached).ok_or(Error::NoAddress)?;
    let address = SocketAddr::from((world.addr(), PORT));
    Ok(podway_api_server::kubeconfig(address))
}

/// Starts it in the world; it listens when this returns.
pub(crate) fn start(options: &Up, manifests: &Path) -> Result<Recorded, Error> {
    let (name, log) = ("API server", options.place.api_server_log());
    let world = Namespace::named(&options.place.world())?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let mut command = Command::new(&options.executable);
    command.args(["lab", "api-server"]).arg(manifests);
    command.args(["--bind", &address.to_string()]);
    let (mut child, process) = start_process(name, &world, &mut command, &log)?;
    let deadline = Instant::now() + options.timeout;
    loop {
        let mut all = listeners(&world)?.into_iter();
        if all.any(|it| (it.protocol, it.port) == (Protocol::Tcp, PORT)) {
            return Ok(process);
        }
        let what = format!("it does not listen on port {PORT}");
        if let Ok(Some(ended)) = child.try_wait() {
            let what = format!("{what}: it ended with {ended}");
            return Err(not_ready(options, name, what, &log));
        }
        if Instant::now() > deadline {
            return Err(not_ready(options, name, what, &log));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Serves the objects of a directory of manifests and what is changed in it; returns only if that fails.
///
/// Versions begin where the time is, so that a server that is started anew has a history that was compacted.
pub async fn serve_api(options: ApiService<'_>) -> Result<Infallible, Error> {
    let ApiService { manifests, address } = options;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let version = since.map_or(1, |since| since.as_micros() as u64);
    let resources = Kind::ALL.into_iter().map(resource);
    let store = Arc::new(Store::starting_at(version, resources));
    let (mut directory, _) =
        Directory::open(manifests).map_err(|problems| Error::Manifests(problems.to_string()))?;
    let mut served = Served::new();
    feed(&store, directory.manifests(), &mut served);
    let server = ApiServer::start(store.clone(), address).await;
    let _server = server.map_err(|source| Error::Serve {
        address: address.ip(),
        port: address.port(),
        source,
    })?;
    loop {
        let batch = directory.next().await;
        for problem in &batch.problems {
            eprintln!("{problem}: the last good state is served");
        }
        feed(&store, directory.manifests(), &mut served);
    }
}

fn resource(kind: Kind) -> Resource {
    Resource {
        prefix: match kind.group() {
            "" => format!("/api/{}", kind.version()),
            group => format!("/apis/{group}/{}", kind.version()),
        },
        plural: kind.plural().to_owned(),
    }
}

/// Applies what differs from what was served last, and deletes what is no more: what agents patched into the others stays.
fn feed(store: &Store, manifests: &Manifests, served: &mut Served) {
    let mut now = Served::new();
    take(&mut now, Kind::Node, &manifests.nodes);
    take(&mut now, Kind::Namespace, &manifests.namespaces);
    take(&mut now, Kind::Pod, &manifests.pods);
    take(&mut now, Kind::Service, &manifests.services);
    take(&mut now, Kind::EndpointSlice, &manifests.endpoint_slices);
    take(&mut now, Kind::NetworkPolicy, &manifests.network_policies);
    let policies = &manifests.cluster_network_policies;
    take(&mut now, Kind::ClusterNetworkPolicy, policies);
    for (place, object) in &now {
        if served.get(place) != Some(object) {
            store.apply(&place.0, with_conditions(store, place, object));
        }
    }
    for (resource, namespace, name) in served.keys().filter(|place| !now.contains_key(place)) {
        // Gone by somebody else's hand is gone, too.
        let _ = store.delete(resource, namespace, name);
    }
    *served = now;
}

/// The object with the conditions that agents gave it, which manifests don't speak of.
fn with_conditions(store: &Store, place: &(Resource, String, String), object: &Value) -> Value {
    let (resource, namespace, name) = place;
    let mut object = object.clone();
    let before = store.object(resource, namespace, name);
    let given = before.map(|before| before["status"]["conditions"].clone());
    if let Some(given) = given.filter(|given| !given.is_null())
        && object["status"]["conditions"].is_null()
    {
        object["status"]["conditions"] = given;
    }
    object
}

fn take<T: Serialize>(served: &mut Served, kind: Kind, objects: &[T]) {
    for object in objects {
        let mut object = serde_json::to_value(object).unwrap_or_default();
        let text = |field: &str| {
            let text = object["metadata"][field].as_str();
            text.unwrap_or_default().to_owned()
        };
        let (namespace, name) = (text("namespace"), text("name"));
        if object["metadata"]["uid"].is_null() {
            // The same after a restart, which is no new cluster.
            object["metadata"]["uid"] = json!(format!("{kind}-{namespace}-{name}"));
        }
        served.insert((resource(kind), namespace, name), object);
    }
}

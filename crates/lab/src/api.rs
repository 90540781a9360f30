//! The API server of a lab whose agents follow one: it says what the directory of manifests says.
//!
//! It is a process of its own in the world outside, so that it can be stopped, and started again, under running agents.
//! Where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd, it is those; else the API server for tests.

mod ours;
mod real;
mod served;

use std::convert::Infallible;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use podway_api_server::{Assets, real_kubeconfig};
use podway_control::Directory;
use podway_host::Namespace;

use self::ours::Ours;
use self::real::RealServer;
use self::served::served;
use crate::cluster::{Cluster, Node};
use crate::process::{Recorded, start as start_process};
use crate::underlay::Underlay;
use crate::up::{file, not_ready};
use crate::{Error, Place, Up};

/// Where it listens, as API servers do.
const PORT: u16 = 6443;
/// How many times longer a real one may take to be ready.
const REAL: u32 = 4;

/// What is served, and where.
#[derive(Clone, Copy, Debug)]
pub struct ApiService<'a> {
    /// The directory of manifests.
    pub manifests: &'a Path,
    /// Where it listens; `::` takes IPv4 too.
    pub address: SocketAddr,
    /// The lab that it is of.
    pub place: &'a Place,
}

enum Server {
    Ours(Ours),
    Real(Box<RealServer>),
}

/// How a node reaches the API server: at an address of the world of a family that the node has.
pub(crate) fn kubeconfig(node: &Node, outside: &[IpNet]) -> Result<String, Error> {
    let is_reached = |world: &&IpNet| {
        let mut own = node.addresses.iter();
        own.any(|address| address.is_ipv4() == world.addr().is_ipv4())
    };
    let world = outside.iter().find(is_reached).ok_or(Error::NoAddress)?;
    let address = SocketAddr::from((world.addr(), PORT));
    Ok(match Assets::named() {
        None => podway_api_server::kubeconfig(address),
        Some(_) => real_kubeconfig(address),
    })
}

/// Starts it in the world; all that it is to say is there when this returns.
pub(crate) fn start(options: &Up, manifests: &Path) -> Result<Recorded, Error> {
    let (name, log) = ("API server", options.place.api_server_log());
    let world = Namespace::named(&options.place.world())?;
    let mut command = Command::new(&options.executable);
    command.args(["lab", "api-server"]).arg(manifests);
    let (mut child, process) = start_process(name, &world, &mut command, &log)?;
    let patience = match Assets::named() {
        None => options.timeout,
        Some(_) => options.timeout * REAL,
    };
    let deadline = Instant::now() + patience;
    while !options.place.api_server_ready().exists() {
        let what = "it does not serve the manifests";
        if let Ok(Some(ended)) = child.try_wait() {
            let what = format!("{what}: it ended with {ended}");
            return Err(not_ready(options, name, what, &log));
        }
        if Instant::now() > deadline {
            return Err(not_ready(options, name, what.to_owned(), &log));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}

/// Serves the objects of a directory of manifests and what is changed in it; returns only if that fails.
pub async fn serve_api(options: ApiService<'_>) -> Result<Infallible, Error> {
    let ApiService {
        manifests,
        address,
        place,
    } = options;
    let ready = place.api_server_ready();
    match fs::remove_file(&ready) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => file(&ready, removed)?,
    }
    let (mut directory, _) =
        Directory::open(manifests).map_err(|problems| Error::Manifests(problems.to_string()))?;
    let mut last = served(directory.manifests());
    let server = match Assets::named() {
        None => Server::Ours(Ours::start(address, &last).await?),
        Some(assets) => {
            let outside = Underlay::One.of_world(&Cluster::load(manifests)?.nodes);
            let advertised = outside.first().ok_or(Error::NoAddress)?.addr();
            let addresses = (address, advertised);
            let folder = place.api_server();
            let real = RealServer::start(&assets, &folder, addresses, &last).await?;
            Server::Real(Box::new(real))
        }
    };
    file(&ready, fs::write(&ready, ""))?;
    loop {
        let batch = directory.next().await;
        for problem in &batch.problems {
            eprintln!("{problem}: the last good state is served");
        }
        let now = served(directory.manifests());
        match &server {
            Server::Ours(ours) => ours.feed(&last, &now),
            Server::Real(real) => real.take(&last, &now).await,
        }
        last = now;
    }
}

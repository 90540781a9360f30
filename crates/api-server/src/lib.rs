//! An API server for labs and tests: lists and watches over real HTTP, with resource versions, pages, bookmarks, a
//! history that can be compacted, and the troubles that real ones make.
//!
//! It holds any JSON and checks none: validation, admission and accounts are what real API servers are for, and [`Assets`]
//! starts one where its programs are.

mod discover;
mod fault;
mod patch;
mod real;
mod resource;
mod serve;
mod store;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use fault::Fault;
pub use real::{Assets, DEFINITIONS, Real, RealSettings, TOKEN, definition, real_kubeconfig};
pub use resource::Resource;
pub use store::{NoSuchObject, Store};

/// A listening server; it and all its connections end with this value, and the store stays.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Serves a store at an address; port 0 takes a free one. Needs a tokio runtime.
    pub async fn start(store: Arc<Store>, address: SocketAddr) -> io::Result<ApiServer> {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // A server that was stopped comes back at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener: TcpListener = socket.listen(1024)?;
        Ok(ApiServer {
            address: listener.local_addr()?,
            task: tokio::spawn(serve::serve(listener, store)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads to it.
    pub fn kubeconfig(&self) -> String {
        kubeconfig(self.address)
    }

    /// Serves until the process ends.
    pub async fn forever(mut self) {
        // The task ends only with this value.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A kubeconfig that leads to a server at this address.
pub fn kubeconfig(address: SocketAddr) -> String {
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{ name: podway, cluster: {{ server: "http://{address}" }} }}]
users: [{{ name: podway, user: {{}} }}]
contexts: [{{ name: podway, context: {{ cluster: podway, user: podway }} }}]
current-context: podway
"#
    )
}

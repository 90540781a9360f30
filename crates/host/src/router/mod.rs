//! The node as a router: what its kernel knows of the ways out, its neighbours and its own addresses, as they change.
//!
//! A thread of its own reads them, because a node that speaks BGP has a hundred thousand routes. The kernel does not
//! tell of every route that goes with a device or an address, so events only say that it is time to read again; what
//! is told to others is the difference. Reading takes a ninth of the thread's time at most: what is read in 10 ms is
//! followed within 0.1 s, and what takes a second is read every 9 s.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are not ours, and grow with the kernel"
)]

mod facts;
mod keep;
mod read;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use podway_intent::{Change, LinkAddress};
use podway_wire::Mac;
use tokio::sync::mpsc;

use self::watch::Watch;
use crate::NetlinkError;

/// What is told at a time, and how much of it may wait.
const NEWS: usize = 4;
/// Neighbours that may wait to be asked for; what doesn't fit is wanted again by its next packet.
const WANTS: usize = 256;

/// A device that packets can be sent by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The largest IP packet that it takes, in bytes.
    pub mtu: u32,
}

/// What differs from what was told before.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Routes, neighbours and own addresses that are now otherwise.
    pub changes: Vec<Change>,
    /// All devices that routes lead to and that packets can be sent by.
    pub uplinks: Vec<Interface>,
    /// What is not followed, in words.
    pub problems: Vec<String>,
}

/// The thread that reads, as others see it.
pub struct Router {
    news: mpsc::Receiver<News>,
    wants: mpsc::Sender<LinkAddress>,
}

impl Router {
    /// Begins to read in the caller's network namespace. Routes out of `host_interface` are the dataplane's own.
    pub fn watch(host_interface: &str) -> Result<Router, NetlinkError> {
        let (tell, news) = mpsc::channel(NEWS);
        let (wants, wanted) = mpsc::channel(WANTS);
        let host_interface = host_interface.to_owned();
        let thread = std::thread::Builder::new().name("router".to_owned());
        let spawned = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(Watch::run(host_interface, tell, wanted)),
                Err(error) => tell_trouble(&tell, &NetlinkError::Socket(error)),
            }
        });
        spawned.map_err(NetlinkError::Socket)?;
        Ok(Router { news, wants })
    }

    /// What is new; the first time all there is. A call that is dropped loses nothing.
    pub async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // What was told last stays so.
            None => std::future::pending().await,
        }
    }

    /// Has the kernel resolve a neighbour, and keep it resolved for as long as there is room for it.
    pub fn want(&self, neighbour: LinkAddress) {
        let _ = self.wants.try_send(neighbour);
    }
}

fn tell_trouble(tell: &mpsc::Sender<News>, error: &NetlinkError) {
    let _ = tell.try_send(News {
        problems: vec![format!("routes are not followed: {error}")],
        ..News::default()
    });
}

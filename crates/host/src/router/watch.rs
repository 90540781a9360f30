//! The loop that reads the kernel when it tells of something, and tells others what differs.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use podway_intent::{Change, Key, LinkAddress, Resolved};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::facts::Read;
use super::keep::Keep;
use super::table::{ROUTES, Table, resolved, table};
use super::{Interface, News, read, tell_trouble};
use crate::ask::{collect, refused, within};
use crate::{Heard, KernelEvents, NetlinkError, Network};

/// How long a burst of events is waited for.
const QUIET: Duration = Duration::from_millis(20);
/// How many times as long as reading takes is waited before it is done again.
const PACE: u32 = 8;
/// How often all is read without an event.
const AGAIN: Duration = Duration::from_secs(10);
/// Routes that are read beyond those that are followed: several for one range.
const SPARE: usize = ROUTES / 4;

/// EOPNOTSUPP and EAFNOSUPPORT of errno.h.
const NO_FAMILY: [i32; 2] = [95, 97];

/// What has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    Neighbours,
    All,
}

/// The loop's state.
pub(super) struct Watch {
    host_interface: String,
    network: Network,
    events: KernelEvents,
    tell: mpsc::Sender<News>,
    keep: Keep,
    /// What was told.
    table: Table,
    neighbours: HashMap<LinkAddress, Resolved>,
    /// The uplinks and problems that were told; `None` before anything was.
    told: Option<(Vec<Interface>, Vec<String>)>,
    /// When a reading may begin.
    next: Instant,
}

impl Watch {
    /// Reads for as long as somebody listens.
    pub(super) async fn run(
        host_interface: String,
        tell: mpsc::Sender<News>,
        mut wants: mpsc::Receiver<LinkAddress>,
    ) {
        let mut watch = match Watch::open(host_interface, tell.clone()) {
            Ok(watch) => watch,
            Err(error) => return tell_trouble(&tell, &error),
        };
        let mut stale = Stale::All;
        loop {
            let began = Instant::now();
            if watch.look(stale).await == Listeners::Gone {
                return;
            }
            let took = began.elapsed();
            watch.next = Instant::now() + QUIET.max(took * PACE);
            let again = Instant::now() + AGAIN.max(took * PACE * PACE);
            let Some(next) = watch.wait(again, &mut wants).await else {
                return;
            };
            stale = next;
        }
    }

    fn open(host_interface: String, tell: mpsc::Sender<News>) -> Result<Watch, NetlinkError> {
        let events = KernelEvents::open(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ])
        .map_err(NetlinkError::Socket)?;
        Ok(Watch {
            host_interface,
            network: Network::open()?,
            events,
            tell,
            keep: Keep::default(),
            table: Table::default(),
            neighbours: HashMap::new(),
            told: None,
            next: Instant::now(),
        })
    }

    /// Waits until something has to be read, and may be; `None` when nobody listens any more.
    async fn wait(
        &mut self,
        again: Instant,
        wants: &mut mpsc::Receiver<LinkAddress>,
    ) -> Option<Stale> {
        let mut stale = Stale::Nothing;
        loop {
            let due = match stale {
                Stale::Nothing => again,
                Stale::Neighbours | Stale::All => self.next,
            };
            tokio::select! {
                heard = self.events.next() => {
                    stale = stale.max(heard.map_or(Stale::All, |heard| concerns(&heard)));
                }
                want = wants.recv() => {
                    let at = want?;
                    if self.table.uplinks.contains_key(&at.device) {
                        // If it can't be, its next packet wants it again.
                        let _ = self.keep.want(self.network.handle(), at).await;
                    }
                }
                () = sleep_until(due) => return Some(match stale {
                    Stale::Nothing => Stale::All,
                    Stale::Neighbours | Stale::All => stale,
                }),
            }
        }
    }

    /// Reads, and tells what differs from what was told.
    async fn look(&mut self, stale: Stale) -> Listeners {
        let mut changes = Vec::new();
        let mut problems = match self.read(stale, &mut changes).await {
            Ok(problem) => Vec::from_iter(problem),
            Err(error) => vec![format!("routes are not followed: {error}")],
        };
        problems.extend(self.table.problems.iter().cloned());
        let uplinks: Vec<Interface> = self.table.uplinks.values().cloned().collect();
        let state = (uplinks, problems);
        if changes.is_empty() && self.told.as_ref() == Some(&state) {
            return Listeners::There;
        }
        self.told = Some(state.clone());
        let (uplinks, problems) = state;
        let news = News {
            changes,
            uplinks,
            problems,
        };
        match self.tell.send(news).await {
            Ok(()) => Listeners::There,
            Err(_) => Listeners::Gone,
        }
    }

    /// Takes up how the kernel is; what can't be had from it, in words.
    async fn read(
        &mut self,
        stale: Stale,
        changes: &mut Vec<Change>,
    ) -> Result<Option<String>, NetlinkError> {
        if stale == Stale::All {
            let now = table(
                &read_all(self.network.handle()).await?,
                &self.host_interface,
            );
            let then = &self.table;
            let route = |key| Change::Gone(Key::Route(key));
            difference(&then.routes, &now.routes, Change::Route, route, changes);
            let gone = then.own.difference(&now.own).copied();
            changes.extend(gone.map(|ip| Change::Gone(Key::OwnAddress(ip))));
            let new = now.own.difference(&then.own).copied();
            changes.extend(new.map(Change::OwnAddress));
            self.table = now;
        }
        let Table {
            uplinks, gateways, ..
        } = &self.table;
        let is_uplink = |device| uplinks.contains_key(&device);
        let handle = self.network.handle();
        let (all, problem) = self.keep.look(handle, gateways, is_uplink).await?;
        let now = resolved(uplinks, &all);
        let gone = |key| Change::Gone(Key::LinkNeighbour(key));
        difference(&self.neighbours, &now, Change::LinkNeighbour, gone, changes);
        self.neighbours = now;
        Ok(problem)
    }
}

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listeners {
    There,
    Gone,
}

/// What events say has to be read again.
fn concerns(heard: &Heard) -> Stale {
    let Heard::Events(events) = heard else {
        return Stale::All;
    };
    let each = events.iter().map(|event| match event {
        RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_) => {
            Stale::Neighbours
        }
        _ => Stale::All,
    });
    each.max().unwrap_or(Stale::Nothing)
}

fn difference<K: Hash + Eq + Copy, V: Eq + Copy>(
    then: &HashMap<K, V>,
    now: &HashMap<K, V>,
    new: impl Fn(K, V) -> Change,
    gone: impl Fn(K) -> Change,
    changes: &mut Vec<Change>,
) {
    let missing = then.keys().filter(|key| !now.contains_key(key));
    changes.extend(missing.map(|key| gone(*key)));
    let differing = now
        .iter()
        .filter(|(key, value)| then.get(key) != Some(value));
    changes.extend(differing.map(|(key, value)| new(*key, *value)));
}

async fn read_all(handle: &Handle) -> Result<Read, NetlinkError> {
    let mut all = Read::default();
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules = collect("list rules", handle.rule().get(version).execute()).await;
        let rules = rules.or_else(none_of_family)?;
        all.rules.extend(rules.iter().filter_map(read::rule));
    }
    let links = collect("list devices", handle.link().get().execute()).await?;
    all.links.extend(links.iter().map(read::link));
    let addresses = collect("list addresses", handle.address().get().execute()).await?;
    all.addresses
        .extend(addresses.iter().filter_map(read::address));
    for question in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let dump = handle.route().get(question).execute();
        let taken = gather(dump, read::route, &mut all.routes);
        within("list routes", taken).await??;
    }
    Ok(all)
}

/// Takes what is understood of a dump, one by one: a full routing table is not in memory twice.
async fn gather<M, T>(
    dump: impl Stream<Item = Result<M, rtnetlink::Error>>,
    understood: impl Fn(&M) -> Option<T>,
    all: &mut Vec<T>,
) -> Result<(), NetlinkError> {
    let mut dump = std::pin::pin!(dump);
    while let Some(message) = dump.next().await {
        let message = message.map_err(|error| refused("list routes", error))?;
        if all.len() < ROUTES + SPARE {
            all.extend(understood(&message));
        }
    }
    Ok(())
}

/// No rules, if the kernel has none for a family: it was built or started without it.
fn none_of_family<T>(error: NetlinkError) -> Result<Vec<T>, NetlinkError> {
    match &error {
        NetlinkError::Refused {
            source: rtnetlink::Error::NetlinkError(message),
            ..
        } if NO_FAMILY.contains(&message.raw_code().abs()) => Ok(Vec::new()),
        _ => Err(error),
    }
}

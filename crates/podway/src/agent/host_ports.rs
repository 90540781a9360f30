//! The ports of the masquerading range that are the host's (F10, R3): a thread looks where the host has sockets, and keeps
//! its kernel from picking ours for new ones.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use podway_host::{Sockets, ports_in_use};
use podway_wire::Protocol;
use tokio::sync::watch;

use super::reserved::Reserved;
use crate::aim::HostPorts as Ports;

/// The settings, under /proc/sys, in each network namespace.
const LOCAL: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// How often it is looked where somebody may send to, and every how many times at connections, too.
const ROUND: Duration = Duration::from_millis(500);
const ALL: u32 = 10;

/// What is the host's, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The ports, and what is wrong.
    pub(super) ports: Ports,
    /// How often others changed what we had reserved.
    pub(super) mended: u64,
}

/// What the thread found last; it ends with this value.
pub(super) struct HostPorts {
    found: watch::Receiver<Found>,
}

impl HostPorts {
    /// Looks once, and from then on by a thread of its own, in this namespace.
    pub(super) fn watch(snat: (u16, u16), proc_sys: &Path) -> io::Result<HostPorts> {
        let mut host = Host {
            snat: snat.0..=snat.1,
            proc_sys: proc_sys.to_owned(),
            wrote: None,
            connections: BTreeSet::new(),
            round: 0,
            mended: 0,
        };
        let (sender, found) = watch::channel(host.look());
        let run = move || {
            while !sender.is_closed() {
                thread::sleep(ROUND);
                let now = host.look();
                sender.send_if_modified(|before| {
                    let differs = *before != now;
                    *before = now;
                    differs
                });
            }
        };
        thread::Builder::new()
            .name("host-ports".to_owned())
            .spawn(run)?;
        Ok(HostPorts { found })
    }

    /// What was found last.
    pub(super) fn found(&self) -> Found {
        self.found.borrow().clone()
    }

    /// Returns when it is something else.
    pub(super) async fn changed(&mut self) {
        if self.found.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The host's side, as it is looked at.
struct Host {
    snat: RangeInclusive<u16>,
    proc_sys: PathBuf,
    /// What we had reserved last.
    wrote: Option<Reserved>,
    connections: BTreeSet<(Protocol, u16)>,
    round: u32,
    mended: u64,
}

impl Host {
    fn look(&mut self) -> Found {
        let mut problems = Vec::new();
        let mut left = left_to_host(&self.snat, None);
        match self.read_range() {
            Ok(local) => {
                left = left_to_host(&self.snat, Some(&local));
                let kept = self.reserve(&left);
                if let Some(overlap) = overlap(&self.snat, &local) {
                    problems.push(said(&self.snat, &local, &left));
                    if kept.is_err() {
                        left = overlap;
                    }
                }
                problems.extend(kept.err());
            }
            Err(problem) => problems.push(problem),
        }
        let mut taken = BTreeSet::new();
        for protocol in [Protocol::TCP, Protocol::UDP] {
            taken.extend(left.clone().map(|port| (protocol, port)));
        }
        let sockets = match self.round.is_multiple_of(ALL) {
            true => Sockets::All,
            false => Sockets::Open,
        };
        self.round = self.round.wrapping_add(1);
        match ports_in_use(&self.snat, sockets) {
            Ok(ports) => {
                if sockets == Sockets::All {
                    self.connections.clone_from(&ports);
                }
                taken.extend(ports);
            }
            Err(error) => problems.push(format!(
                "where the host listens is not known: {error}: does its kernel have CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG?"
            )),
        }
        taken.extend(&self.connections);
        Found {
            ports: Ports {
                taken: Arc::new(taken),
                problems,
            },
            mended: self.mended,
        }
    }

    fn read_range(&self) -> Result<RangeInclusive<u16>, String> {
        let path = self.proc_sys.join(LOCAL);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}: mount /proc", path.display()))?;
        range(&text).ok_or_else(|| format!("{}: {text:?} is no range", path.display()))
    }

    /// Has the kernel pick none of our ports for the host's own connections, but for those that are left to it.
    fn reserve(&mut self, left: &RangeInclusive<u16>) -> Result<(), String> {
        let path = self.proc_sys.join(RESERVED);
        let failed = |error: io::Error| {
            format!(
                "{}: {error}: make it writable, so that the host picks none of snat_ports for its own connections",
                path.display()
            )
        };
        let before = fs::read_to_string(&path).map_err(failed)?;
        let before = Reserved::of_text(&before);
        let mut wanted = before.clone();
        wanted.put(&self.snat);
        wanted.take(left);
        if wanted == before {
            self.wrote = Some(wanted);
            return Ok(());
        }
        fs::write(&path, wanted.text()).map_err(failed)?;
        // What others write takes the place of all that was there.
        if self.wrote.as_ref().is_some_and(|wrote| *wrote != before) {
            self.mended += 1;
        }
        self.wrote = Some(wanted);
        Ok(())
    }
}

/// The two settings' ports as the kernel writes them.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

fn overlap(snat: &RangeInclusive<u16>, local: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let both = *snat.start().max(local.start())..=*snat.end().min(local.end());
    (!both.is_empty()).then_some(both)
}

/// What of our ports is left for the host to pick from: nothing, unless we would have more than half of all that it has;
/// then the first half of what both have.
fn left_to_host(
    snat: &RangeInclusive<u16>,
    local: Option<&RangeInclusive<u16>>,
) -> RangeInclusive<u16> {
    const NOTHING: RangeInclusive<u16> = RangeInclusive::new(1, 0);
    let Some((both, local)) = local.and_then(|local| Some((overlap(snat, local)?, local))) else {
        return NOTHING;
    };
    if local.len() - both.len() >= both.len() {
        return NOTHING;
    }
    let half = both.len().div_ceil(2) as u16;
    *both.start()..=*both.start() + (half - 1)
}

fn said(
    snat: &RangeInclusive<u16>,
    local: &RangeInclusive<u16>,
    left: &RangeInclusive<u16>,
) -> String {
    let text = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
    let kept = match left.is_empty() {
        true => "its kernel is kept off ours by net.ipv4.ip_local_reserved_ports".to_owned(),
        false => format!(
            "{} are left to the host, and nothing is masqueraded by them",
            text(left)
        ),
    };
    format!(
        "net.ipv4.ip_local_port_range, {}, overlaps snat_ports, {}: {kept}; set `snat_ports` to other ports, or narrow that range by sysctl",
        text(local),
        text(snat)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f10_r3_the_host_keeps_enough_ports_of_its_own_to_pick_from() {
        let of = |snat: RangeInclusive<u16>, local: RangeInclusive<u16>| {
            let left = left_to_host(&snat, Some(&local));
            (!left.is_empty()).then_some(left)
        };
        assert_eq!(of(61_000..=65_535, 32_768..=60_999), None, "apart");
        assert_eq!(of(61_000..=65_535, 10_240..=65_535), None, "kops");
        assert_eq!(of(61_000..=65_535, 61_000..=65_535), Some(61_000..=63_267));
        assert_eq!(of(61_000..=65_535, 60_000..=65_535), Some(61_000..=63_267));
        assert_eq!(of(1_024..=65_535, 5_000..=5_000), Some(5_000..=5_000));
        assert_eq!(left_to_host(&(61_000..=65_535), None).count(), 0);
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(range("many"), None);
    }

    /// A folder in place of /proc/sys.
    fn host(local: &str, reserved: &str) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("net/ipv4")).expect("made");
        fs::write(folder.path().join(LOCAL), local).expect("written");
        fs::write(folder.path().join(RESERVED), reserved).expect("written");
        let host = Host {
            snat: 61_000..=65_535,
            proc_sys: folder.path().to_owned(),
            wrote: None,
            connections: BTreeSet::new(),
            round: 0,
            mended: 0,
        };
        (folder, host)
    }

    #[test]
    fn r3_r4_our_ports_are_reserved_beside_others_and_again_after_others() {
        let (folder, mut host) = host("32768\t60999\n", "8080,9000-9010\n");
        let reserved = || fs::read_to_string(folder.path().join(RESERVED)).expect("read");
        let found = host.look();
        assert_eq!(reserved(), "8080,9000-9010,61000-65535\n");
        assert_eq!(
            (found.ports.problems.len(), found.mended),
            (0, 0),
            "{found:?}"
        );
        fs::write(folder.path().join(RESERVED), "7000\n").expect("written");
        assert_eq!(host.look().mended, 1);
        assert_eq!(reserved(), "7000,61000-65535\n");
        assert_eq!(host.look().mended, 1);
        // As a late sysctl.d may: all that the host has is ours.
        fs::write(folder.path().join(LOCAL), "61000\t65535\n").expect("written");
        let found = host.look();
        assert_eq!(reserved(), "7000,63268-65535\n");
        assert!(found.ports.taken.contains(&(Protocol::UDP, 63_267)));
        assert!(!found.ports.taken.contains(&(Protocol::UDP, 63_268)));
        assert_eq!(
            found.ports.problems,
            [
                "net.ipv4.ip_local_port_range, 61000-65535, overlaps snat_ports, 61000-65535: 61000-63267 are left to the host, and nothing is masqueraded by them; set `snat_ports` to other ports, or narrow that range by sysctl"
            ]
        );
        fs::write(folder.path().join(LOCAL), "10240\t65535\n").expect("written");
        let found = host.look();
        assert_eq!(reserved(), "7000,61000-65535\n");
        let said = "is kept off ours by net.ipv4.ip_local_reserved_ports";
        assert!(found.ports.problems[0].contains(said), "{found:?}");
    }
}

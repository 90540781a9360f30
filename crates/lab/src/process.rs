//! Processes of a lab: started inside its namespaces, remembered, and ended without hitting a stranger.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podway_host::Namespace;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cluster::Protocol;

/// How long a process may take to end after it was asked to, and again after it was killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// A process that the lab started; its number alone might be somebody else's by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What it is, such as `agent node1` or `shop/web-0 server`.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks after boot (proc(5), stat, field 22).
    pub started: u64,
}

/// Starts a command inside a namespace, in a process group of its own, with its output in a log.
pub(crate) fn start(
    name: &str,
    namespace: &Namespace,
    command: &mut Command,
    log: &Path,
) -> Result<(Child, Recorded), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| Error::Start {
        name: name.to_owned(),
        program,
        source,
    };
    let spawn = || {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let command = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.process_group(0).spawn()?;
        let pid = child.id() as i32;
        let started = started(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok((
            child,
            Recorded {
                name: name.to_owned(),
                pid,
                started,
            },
        ))
    };
    namespace.inside(spawn)?.map_err(failed)
}

impl Recorded {
    /// True while this very process runs.
    pub fn is_running(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Ends all of these processes and those inside the namespaces, children that they start meanwhile too.
pub(crate) fn end(recorded: &[Recorded], namespaces: &[Namespace]) -> Result<(), Error> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + PATIENCE;
        let mut told = BTreeSet::new();
        loop {
            let left = left(recorded, namespaces);
            if left.is_empty() {
                return Ok(());
            }
            for &(pid, started_at) in &left {
                // Once each: a second SIGTERM might cut a shutdown short.
                if told.insert((pid, started_at)) && started(pid) == Some(started_at) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
            if Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    match left(recorded, namespaces).first() {
        None => Ok(()),
        Some(&(pid, _)) => Err(Error::Stuck { pid }),
    }
}

/// Processes that still run, with their start times.
fn left(recorded: &[Recorded], namespaces: &[Namespace]) -> BTreeSet<(i32, u64)> {
    let own = std::process::id() as i32;
    let known = recorded
        .iter()
        .filter(|process| process.is_running())
        .map(|process| process.pid);
    let inside = namespaces.iter().flat_map(Namespace::processes);
    let pids = known.chain(inside).filter(|&pid| pid != own);
    pids.filter_map(|pid| Some((pid, started(pid)?))).collect()
}

/// When a process started, in clock ticks after boot; `None` if it is gone or only waits to be reaped.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; state is field 3, the start field 22.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// A socket that waits for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    pub(crate) protocol: Protocol,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

impl Listener {
    /// True if a client of this address reaches it; `::` takes IPv4 too.
    pub(crate) fn takes(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        let same_family = self.address.is_ipv4() == address.is_ipv4();
        let any = self.address.is_unspecified() && (same_family || self.address.is_ipv6());
        (self.protocol, self.port) == (protocol, port) && (any || self.address == address)
    }
}

/// Who listens in a namespace.
pub(crate) fn listeners(namespace: &Namespace) -> Result<Vec<Listener>, Error> {
    let tables = [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ];
    let read = || {
        let listeners = tables.into_iter().flat_map(|(table, protocol, state)| {
            let path = format!("/proc/thread-self/net/{table}");
            let lines = fs::read_to_string(path).unwrap_or_default();
            let all: Vec<_> = lines
                .lines()
                .filter_map(|l| listener(l, protocol, state))
                .collect();
            all
        });
        listeners.collect()
    };
    Ok(namespace.inside(read)?)
}

/// A line of /proc/net/{tcp,udp}{,6}: number, local address, remote address, state.
fn listener(line: &str, protocol: Protocol, wanted: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let word = |index| {
        Some(
            u32::from_str_radix(address.get(index..index + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(words).ok()?).to_canonical()
        }
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == wanted).then_some(Listener {
        protocol,
        address,
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let pid = std::process::id() as i32;
        let process = Recorded {
            name: "test".into(),
            pid,
            started: started(pid).unwrap(),
        };
        assert!(process.is_running());
        assert!(
            !Recorded {
                started: process.started + 1,
                ..process
            }
            .is_running()
        );
    }

    #[test]
    fn an_unreaped_process_does_not_run() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = Instant::now() + Duration::from_secs(5);
        while started(pid).is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(started(pid), None);
        child.wait().unwrap();
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_read_off_proc() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0";
        let listener_of = |line: &str| listener(line, Protocol::Tcp, "0A");
        let address = "127.0.0.1".parse().unwrap();
        let expected = Listener {
            protocol: Protocol::Tcp,
            address,
            port: 8080,
        };
        assert_eq!(listener_of(tcp), Some(expected));
        assert_eq!(listener_of(&tcp.replace(" 0A ", " 01 ")), None);
        let any =
            "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A";
        let any = listener_of(any).unwrap();
        assert!(any.takes(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 8080));
        assert!(any.takes(Protocol::Tcp, "fd00::1".parse().unwrap(), 8080));
        assert!(!any.takes(Protocol::Udp, "fd00::1".parse().unwrap(), 8080));
        assert!(!expected.takes(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 8080));
        assert_eq!(listener_of("  sl  local_address rem_address   st"), None);
    }
}

//! Where packets run: three namespaces in a row, made for one measurement and gone after it.
//!
//! source `out` → `in` node `wire` → `end` sink. Nothing else in the machine is touched.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podway_host::Namespace;
use podway_host::sysctl::{self, PROC_SYS};
use podway_wire::Mac;

use crate::cluster::{CLIENT_MAC, GATEWAY_MAC, PEER_MAC, UPLINK_MAC};

/// All namespaces of ours begin with this.
pub(crate) const PREFIX: &str = "podway-bench-";
/// Held while the wire is measured: two at once would take each other's namespaces away, and each other's time.
const LOCK: &str = "/run/podway-bench.lock";

/// The right to measure: only one process at a time has it, and finds nothing left over by another.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for nobody: an error if somebody else measures.
    pub(crate) fn take() -> anyhow::Result<Turn> {
        let file =
            File::create(LOCK).with_context(|| format!("{LOCK}: cannot create it; run as root"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{LOCK}: another benchmark is running; wait for it")
            }
            Err(TryLockError::Error(error)) => return Err(error).context(LOCK),
        }
        sweep()?;
        Ok(Turn { _lock: file })
    }
}

/// The three namespaces, wired; dropping them takes them away.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) source: Namespace,
    pub(crate) node: Namespace,
    pub(crate) sink: Namespace,
}

impl Bed {
    /// A new bed whose devices have so many queues; they are up and do nothing yet, and nothing is counted.
    pub(crate) fn make(_turn: &Turn, queues: usize) -> anyhow::Result<Bed> {
        sweep()?;
        let made = |role: &str| Namespace::create(&format!("{PREFIX}{role}"));
        let bed = Bed {
            source: made("source")?,
            node: made("node")?,
            sink: made("sink")?,
        };
        for namespace in [&bed.source, &bed.node, &bed.sink] {
            namespace.inside(quiet)??;
        }
        let pair = |(device, mac): (&str, Mac), (peer, its): (&str, Mac), into: &str| {
            let queues = format!("numtxqueues {queues} numrxqueues {queues}");
            format!(
                "link add {device} address {mac} {queues} type veth peer name {peer} address {its} {queues} netns {PREFIX}{into}\n"
            )
        };
        ip(
            "source",
            &(pair(("out", CLIENT_MAC), ("in", GATEWAY_MAC), "node") + "link set out up\n"),
        )?;
        ip(
            "node",
            &(pair(("wire", UPLINK_MAC), ("end", PEER_MAC), "sink")
                + "link set in up\nlink set wire up\n"),
        )?;
        ip("sink", "link set end up\n")?;
        Ok(bed)
    }

    /// Has what arrives at an end from now on counted and dropped; what `expected` (nftables) does not match apart.
    pub(crate) fn count(&self, end: End, expected: &str) -> anyhow::Result<()> {
        self.count_and(end, expected, "drop")
    }

    /// The same, but what `expected` does not match goes on to who it is for.
    pub(crate) fn count_some(&self, end: End, expected: &str) -> anyhow::Result<()> {
        self.count_and(end, expected, "accept")
    }

    fn count_and(&self, end: End, expected: &str, others: &str) -> anyhow::Result<()> {
        let device = end.device();
        feed(
            self.namespace(end),
            Command::new("nft").args(["-f", "-"]),
            &format!(
                "table netdev bench {{
                    counter got {{}}
                    counter other {{}}
                    chain end {{
                        type filter hook ingress device \"{device}\" priority 0
                        {expected} counter name got drop
                        counter name other {others}
                    }}
                }}"
            ),
        )
        .map(drop)
    }

    /// What has arrived at an end since it is counted there.
    pub(crate) fn arrived(&self, end: End) -> anyhow::Result<Arrived> {
        let mut list = Command::new("nft");
        list.args(["-j", "list", "counters", "table", "netdev", "bench"]);
        let text = feed(self.namespace(end), &mut list, "")?;
        arrived_of(&text).with_context(|| format!("no counters in what nft says: {text}"))
    }

    /// The namespace of an end.
    pub(crate) fn namespace(&self, end: End) -> &Namespace {
        match end {
            End::Client => &self.source,
            End::Wire => &self.sink,
        }
    }
}

/// An end of the bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client's.
    Client,
    /// That of the wire to other nodes.
    Wire,
}

impl End {
    /// The device at the end.
    pub(crate) fn device(self) -> &'static str {
        match self {
            End::Client => "out",
            End::Wire => "end",
        }
    }

    /// The node's device towards it.
    pub(crate) fn node_device(self) -> &'static str {
        match self {
            End::Client => "in",
            End::Wire => "wire",
        }
    }
}

/// What an end has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Packets as they were expected.
    pub(crate) packets: u64,
    /// Their bytes, without Ethernet headers.
    pub(crate) bytes: u64,
    /// All other packets.
    pub(crate) others: u64,
}

/// Reads the counters of nft's JSON (libnftables-json(5)).
fn arrived_of(text: &str) -> Option<Arrived> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let objects = value["nftables"].as_array()?;
    let named = |name| {
        let mut counters = objects.iter().map(|object| &object["counter"]);
        counters.find(|counter| counter["name"] == name)
    };
    let (got, other) = (named("got")?, named("other")?);
    Some(Arrived {
        packets: got["packets"].as_u64()?,
        bytes: got["bytes"].as_u64()?,
        others: other["packets"].as_u64()?,
    })
}

impl Drop for Bed {
    fn drop(&mut self) {
        // What stays is taken away before the next bed is made.
        let _ = sweep();
    }
}

/// Runs lines of `ip -batch` in the namespace of a role.
pub(crate) fn ip(role: &str, lines: &str) -> anyhow::Result<()> {
    let namespace = Namespace::named(&format!("{PREFIX}{role}"))?;
    feed(&namespace, Command::new("ip").args(["-batch", "-"]), lines).map(drop)
}

/// Runs a command in a namespace with `input`, and gives what it printed.
pub(crate) fn feed(
    namespace: &Namespace,
    command: &mut Command,
    input: &str,
) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = || {
        let mut child = piped.spawn()?;
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(input.as_bytes())?;
        child.wait_with_output()
    };
    let output = namespace
        .inside(run)?
        .with_context(|| format!("cannot run `{name}`; install it"))?;
    if !output.status.success() {
        bail!(
            "`{name}` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Keeps a new namespace from sending anything of its own accord.
fn quiet() -> anyhow::Result<()> {
    let key = "net/ipv6/conf/default/disable_ipv6";
    Ok(sysctl::set_if_there(Path::new(PROC_SYS), key, "1")?)
}

/// Takes away all namespaces of ours, and with them what is in them.
pub(crate) fn sweep() -> anyhow::Result<()> {
    for name in Namespace::names(PREFIX) {
        // A switch that outlived its benchmark would keep the namespace.
        for process in Namespace::named(&name)
            .iter()
            .flat_map(Namespace::processes)
        {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
        Namespace::remove(&name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let text = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "netdev", "name": "other", "table": "bench", "handle": 3, "packets": 2, "bytes": 80}},
            {"counter": {"family": "netdev", "name": "got", "table": "bench", "handle": 2, "packets": 7, "bytes": 700}}]}"#;
        let expected = Arrived {
            packets: 7,
            bytes: 700,
            others: 2,
        };
        assert_eq!(arrived_of(text), Some(expected));
        assert_eq!(arrived_of(r#"{"nftables": []}"#), None);
        assert_eq!(arrived_of("not JSON"), None);
    }
}

//! Linux as users have it: kube-proxy's rules and a vxlan device, as flannel makes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use podway_host::sysctl::{self, PROC_SYS};

use super::bed::{Bed, End, PREFIX, feed, ip};
use super::case::{Case, PEER_VTEP_MAC, VTEP_MAC};
use super::{forwarder_core, kube_proxy};
use crate::cluster::{CLIENT_ADDRESS, CLIENT_MAC, NODE, PEER, PEER_MAC, TUNNEL_PORT, VNI, range};

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Nftables,
    Iptables,
}

/// Makes the node forward as a Kubernetes node does.
pub(crate) fn configure(bed: &Bed, rules: Rules, case: &Case) -> anyhow::Result<()> {
    let range = range(0);
    let remote = range.network();
    ip(
        "node",
        &format!(
            "address add 10.244.1.1/24 dev in
             address add {NODE}/24 dev wire
             neigh replace {CLIENT_ADDRESS} lladdr {CLIENT_MAC} dev in nud permanent
             neigh replace {PEER} lladdr {PEER_MAC} dev wire nud permanent
             link add vx address {VTEP_MAC} type vxlan id {VNI} dstport {TUNNEL_PORT} local {NODE} dev wire nolearning
             link set vx up
             neigh replace {remote} lladdr {PEER_VTEP_MAC} dev vx nud permanent
             route add {range} via {remote} dev vx onlink\n"
        ),
    )?;
    let (mac, peer) = (PEER_VTEP_MAC.to_string(), PEER.to_string());
    let entry = ["fdb", "append", &mac, "dev", "vx", "dst", &peer];
    feed(&bed.node, Command::new("bridge").args(entry), "")?;
    // The way back begins with packets on the way out.
    receive_apart(bed, End::Client)?;
    receive_apart(bed, End::Wire)?;
    bed.node.inside(|| forwarding(&["in", "wire"]))??;
    translate(bed, rules, &kube_proxy::Shape::of(case.scale()))
}

/// Has kube-proxy's rules translate.
pub(crate) fn translate(bed: &Bed, rules: Rules, shape: &kube_proxy::Shape) -> anyhow::Result<()> {
    let (mut command, text) = match rules {
        Rules::Nftables => {
            let mut command = Command::new("nft");
            command.args(["-f", "-"]);
            (command, shape.nftables())
        }
        Rules::Iptables => (Command::new("iptables-nft-restore"), shape.iptables()),
    };
    feed(&bed.node, &mut command, &text).map(drop)
}

/// Has the core that forwards do so: reception in kernel threads of their own, which are pinned there.
pub(crate) fn receive_apart(bed: &Bed, from: End) -> anyhow::Result<()> {
    let device = from.node_device();
    // NAPI, without which nothing can be redirected into a veth.
    let gro = ["-K", device, "gro", "on"];
    feed(&bed.node, Command::new("ethtool").args(gro), "")?;
    // Only a process with its own /sys sees this namespace's devices there.
    let script = format!("echo 1 > /sys/class/net/{device}/threaded");
    let node = format!("{PREFIX}node");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &node, "sh", "-c", &script]);
    let before = napi_threads(device);
    feed(&bed.node, &mut command, "")?;
    let mut made: Vec<_> = napi_threads(device)
        .into_iter()
        .filter(|id| !before.contains(id))
        .collect();
    made.sort();
    ensure!(
        !made.is_empty(),
        "no kernel thread receives for `{device}`; threaded NAPI needs Linux 5.12"
    );
    for (queue, thread) in made.into_iter().enumerate() {
        let mut cores = CpuSet::new();
        cores.set(forwarder_core(queue))?;
        sched_setaffinity(Pid::from_raw(thread), &cores).context("pinning a kernel thread")?;
    }
    Ok(())
}

/// Kernel threads that receive for devices of that name.
fn napi_threads(device: &str) -> Vec<i32> {
    let start = format!("napi/{device}-");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ours = |id: &i32| {
        fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with(&start))
    };
    ids.filter(is_ours).collect()
}

/// Has a namespace forward, whatever the way back. In that namespace.
pub(crate) fn forwarding(devices: &[&str]) -> anyhow::Result<()> {
    let set = |key: &str, value: &str| {
        sysctl::set(Path::new(PROC_SYS), &format!("net/{key}"), value).map_err(anyhow::Error::from)
    };
    set("ipv4/ip_forward", "1")?;
    set("ipv4/conf/all/rp_filter", "0")?;
    let mut devices = devices.iter();
    devices.try_for_each(|device| set(&format!("ipv4/conf/{device}/rp_filter"), "0"))
}

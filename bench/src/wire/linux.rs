//! Linux as users have it: kube-proxy's nftables rules and a vxlan device, as flannel makes it.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::FORWARDER_CORE;
use super::bed::{Bed, PREFIX, feed, ip};
use crate::cluster::{
    BACKEND_PORT, CLIENT_ADDRESS, CLIENT_MAC, ENDPOINTS, NODE, PEER, PEER_MAC, REMOTE_SERVICE,
    SERVICE_PORT, TARGETS, TUNNEL_PORT, VNI, after, endpoint, range,
};

/// The Ethernet address of the other node's vxlan device.
const VTEP_MAC: &str = "02:00:00:00:04:02";

/// Makes the node forward as a Kubernetes node does.
pub(crate) fn configure(bed: &Bed) -> anyhow::Result<()> {
    let range = range(0);
    let remote = range.network();
    ip(
        "node",
        &format!(
            "address add 10.244.1.1/24 dev in
             address add {NODE}/24 dev wire
             neigh replace {CLIENT_ADDRESS} lladdr {CLIENT_MAC} dev in nud permanent
             neigh replace {PEER} lladdr {PEER_MAC} dev wire nud permanent
             link add vx type vxlan id {VNI} dstport {TUNNEL_PORT} local {NODE} dev wire nolearning
             link set vx up
             neigh replace {remote} lladdr {VTEP_MAC} dev vx nud permanent
             route add {range} via {remote} dev vx onlink\n"
        ),
    )?;
    feed(
        &bed.node,
        Command::new("bridge").args([
            "fdb",
            "append",
            VTEP_MAC,
            "dev",
            "vx",
            "dst",
            &PEER.to_string(),
        ]),
        "",
    )?;
    // NAPI, without which nothing can be redirected into a veth.
    feed(
        &bed.node,
        Command::new("ethtool").args(["-K", "in", "gro", "on"]),
        "",
    )?;
    steer(bed)?;
    bed.node.inside(forwarding)??;
    feed(&bed.node, Command::new("nft").args(["-f", "-"]), &rules()).map(drop)
}

/// Has the core that forwards do so: reception in a kernel thread of its own, which is pinned there.
fn steer(bed: &Bed) -> anyhow::Result<()> {
    // Only a process with its own /sys sees this namespace's devices there.
    let script = "echo 1 > /sys/class/net/in/threaded";
    let node = format!("{PREFIX}node");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &node, "sh", "-c", script]);
    let before = napi_threads();
    feed(&bed.node, &mut command, "")?;
    let mut cores = CpuSet::new();
    cores.set(FORWARDER_CORE)?;
    let made: Vec<_> = napi_threads()
        .into_iter()
        .filter(|id| !before.contains(id))
        .collect();
    ensure!(
        !made.is_empty(),
        "no kernel thread receives for `in`; threaded NAPI needs Linux 5.12"
    );
    for thread in made {
        sched_setaffinity(Pid::from_raw(thread), &cores).context("pinning a kernel thread")?;
    }
    Ok(())
}

/// Kernel threads that receive for a device named `in`.
fn napi_threads() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ours = |id: &i32| {
        fs::read_to_string(format!("/proc/{id}/comm"))
            .is_ok_and(|name| name.starts_with("napi/in-"))
    };
    ids.filter(is_ours).collect()
}

fn forwarding() -> anyhow::Result<()> {
    let set = |path: &str, value: &str| {
        let path = format!("/proc/sys/net/{path}");
        fs::write(&path, value).with_context(|| path.clone())
    };
    set("ipv4/ip_forward", "1")?;
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/in/rp_filter", "0")
}

/// The chains that kube-proxy's nftables mode writes, for the services that are measured.
fn rules() -> String {
    let mut services = String::new();
    let mut chains = String::new();
    for service in 0..TARGETS {
        let address = after(REMOTE_SERVICE, service);
        let comma = if service == 0 { "" } else { ", " };
        write!(
            services,
            "{comma}{address} . udp . {SERVICE_PORT} : goto service-{service}"
        )
        .expect("a string takes all");
        let ends = service * ENDPOINTS..(service + 1) * ENDPOINTS;
        let members: Vec<_> = ends
            .clone()
            .map(|end| format!("{} : goto endpoint-{end}", end % ENDPOINTS))
            .collect();
        writeln!(
            chains,
            "chain service-{service} {{
                ip daddr {address} udp dport {SERVICE_PORT} ip saddr != 10.0.0.0/8 jump mark-for-masquerade
                numgen random mod {ENDPOINTS} vmap {{ {} }}
            }}",
            members.join(", ")
        )
        .expect("a string takes all");
        for end in ends {
            let address = endpoint(end);
            writeln!(
                chains,
                "chain endpoint-{end} {{
                    ip saddr {address} jump mark-for-masquerade
                    meta l4proto udp dnat to {address}:{BACKEND_PORT}
                }}"
            )
            .expect("a string takes all");
        }
    }
    format!(
        "table ip kube-proxy {{
            set cluster-ips {{ type ipv4_addr; }}
            map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
            map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
            chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
            {chains}
            map service-ips {{
                type ipv4_addr . inet_proto . inet_service : verdict
                elements = {{ {services} }}
            }}
            chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
            chain masquerading {{
                meta mark and 0x4000 == 0 return
                meta mark set meta mark xor 0x4000
                masquerade fully-random
            }}
            chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
            chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
            chain cluster-ips-check {{ ip daddr @cluster-ips reject; }}
            chain filter-prerouting {{
                type filter hook prerouting priority -110; policy accept
                ct state new jump firewall-check
            }}
            chain filter-forward {{
                type filter hook forward priority -110; policy accept
                ct state new jump service-endpoints-check
                ct state new jump cluster-ips-check
            }}
            chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
            chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading; }}
        }}\n"
    )
}

//! Linux and Open vSwitch between pods: a client and its servers as namespaces.

use std::process::Command;

use podway_host::Namespace;
use podway_wire::Mac;

use super::{Place, Pods, Setting};
use crate::cluster::{NODE, PEER, TUNNEL_PORT, VNI};
use crate::switch::Switch;
use crate::wire::{PREFIX, SOURCE_CORE, Turn, feed, forwarder_core, forwarding, ip, sweep};

/// Addresses of the client and of the servers on its node and on the other one.
const CLIENT: &str = "10.244.1.5";
const NEAR: &str = "10.244.1.6";
const FAR: &str = "10.244.2.5";
const CLIENT_MAC: Mac = Mac([2, 0, 0, 1, 1, 5]);
const NEAR_MAC: Mac = Mac([2, 0, 0, 1, 1, 6]);
const FAR_MAC: Mac = Mac([2, 0, 0, 1, 2, 5]);
/// Ethernet addresses of the nodes' ends of the tunnel, and of the underlay.
const VTEP_MACS: [Mac; 2] = [Mac([2, 0, 0, 2, 0, 1]), Mac([2, 0, 0, 2, 0, 2])];
const UNDERLAY_MACS: [Mac; 2] = [Mac([2, 0, 0, 3, 0, 1]), Mac([2, 0, 0, 3, 0, 2])];

/// What the underlay's devices do for TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offloads {
    All,
    None,
}

/// Namespaces that go with this value.
struct Namespaces;

impl Drop for Namespaces {
    fn drop(&mut self) {
        // What stays is taken away before the next bed is made.
        let _ = sweep();
    }
}

impl Namespaces {
    fn make(_turn: &Turn, roles: &[&str]) -> anyhow::Result<Namespaces> {
        sweep()?;
        for role in roles {
            Namespace::create(&format!("{PREFIX}{role}"))?;
            ip(role, "link set lo up\n")?;
        }
        Ok(Namespaces)
    }
}

fn named(role: &str) -> anyhow::Result<Namespace> {
    Ok(Namespace::named(&format!("{PREFIX}{role}"))?)
}

/// A pod's wire: `eth0` in it, a device named like it on its node.
fn pod(
    role: &str,
    node: &str,
    (address, length): (&str, u8),
    mac: Mac,
    mtu: u32,
) -> anyhow::Result<()> {
    ip(
        node,
        &format!(
            "link add {role} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {PREFIX}{role}
             link set {role} up\n"
        ),
    )?;
    ip(
        role,
        &format!("address add {address}/{length} dev eth0\nlink set eth0 up\n"),
    )
}

/// Two pods at a bridge.
pub(super) fn bridge(turn: &Turn) -> anyhow::Result<Pods> {
    let namespaces = Namespaces::make(turn, &["node", "client", "near"])?;
    ip("node", "link add br0 type bridge\nlink set br0 up\n")?;
    for (role, address, mac) in [("client", CLIENT, CLIENT_MAC), ("near", NEAR, NEAR_MAC)] {
        pod(role, "node", (address, 24), mac, 1_500)?;
        ip("node", &format!("link set {role} master br0\n"))?;
    }
    Ok(Pods {
        client: named("client")?,
        servers: vec![(Place::SameNode, named("near")?, NEAR.to_owned())],
        _carrier: Box::new(namespaces),
    })
}

/// Two nodes on a wire.
fn underlay(mtu: u32) -> anyhow::Result<()> {
    let [here, there] = UNDERLAY_MACS;
    ip(
        "node",
        &format!(
            "link add eth0 address {here} mtu {mtu} type veth peer name eth0 address {there} mtu {mtu} netns {PREFIX}node2
             link set eth0 up\n"
        ),
    )?;
    ip("node2", "link set eth0 up\n")
}

/// Two nodes with bridges, routes and vxlan devices, as flannel makes them.
pub(super) fn vxlan(turn: &Turn, setting: Setting, offloads: Offloads) -> anyhow::Result<Pods> {
    let namespaces = Namespaces::make(turn, &["node", "node2", "client", "far"])?;
    underlay(setting.underlay_mtu)?;
    let nodes = [
        ("node", "client", CLIENT, CLIENT_MAC, NODE, 1),
        ("node2", "far", FAR, FAR_MAC, PEER, 2),
    ];
    for (place, (node, role, address, mac, own, range)) in nodes.into_iter().enumerate() {
        let (other, remote) = (nodes[1 - place].4, nodes[1 - place].5);
        let (vtep, its) = (VTEP_MACS[place], VTEP_MACS[1 - place]);
        ip(
            node,
            &format!(
                "address add {own}/24 dev eth0
                 link add br0 mtu {} type bridge
                 link set br0 up
                 address add 10.244.{range}.1/24 dev br0
                 link add vx address {vtep} mtu {} type vxlan id {VNI} dstport {TUNNEL_PORT} local {own} dev eth0 nolearning
                 link set vx up
                 neigh replace 10.244.{remote}.0 lladdr {its} dev vx nud permanent
                 route add 10.244.{remote}.0/24 via 10.244.{remote}.0 dev vx onlink\n",
                setting.pod_mtu, setting.pod_mtu
            ),
        )?;
        let (its, other) = (its.to_string(), other.to_string());
        let entry = ["fdb", "append", &its, "dev", "vx", "dst", &other];
        feed(&named(node)?, Command::new("bridge").args(entry), "")?;
        pod(role, node, (address, 24), mac, setting.pod_mtu)?;
        ip(node, &format!("link set {role} master br0\n"))?;
        ip(role, &format!("route add default via 10.244.{range}.1\n"))?;
        named(node)?.inside(|| forwarding(&["br0", "vx", "eth0"]))??;
        if offloads == Offloads::None {
            let off = ["-K", "eth0", "tso", "off", "gso", "off", "gro", "off"];
            feed(&named(node)?, Command::new("ethtool").args(off), "")?;
        }
    }
    Ok(Pods {
        client: named("client")?,
        servers: vec![(Place::AcrossNodes, named("far")?, FAR.to_owned())],
        _carrier: Box::new(namespaces),
    })
}

/// Two switches with AF_XDP ports that learn; the tunnel is a port of theirs.
pub(super) fn ovs(turn: &Turn, setting: Setting) -> anyhow::Result<Pods> {
    let namespaces = Namespaces::make(turn, &["node", "node2", "client", "near", "far"])?;
    underlay(setting.underlay_mtu)?;
    let pods = [
        ("client", "node", CLIENT, CLIENT_MAC),
        ("near", "node", NEAR, NEAR_MAC),
        ("far", "node2", FAR, FAR_MAC),
    ];
    for (role, node, address, mac) in pods {
        pod(role, node, (address, 16), mac, setting.pod_mtu)?;
        // XDP sees no checksums that are yet to be made.
        let off = ["-K", "eth0", "tx", "off"];
        feed(&named(role)?, Command::new("ethtool").args(off), "")?;
    }
    let mut switches = Vec::new();
    let nodes = [
        ("node", NODE, forwarder_core(0), &["client", "near"][..]),
        ("node2", PEER, SOURCE_CORE, &["far"][..]),
    ];
    for (place, (node, own, core, roles)) in nodes.into_iter().enumerate() {
        let (other, mac) = (nodes[1 - place].1, UNDERLAY_MACS[1 - place]);
        let switch = Switch::start(&format!("{PREFIX}{node}"), 1 << core, SOURCE_CORE)?;
        switch.configure("add-br pods -- set bridge pods datapath_type=netdev")?;
        switch.configure(&format!(
            "add-br under -- set bridge under datapath_type=netdev other-config:hwaddr=\"{}\"",
            UNDERLAY_MACS[place]
        ))?;
        for (number, role) in (1..).zip(roles) {
            switch.add_device("pods", role, number, 1)?;
        }
        switch.add_device("under", "eth0", 1, 1)?;
        ip(
            node,
            &format!("address add {own}/24 dev under\nlink set under up\n"),
        )?;
        switch.configure(&format!(
            "add-port pods vx -- set interface vx type=vxlan options:remote_ip={other} options:local_ip={own} options:key={VNI} options:dst_port={TUNNEL_PORT}"
        ))?;
        switch.tell(&format!("tnl/neigh/set under {other} {mac}"))?;
        switches.push(switch);
    }
    Ok(Pods {
        client: named("client")?,
        servers: vec![
            (Place::SameNode, named("near")?, NEAR.to_owned()),
            (Place::AcrossNodes, named("far")?, FAR.to_owned()),
        ],
        // Switches end before their namespaces do.
        _carrier: Box::new((switches, namespaces)),
    })
}

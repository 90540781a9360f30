//! The way from a client to a server, through each system.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use podway_tables::PortKind;
use podway_wire::Mac;

use super::ping::{self, Timed};
use super::{Sample, What};
use crate::cluster::{
    BACKEND_PORT, CLIENT, CLIENT_ADDRESS, CLIENT_MAC, FIRST_LOCAL_POD, GATEWAY, GATEWAY_MAC,
    LOCAL_SERVICE, LOCAL_TCP_SERVICE, SERVICE_PORT, local_mac, local_port, with_tcp,
};
use crate::packets::{Ends, FIRST_PORT, Traffic, Varied};
use crate::statistics::Quantiles;
use crate::switch::Switch;
use crate::wire::{
    Bed, Behind, Elsewhere, End, Pace, Rules, SOURCE_CORE, Shape, Stream, System, Turn, Workers,
    beside, count, feed, forwarder_core, forwarding, ip, receive_apart, translate,
};

/// Flows of the load.
const FLOWS: u32 = 1_000;
const LENGTH: usize = 64;
/// How long it is looked at how much a system can.
const CALIBRATION: Duration = Duration::from_millis(300);
/// How often the load's program runs in one call.
const RUNS: u32 = 5_000_000;

/// Times all there is to time through one system.
pub(super) fn samples(turn: &Turn, system: System, time: Duration) -> anyhow::Result<Vec<Sample>> {
    let mut samples = through(turn, system, Protocol::Udp, |bed| {
        datagrams(bed, system, time)
    })?;
    samples.extend(through(turn, system, Protocol::Tcp, |bed| {
        connections(bed, system, time)
    })?);
    Ok(samples)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        }
    }

    fn service(self) -> Ipv4Addr {
        match self {
            Protocol::Udp => LOCAL_SERVICE,
            Protocol::Tcp => LOCAL_TCP_SERVICE,
        }
    }
}

/// Makes a bed, has a system forward on it, and measures.
fn through(
    turn: &Turn,
    system: System,
    protocol: Protocol,
    measured: impl Fn(&Bed) -> anyhow::Result<Vec<Sample>>,
) -> anyhow::Result<Vec<Sample>> {
    let bed = Bed::make(turn, 1)?;
    let server_mac = local_mac(0);
    // Without anybody who routes, each end sends to the other's own address.
    let (client_next, server_next) = match system.translates() {
        true => (GATEWAY_MAC, GATEWAY_MAC),
        false => (server_mac, CLIENT_MAC),
    };
    end(&bed, End::Client, (CLIENT_ADDRESS, CLIENT_MAC), client_next)?;
    end(&bed, End::Wire, (FIRST_LOCAL_POD, server_mac), server_next)?;
    ip("node", &format!("link set wire address {GATEWAY_MAC}\n"))?;
    // The load passes, and ends here; pings have lower ports.
    bed.count_some(
        End::Wire,
        &format!("udp dport {BACKEND_PORT} udp sport >= {FIRST_PORT}"),
    )?;
    let devices = [
        (CLIENT, "in", PortKind::Pod(None)),
        (local_port(0), "wire", PortKind::Pod(None)),
    ];
    let workers = |behind| {
        let workers = Workers {
            behind,
            count: 1,
            room: FLOWS as usize,
            devices,
            elsewhere: Elsewhere::Quiet,
        };
        beside(&bed, workers, with_tcp(), || measured(&bed)).map(|beside| beside.measured)
    };
    match system {
        System::Bare => workers(Behind::Nothing),
        System::Podway => workers(Behind::Engine),
        System::Linux => {
            route(&bed, Rules::Nftables, protocol)?;
            measured(&bed)
        }
        System::LinuxIptables => {
            route(&bed, Rules::Iptables, protocol)?;
            measured(&bed)
        }
        System::Ovs => {
            let _switch = switch(protocol)?;
            measured(&bed)
        }
        System::PodwayChurn | System::Devmap | System::Vpp => {
            anyhow::bail!("{system} is not measured like this")
        }
    }
}

/// Gives an end its address, and the only way out that it has.
fn end(bed: &Bed, end: End, (address, mac): (Ipv4Addr, Mac), next: Mac) -> anyhow::Result<()> {
    let device = end.device();
    let lines = format!(
        "link set {device} address {mac}
         address add {address}/32 dev {device}
         link set lo up
         route add {GATEWAY} dev {device} scope link
         route add default via {GATEWAY} dev {device}
         neigh replace {GATEWAY} lladdr {next} dev {device} nud permanent\n"
    );
    let namespace = bed.namespace(end);
    feed(namespace, Command::new("ip").args(["-batch", "-"]), &lines)?;
    // XDP sees no checksums that are yet to be made.
    let off = ["-K", device, "tx", "off"];
    feed(namespace, Command::new("ethtool").args(off), "").map(drop)
}

fn route(bed: &Bed, rules: Rules, protocol: Protocol) -> anyhow::Result<()> {
    let server_mac = local_mac(0);
    ip(
        "node",
        &format!(
            "address add {GATEWAY}/32 dev in
             route add {CLIENT_ADDRESS} dev in
             route add {FIRST_LOCAL_POD} dev wire
             neigh replace {CLIENT_ADDRESS} lladdr {CLIENT_MAC} dev in nud permanent
             neigh replace {FIRST_LOCAL_POD} lladdr {server_mac} dev wire nud permanent\n"
        ),
    )?;
    bed.node.inside(|| forwarding(&["in", "wire"]))??;
    let shape = Shape {
        services: 1,
        endpoints: 1,
        protocol: protocol.name(),
        address: protocol.service(),
        endpoint: |_| FIRST_LOCAL_POD,
    };
    translate(bed, rules, &shape)
}

fn switch(protocol: Protocol) -> anyhow::Result<Switch> {
    let switch = Switch::start("podway-bench-node", 1 << forwarder_core(0), SOURCE_CORE)?;
    switch.configure("add-br pods -- set bridge pods datapath_type=netdev fail-mode=secure")?;
    switch.add_device("pods", "in", 1, 1)?;
    switch.add_device("pods", "wire", 2, 1)?;
    let (name, service) = (protocol.name(), protocol.service());
    let server_mac = local_mac(0);
    let groups = format!(
        "group_id=1,type=select,bucket=ct(commit,table=2,zone=1,nat(dst={FIRST_LOCAL_POD}:{BACKEND_PORT}))\n"
    );
    let flows = format!(
        "table=0,priority=10,in_port=1,ip,actions=ct(table=1,zone=1,nat)
         table=1,priority=10,ct_state=+trk+new,{name},nw_dst={service},tp_dst={SERVICE_PORT},actions=group:1
         table=1,priority=5,ct_state=+trk,ip,actions=resubmit(,2)
         table=2,priority=10,ip,actions=dec_ttl,set_field:{GATEWAY_MAC}->eth_src,set_field:{server_mac}->eth_dst,output:2
         table=0,priority=10,in_port=2,ip,actions=ct(table=3,zone=1,nat)
         table=3,priority=10,ct_state=+trk,ip,actions=dec_ttl,set_field:{GATEWAY_MAC}->eth_src,set_field:{CLIENT_MAC}->eth_dst,output:1\n"
    );
    switch.program_flows("pods", &groups, &flows)?;
    Ok(switch)
}

/// Where a client dials: the service, or without anybody who translates, the server.
fn target(system: System, protocol: Protocol) -> (Ipv4Addr, u16) {
    match system.translates() {
        true => (protocol.service(), SERVICE_PORT),
        false => (FIRST_LOCAL_POD, BACKEND_PORT),
    }
}

fn datagrams(bed: &Bed, system: System, time: Duration) -> anyhow::Result<Vec<Sample>> {
    let target = target(system, Protocol::Udp);
    let idle = ping::datagrams(bed, target, time)?;
    if let System::Linux | System::LinuxIptables = system {
        receive_apart(bed, End::Client)?;
        receive_apart(bed, End::Wire)?;
    }
    let ends = Ends {
        source_mac: CLIENT_MAC,
        target_mac: match system.translates() {
            true => GATEWAY_MAC,
            false => local_mac(0),
        },
        source: CLIENT_ADDRESS,
        target: target.0,
        server_port: target.1,
    };
    let mut stream = Stream {
        from: End::Client,
        traffic: vec![Traffic::udp(&ends, Varied::Target, LENGTH, FLOWS)],
        pace: Pace::Full,
    };
    let arrived = || bed.arrived(End::Wire).map(|arrived| arrived.packets);
    let most = count(bed, &stream, CALIBRATION, &arrived).context("how much it can")?;
    let interval_ns = 2e3 / most.mpps;
    stream.pace = Pace::Every(interval_ns as u32);
    let loaded = beside_load(bed, &stream, || ping::datagrams(bed, target, time))?;
    Ok(vec![
        sample(What::Idle, idle, None)?,
        sample(What::HalfLoad, loaded, Some(most.mpps / 2.0))?,
    ])
}

fn connections(bed: &Bed, system: System, time: Duration) -> anyhow::Result<Vec<Sample>> {
    let timed = ping::connections(bed, target(system, Protocol::Tcp), time)?;
    Ok(vec![sample(What::Connect, timed, None)?])
}

fn sample(what: What, timed: Timed, load_mpps: Option<f64>) -> anyhow::Result<Sample> {
    let us: Vec<f64> = timed.ns.iter().map(|&ns| ns as f64 / 1e3).collect();
    Ok(Sample {
        what,
        us: Quantiles::of(&us).with_context(|| format!("{what}: nothing came back"))?,
        lost: timed.lost,
        load_mpps,
    })
}

/// Times while a stream is being sent.
fn beside_load(
    bed: &Bed,
    stream: &Stream,
    timed: impl FnOnce() -> anyhow::Result<Timed>,
) -> anyhow::Result<Timed> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| stream.send_until(bed, RUNS, &stop));
        let timed = timed();
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load does not panic")?;
        timed
    })
}

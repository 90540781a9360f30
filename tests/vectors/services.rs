//! kube-proxy's packet tables: each step afresh, and as an update of the step before it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use podway_engine::{Decision, DropReason, Reply, SourceNat, Stop, Verdict, decide};
use podway_intent::{Cluster, Compiled, Compiler};
use podway_tables::Backend;
use podway_wire::icmp::IcmpError;
use podway_wire::{Content, FlowKey, Frame, Parsed};
use serde::Deserialize;

use crate::Tally;
use crate::dataplane::{Described, UPLINK, bytes_of, engine, protocol, send};
use crate::services_world::{NODE, Row, World};

/// A packet of a step, and what kube-proxy does with it.
#[derive(Deserialize)]
pub(crate) struct Probe {
    name: String,
    pub(crate) src: IpAddr,
    proto: String,
    dst: IpAddr,
    dport: u16,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
struct Expected {
    verdict: String,
    backends: Vec<SocketAddr>,
    masquerade: bool,
}

/// Connections for each backend: that many leave no doubt whether one occurs.
const CONNECTIONS: usize = 40;

pub(crate) fn run(file: &Path, tally: &mut Tally) -> Result<()> {
    // Where the steps of a test are states that have nothing to do with each other, none is an update.
    let related = !file.ends_with("kube-proxy-nftables-derived.jsonl");
    let mut last: Option<(String, Cluster, World, Compiler)> = None;
    for row in crate::rows::<Row>(file)? {
        let world = World::of(&row)?;
        let mut cluster = Cluster::default();
        world.apply_to(&mut cluster, None);
        let fresh = Compiler::new(NODE).compile(&cluster);
        judge(&row, "afresh", &world, &fresh, tally);
        let before = last
            .take()
            .filter(|(test, ..)| related && *test == row.test);
        let (cluster, compiler) = match before {
            Some((_, mut cluster, before, mut compiler)) => {
                world.apply_to(&mut cluster, Some(&before));
                let updated = compiler.compile(&cluster);
                judge(&row, "as an update", &world, &updated, tally);
                (cluster, compiler)
            }
            None => {
                let mut compiler = Compiler::new(NODE);
                compiler.compile(&cluster);
                (cluster, compiler)
            }
        };
        last = Some((row.test, cluster, world, compiler));
    }
    Ok(())
}

fn judge(row: &Row, how: &str, world: &World, compiled: &Compiled, tally: &mut Tally) {
    for probe in &row.packets {
        let name = format!("{} step {} {how}: {}", row.test, row.step, probe.name);
        let outcome = judge_probe(probe, world, compiled);
        let outcome = outcome.map_err(|error| format!("{error:#}"));
        tally.row(&name, outcome);
    }
}

fn judge_probe(probe: &Probe, world: &World, compiled: &Compiled) -> Result<()> {
    let snapshot = &compiled.snapshot;
    let (ingress, arrival) = world.arrival(compiled, &probe.src)?;
    let expected: BTreeSet<SocketAddr> = probe.expect.backends.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let connections = CONNECTIONS * expected.len().max(1);
    let mut parsed = shape(&probe.packet(1)?)?;
    for source_port in (20_000..).take(connections) {
        parsed.key = probe.key(source_port)?;
        let decision = decide(snapshot, arrival, &parsed, None);
        judge_decision(probe, world, compiled, &expected, &decision)?;
        seen.extend(decision.backend.as_ref().map(address));
    }
    if seen != expected {
        bail!("expected {expected:?}, got {seen:?} over {connections} connections");
    }
    // No wire carries a packet from 127.0.0.1: of those the decision is all there is.
    if !probe.src.is_loopback() {
        let (verdict, decision) = send(&mut engine(), snapshot, ingress, &probe.packet(20_000)?)?;
        judge_decision(probe, world, compiled, &expected, &decision)?;
        let sent = matches!(verdict, Verdict::Transmit(_));
        if probe.expect.verdict == "forward" && !sent {
            bail!("expected forward, got {verdict:?} {decision:?}");
        }
    }
    Ok(())
}

fn judge_decision(
    probe: &Probe,
    world: &World,
    compiled: &Compiled,
    expected: &BTreeSet<SocketAddr>,
    decision: &Decision,
) -> Result<()> {
    let right = match (probe.expect.verdict.as_str(), decision.outcome) {
        ("forward", Ok(())) => {
            let source = decision.translated.source.ip();
            let candidates = decision.candidates(&compiled.snapshot).iter().map(address);
            let masquerade = match probe.expect.masquerade {
                true => world.is_ours(compiled, &source),
                false => source == probe.src && decision.source == SourceNat::Keep,
            };
            masquerade && candidates.collect::<BTreeSet<_>>() == *expected
        }
        (
            "drop",
            Err(Stop::Drop(
                DropReason::ServiceDrop | DropReason::UnallocatedVip | DropReason::SourceRange,
            )),
        ) => true,
        ("reject", Err(Stop::Reply(Reply::Error(IcmpError::PortUnreachable)))) => true,
        ("none", _) => decision.service.is_none() && decision.translated == decision.original,
        ("forward" | "drop" | "reject", _) => false,
        (other, _) => bail!("unknown verdict {other}"),
    };
    match right {
        true => Ok(()),
        false => bail!("expected {:?}, got {decision:?}", probe.expect),
    }
}

/// What the engine reads of a packet like this one; the addresses are others, for not all of these are carried by wires.
fn shape(packet: &Described) -> Result<Parsed> {
    let (source, target): (IpAddr, IpAddr) = match packet.source {
        IpAddr::V4(_) => ([198, 18, 9, 1].into(), [198, 18, 9, 2].into()),
        IpAddr::V6(_) => (
            [0x2001, 2, 0, 9, 0, 0, 0, 1].into(),
            [0x2001, 2, 0, 9, 0, 0, 0, 2].into(),
        ),
    };
    let mut bytes = bytes_of(
        &Described {
            source,
            target,
            ..*packet
        },
        UPLINK,
    )?;
    let length = bytes.len();
    let frame = Frame::new(&mut bytes, 0, length, 0).context("a frame")?;
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => Ok(parsed),
        other => bail!("no packet: {other:?}"),
    }
}

impl Probe {
    fn packet(&self, source_port: u16) -> Result<Described> {
        Ok(Described {
            source: self.src,
            target: self.dst,
            source_port,
            target_port: self.dport,
            protocol: protocol(&self.proto)?,
        })
    }

    fn key(&self, source_port: u16) -> Result<FlowKey> {
        Ok(FlowKey {
            source: self.src.into(),
            target: self.dst.into(),
            source_port,
            target_port: self.dport,
            protocol: protocol(&self.proto)?,
        })
    }
}

fn address(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr.ip(), backend.port)
}

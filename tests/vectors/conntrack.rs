//! Which flows kube-proxy cleans up: each entry is remembered, and then meets the state of the suite.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use podway_engine::{Batch, Engine, Packet, Remembered, Settings, Shared, Timeouts};
use podway_intent::{Cluster, Compiler};
use podway_state::{Decision, NewFlow};
use podway_tables::{Found, ServiceKey};
use podway_wire::{FlowKey, Frame};
use serde::Deserialize;
use serde_json::json;

use crate::Tally;
use crate::dataplane::{Described, bytes_of, protocol};
use crate::services_world::{NODE, World};

const CLIENT: &str = "10.0.0.2";
const CLIENT_PORT: u16 = 40_000;
const NODE_ADDRESS: &str = "192.168.0.2";
const HEADROOM: usize = 256;

#[derive(Deserialize)]
struct Suite {
    test: String,
    services: serde_json::Value,
    #[serde(rename = "endpointSlices")]
    endpoint_slices: serde_json::Value,
    flows: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    proto: String,
    orig_dst: Option<IpAddr>,
    orig_dport: u16,
    reply_src: IpAddr,
    reply_sport: u16,
    expect: String,
}

pub(crate) fn run(file: &Path, tally: &mut Tally) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    // One object, or a list of them.
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let suites: Vec<Suite> = match value.is_array() {
        true => serde_json::from_value(value)?,
        false => vec![serde_json::from_value(value)?],
    };
    for suite in suites {
        let row = serde_json::from_value(json!({
            "test": suite.test,
            "step": 0,
            "node": { "name": NODE, "ips": [NODE_ADDRESS], "labels": {} },
            "podCIDRs": ["10.0.0.0/16"],
            "settings": {
                "detectLocal": true,
                "masqueradeAll": false,
                "nodePortAddresses": [format!("{NODE_ADDRESS}/32")],
            },
            "services": suite.services,
            "endpointSlices": suite.endpoint_slices,
            "packets": [{
                "name": "the client", "src": CLIENT, "proto": "UDP", "dst": NODE_ADDRESS, "dport": 9,
                "expect": { "verdict": "none", "backends": [], "masquerade": false },
            }],
        }))?;
        let world = World::of(&row)?;
        for entry in &suite.flows {
            let outcome = judge(&world, entry).map_err(|error| format!("{error:#}"));
            tally.row(&format!("{} {entry:?}", suite.test), outcome);
        }
    }
    Ok(())
}

fn judge(world: &World, entry: &Entry) -> Result<()> {
    let mut cluster = Cluster::default();
    world.apply_to(&mut cluster, None);
    let compiled = Compiler::new(NODE).compile(&cluster);
    let snapshot = &compiled.snapshot;
    let client = CLIENT.parse()?;
    let (ingress, arrival) = world.arrival(&compiled, &client)?;
    let node: IpAddr = NODE_ADDRESS.parse()?;
    let packet = Described {
        source: client,
        target: entry.orig_dst.unwrap_or(node),
        source_port: CLIENT_PORT,
        target_port: entry.orig_dport,
        protocol: protocol(&entry.proto)?,
    };
    let original = FlowKey {
        source: client.into(),
        target: packet.target.into(),
        source_port: CLIENT_PORT,
        target_port: entry.orig_dport,
        protocol: packet.protocol,
    };
    let dialled = ServiceKey {
        addr: original.target,
        port: original.target_port,
        protocol: original.protocol,
    };
    let mut translated = original;
    let mut service = None;
    // A reply from the dialled address itself is of an entry that nothing translated.
    if entry.reply_sport != 0 {
        translated.target = entry.reply_src.into();
        translated.target_port = entry.reply_sport;
        service = match snapshot.services.find(&dialled) {
            Found::Frontend(frontend) => Some(frontend.service),
            Found::WrongPort | Found::Unallocated | Found::Nothing => None,
        };
    }
    let remembered = Remembered {
        forward: snapshot.routes.hop(&translated.target),
        backward: arrival.hop(),
        service,
        last_hop: None,
        known: Default::default(),
    };
    let shared = Shared::brief();
    let flow = NewFlow {
        original: original.words(),
        reply: translated.reverse().words(),
        decision: Decision {
            words: remembered.words(),
            sequence: 0,
        },
        tracking: podway_engine::Track::new(packet.protocol).0,
    };
    shared
        .flows
        .share(0)
        .insert(&flow, 0)
        .map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    let settings = Settings {
        timeouts: Timeouts::default(),
        existing: Default::default(),
    };
    let mut engine = Engine::new(settings, shared.part(0));
    let bytes = bytes_of(&packet, ingress)?;
    let mut chunk = vec![0; 2048];
    chunk[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(&bytes);
    let frame = Frame::new(&mut chunk, HEADROOM, HEADROOM + bytes.len(), 0).context("it fits")?;
    let mut packets = [Packet::received(frame, ingress)];
    engine.process(snapshot, &mut Batch::new(&mut packets, &mut || None), 0);
    let mut flows = shared.flows.iter();
    let kept = flows.any(|it| it.original == flow.original && it.reply == flow.reply);
    match (entry.expect.as_str(), kept) {
        ("keep", true) | ("delete", false) => Ok(()),
        ("keep", false) => bail!("expected to be kept, but it is gone"),
        ("delete", true) => bail!("expected to go, but it was kept"),
        (other, _) => bail!("unknown expectation {other}"),
    }
}

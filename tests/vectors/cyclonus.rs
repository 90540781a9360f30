//! Cyclonus' truth tables: who reaches whom, at each step of a case.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1;
use podway_control::PolicyObject;
use podway_engine::Verdict;
use podway_tables::{Direction, Judgement};
use podway_wire::Addr;
use serde::Deserialize;

use crate::Tally;
use crate::dataplane::{Dataplane, Described, protocol};

#[derive(Deserialize)]
struct Base {
    namespaces: Vec<v1::Namespace>,
    pods: Vec<v1::Pod>,
}

#[derive(Deserialize)]
struct Case {
    test: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    network_policies: Vec<PolicyObject>,
    namespaces: Option<Vec<v1::Namespace>>,
    pods: Option<Vec<v1::Pod>>,
    pod_order: Vec<String>,
    truth: BTreeMap<String, BTreeMap<String, String>>,
}

pub(crate) fn run(file: &Path, tally: &mut Tally) -> Result<()> {
    let base = file.with_file_name("cyclonus-base.json");
    let base = std::fs::read_to_string(&base).with_context(|| base.display().to_string())?;
    let base: Base = serde_json::from_str(&base)?;
    for case in crate::rows::<Case>(file)? {
        for (number, step) in case.steps.iter().enumerate() {
            let name = format!("{} step {number}", case.test);
            let outcome = check(&base, step)
                .map_err(|error| format!("{error:#}"))
                .flatten();
            tally.row(&name, outcome);
        }
    }
    Ok(())
}

fn check(base: &Base, step: &Step) -> Result<Result<(), String>> {
    let namespaces = step.namespaces.as_ref().unwrap_or(&base.namespaces);
    let pods = step.pods.as_ref().unwrap_or(&base.pods);
    let dataplane = Dataplane::new(namespaces, pods, &step.network_policies, &[])?;
    let addresses = addresses(pods)?;
    let mut wrong = Vec::new();
    for (probe, table) in &step.truth {
        let (name, port) = probe.split_once('/').context("PROTOCOL/PORT")?;
        for (from, letters) in table {
            for (to, letter) in step.pod_order.iter().zip(letters.chars()) {
                if from == to {
                    continue;
                }
                let packet = Described {
                    source: *addresses.get(from).context("a pod of the table")?,
                    target: *addresses.get(to).context("a pod of the table")?,
                    source_port: 40_000,
                    target_port: port.parse()?,
                    protocol: protocol(name)?,
                };
                let seen = letter_of(&dataplane, &packet)?;
                if seen != letter {
                    wrong.push(format!(
                        "{from} > {to} {probe}: expected {letter}, got {seen}"
                    ));
                }
            }
        }
    }
    Ok(match wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} cells wrong, first {first}", wrong.len())),
    })
}

/// `.`, `I`, `E` or `B`, by the packet's own fate and by what each end says of it.
fn letter_of(dataplane: &Dataplane, packet: &Described) -> Result<char> {
    let (verdict, _) = dataplane.send(packet)?;
    let policies = &dataplane.compiled.snapshot.policies;
    let denies = |subject, direction, peer: IpAddr| {
        let endpoint = dataplane.endpoint(&subject).context("a pod here")?;
        let peer = Addr::from(peer);
        let judgement = policies.judge(
            endpoint,
            direction,
            &peer,
            packet.protocol,
            packet.target_port,
        );
        anyhow::Ok(matches!(judgement, Judgement::Deny(_)))
    };
    let egress = denies(packet.source, Direction::Egress, packet.target)?;
    let ingress = denies(packet.target, Direction::Ingress, packet.source)?;
    Ok(
        match (matches!(verdict, Verdict::Transmit(_)), egress, ingress) {
            (true, false, false) => '.',
            (false, false, true) => 'I',
            (false, true, false) => 'E',
            (false, true, true) => 'B',
            // The packet's fate and the policies contradict each other.
            (_, _, _) => '?',
        },
    )
}

fn addresses(pods: &[v1::Pod]) -> Result<BTreeMap<String, IpAddr>> {
    let of = |pod: &v1::Pod| {
        let (namespace, name) = (
            pod.metadata.namespace.as_ref()?,
            pod.metadata.name.as_ref()?,
        );
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some((format!("{namespace}/{name}"), address))
    };
    pods.iter()
        .map(|pod| of(pod).context("a pod with name and address"))
        .collect()
}

//! Rows of one packet each: NetworkPolicy v1 and ClusterNetworkPolicy v1alpha2.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use k8s_openapi::api::core::v1;
use podway_control::PolicyObject;
use podway_engine::{DropReason, Verdict};
use podway_tables::Judgement;
use serde::Deserialize;

use crate::Tally;
use crate::dataplane::{Dataplane, Described, protocol};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    test: String,
    network_policies: Vec<PolicyObject>,
    cluster_network_policies: Vec<PolicyObject>,
    namespaces: Vec<v1::Namespace>,
    pods: Vec<v1::Pod>,
    packet: Probe,
    expect: String,
    directions: Directions,
    #[serde(default)]
    api_invalid: serde_json::Value,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Probe {
    src: IpAddr,
    dst: IpAddr,
    sport: u16,
    dport: u16,
    proto: String,
}

#[derive(Deserialize)]
struct Directions {
    egress: String,
    ingress: String,
}

pub(crate) fn run(file: &Path, tally: &mut Tally) -> Result<()> {
    for row in crate::rows::<Row>(file)? {
        // Experimental in the API; rules that use it fail closed.
        if row.features.iter().any(|it| it == "domainNames") {
            tally.unsupported();
            continue;
        }
        let outcome = judge(&row).map_err(|error| format!("{error:#}")).flatten();
        tally.row(&row.test, outcome);
    }
    Ok(())
}

fn judge(row: &Row) -> Result<Result<(), String>> {
    let dataplane = Dataplane::new(
        &row.namespaces,
        &row.pods,
        &row.network_policies,
        &row.cluster_network_policies,
    );
    let dataplane = match dataplane {
        // What an API server refuses, we may refuse, too.
        Err(_) if !row.api_invalid.is_null() => return Ok(Ok(())),
        other => other?,
    };
    let Probe {
        src,
        dst,
        sport,
        dport,
        proto,
    } = &row.packet;
    let packet = Described {
        source: *src,
        target: *dst,
        source_port: *sport,
        target_port: *dport,
        protocol: protocol(proto)?,
    };
    let (verdict, decision) = dataplane.send(&packet)?;
    let denies = |judgement| matches!(judgement, Judgement::Deny(_));
    let (egress, ingress) = (denies(decision.egress), denies(decision.ingress));
    // A packet for the world is judged, too, and only then finds no route.
    let accepted = match verdict {
        Verdict::Transmit(_) | Verdict::Drop(DropReason::NoRoute | DropReason::NoNeighbour) => {
            "accept"
        }
        Verdict::Drop(_) | Verdict::Waits => "drop",
    };
    let right = accepted == row.expect
        && egress == (row.directions.egress == "drop")
        && (egress || ingress == (row.directions.ingress == "drop"));
    Ok(match right {
        true => Ok(()),
        false => Err(format!(
            "expected {}, got {verdict:?} ({decision:?})",
            row.expect
        )),
    })
}

//! Flows as `podway show flows -o json` prints them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use podway_wire::Protocol;
use serde::Deserialize;

use super::PolicyError;

/// A flow as policies judge it: from its first source to the target that it was translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The client.
    pub source: IpAddr,
    /// The server, after DNAT.
    pub target: IpAddr,
    /// TCP, UDP, SCTP, or another.
    pub protocol: Protocol,
    /// The server's port; 0 without ports.
    pub port: u16,
}

#[derive(Deserialize)]
struct Answer {
    flows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    protocol: String,
    source: String,
    translated_target: String,
}

/// The flows of a file.
pub(super) fn read(path: &Path) -> Result<Vec<Flow>, PolicyError> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let flows = text.and_then(|text| parse(&text));
    flows.map_err(|problem| PolicyError::Flows {
        path: path.display().to_string(),
        problem,
    })
}

/// The flows of an agent's answer.
pub fn parse(text: &str) -> Result<Vec<Flow>, String> {
    let answer: Answer = serde_json::from_str(text).map_err(|error| error.to_string())?;
    answer.flows.iter().map(flow).collect()
}

fn flow(row: &Row) -> Result<Flow, String> {
    let protocol = match row.protocol.as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        "icmp" => Protocol::ICMP,
        "icmpv6" => Protocol::ICMPV6,
        "gre" => Protocol(47),
        "esp" => Protocol(50),
        "ah" => Protocol(51),
        other => match other.strip_prefix("protocol ").map(str::parse) {
            Some(Ok(number)) => Protocol(number),
            Some(Err(_)) | None => {
                return Err(format!("a flow of the unknown protocol \"{other}\""));
            }
        },
    };
    let (source, _) = side(&row.source)?;
    let (target, port) = side(&row.translated_target)?;
    Ok(Flow {
        source,
        target,
        protocol,
        port,
    })
}

/// An address, with a port if it has one.
fn side(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(it) = text.parse::<SocketAddr>() {
        return Ok((it.ip(), it.port()));
    }
    let alone = text.parse().map(|ip| (ip, 0));
    alone.map_err(|_| format!("expected an address, with a port or without, found \"{text}\""))
}

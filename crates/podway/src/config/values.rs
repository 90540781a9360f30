//! Values of the configuration: each is legal once it is read, and its error says what would be.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use podway_intent::Tunnel;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use super::Source;

pub(super) fn node<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    node_name(&String::deserialize(input)?).map_err(D::Error::custom)
}

/// A Node object's name, or what is wrong with it.
pub(crate) fn node_name(name: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    match name.is_empty() || name.len() > 253 || !name.bytes().all(legal) {
        true => Err(format!(
            "{name:?} is no node name: give the Node object's name (lower case, digits, `-`, `.`)"
        )),
        false => Ok(name.to_owned()),
    }
}

pub(super) fn source<'de, D: Deserializer<'de>>(input: D) -> Result<Source, D::Error> {
    let source = String::deserialize(input)?;
    match source.as_str() {
        "kubernetes" => Ok(Source::Kubernetes),
        "" => Err(D::Error::custom(
            "is empty: give a directory of manifests, or \"kubernetes\"",
        )),
        path => Ok(Source::Directory(PathBuf::from(path))),
    }
}

pub(super) fn taint<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let key = String::deserialize(input)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    if key.is_empty() || key.len() > 317 || !key.bytes().all(legal) {
        return Err(D::Error::custom(format!(
            "{key:?} is no taint's key: give one such as \"node.podway.dev/not-ready\""
        )));
    }
    Ok(key)
}

fn interface<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let name = String::deserialize(input)?;
    let legal = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if name.is_empty() || name.len() > 15 || !name.bytes().all(legal) || name == "." || name == ".."
    {
        return Err(D::Error::custom(format!(
            "{name:?} is no device name: give 1 to 15 characters without spaces, `/` and `:`"
        )));
    }
    Ok(name)
}

pub(super) fn uplink<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    interface(input).map(Some)
}

pub(super) fn directory<'de, D: Deserializer<'de>>(input: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(input)?;
    if !path.is_absolute() {
        return Err(D::Error::custom(format!(
            "{path:?} is no absolute path: give one, as in \"/proc/sys\""
        )));
    }
    Ok(path)
}

pub(super) fn facts<'de, D: Deserializer<'de>>(input: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(input)?;
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(D::Error::custom(format!(
            "{path:?} is no absolute path of a file: give one, as in \"/var/lib/podway/agent/facts\""
        )));
    }
    Ok(Some(path))
}

pub(super) fn host_interface<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let name = interface(input)?;
    if name == podway_host::node::DATAPLANE_INTERFACE {
        return Err(D::Error::custom(format!(
            "{name:?} is the dataplane's own end: choose another name"
        )));
    }
    Ok(name)
}

pub(super) fn socket<'de, D: Deserializer<'de>>(input: D) -> Result<PathBuf, D::Error> {
    let path = String::deserialize(input)?;
    // sun_path of unix(7) holds 107 bytes and a zero.
    if !path.starts_with('/') || path.len() > 107 {
        return Err(D::Error::custom(format!(
            "{path:?} is no socket path: give an absolute path of at most 107 bytes"
        )));
    }
    Ok(PathBuf::from(path))
}

pub(super) fn workers<'de, D: Deserializer<'de>>(input: D) -> Result<usize, D::Error> {
    whole::<D>(input, 1, 64).map(|value| value as usize)
}

pub(super) fn pod_mtu<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    whole::<D>(input, 1280, 65535).map(|value| value as u32)
}

pub(super) fn flows<'de, D: Deserializer<'de>>(input: D) -> Result<usize, D::Error> {
    whole::<D>(input, 1024, 1 << 26).map(|value| value as usize)
}

pub(super) fn frames<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let value = whole::<D>(input, 1024, 65536)? as u32;
    if !value.is_power_of_two() {
        return Err(D::Error::custom(format!(
            "{value} is no power of two: give {} or {}",
            value.next_power_of_two() / 2,
            value.next_power_of_two()
        )));
    }
    Ok(value)
}

pub(super) fn tunnel<'de, D: Deserializer<'de>>(input: D) -> Result<Tunnel, D::Error> {
    struct Word;

    impl Visitor<'_> for Word {
        type Value = Tunnel;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("vxlan, direct or auto; the tunnel's port and vni are in [vxlan]")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tunnel, E> {
            text.parse().map_err(E::custom)
        }
    }

    input.deserialize_str(Word)
}

pub(super) fn tunnel_port<'de, D: Deserializer<'de>>(input: D) -> Result<u16, D::Error> {
    whole::<D>(input, 1, 65535).map(|value| value as u16)
}

pub(super) fn vni<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    whole::<D>(input, 0, (1 << 24) - 1).map(|value| value as u32)
}

pub(super) fn ranges<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::<String>::deserialize(input)?
        .iter()
        .map(|text| {
            let range: IpNet = text.parse().map_err(|_| {
                D::Error::custom(format!(
                    "{text:?} is no range: give an address and a length, as in \"10.96.0.0/16\""
                ))
            })?;
            if range != range.trunc() {
                return Err(D::Error::custom(format!(
                    "{text:?} has bits beyond its length: write {:?}",
                    range.trunc().to_string()
                )));
            }
            Ok(range)
        })
        .collect()
}

pub(super) fn some_ranges<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Vec<IpNet>>, D::Error> {
    ranges(input).map(Some)
}

pub(super) fn snat_ports<'de, D: Deserializer<'de>>(input: D) -> Result<(u16, u16), D::Error> {
    let text = String::deserialize(input)?;
    let ends = text.split_once('-').and_then(|(first, last)| {
        let ends = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (1_024 <= ends.0 && ends.0 <= ends.1).then_some(ends)
    });
    ends.ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is no range of ports: give the first and the last from 1024 up, as in \"61000-65535\""
        ))
    })
}

pub(super) fn health_address<'de, D: Deserializer<'de>>(input: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(input)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "{text:?} is no address with a port: give one, as in \"[::]:10256\""
        ))
    })
}

/// Ten days at most: a flow's clock wraps after 49.
pub(super) fn seconds<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    whole::<D>(input, 1, 864_000).map(|value| value as u32)
}

fn whole<'de, D: Deserializer<'de>>(input: D, least: i64, most: i64) -> Result<i64, D::Error> {
    let value = i64::deserialize(input)?;
    if !(least..=most).contains(&value) {
        return Err(D::Error::custom(format!(
            "{value} is out of range: give a whole number from {least} to {most}"
        )));
    }
    Ok(value)
}

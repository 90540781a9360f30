//! A network's configuration, as the runtime hands it over on standard input.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::INPUT_LIMIT;
use super::environment::{is_container_id, is_device_name};
use super::error::{CniError, Code};
use super::version::Version;
use crate::{STATE_DIRECTORY, Wired};

const SOCKET: &str = "/run/podway/podway.sock";

/// Fields that are understood, or are the runtime's own.
const FIELDS: [&str; 12] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "dns",
    "disableCheck",
    "disableGC",
    "prevResult",
    "runtimeConfig",
    "cni.dev/",
];
/// podway's own.
const OWN_FIELDS: [&str; 2] = ["socket", "stateDir"];

/// Whether fields that are not supported are refused: what takes away does so whatever else is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    Strict,
    Lenient,
}

/// The configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    pub(super) version: Version,
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) state: PathBuf,
    pub(super) dns: Option<Value>,
    pub(super) previous: Option<Value>,
    /// What GC leaves.
    pub(super) valid: Option<Vec<Wired>>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    name: Option<String>,
    socket: Option<PathBuf>,
    #[serde(rename = "stateDir")]
    state: Option<PathBuf>,
    dns: Option<Value>,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<RawAttachment>>,
    /// The key as the specification's first text of GC has it.
    #[serde(rename = "cni.dev/attachments")]
    listed: Option<Vec<RawAttachment>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    device: String,
}

/// The version of a configuration, whatever else is wrong with it.
pub(super) fn version_of(input: &[u8]) -> Option<Version> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Version::of(value["cniVersion"].as_str()?)
}

/// The plugin that a configuration names, whatever else is wrong with it.
pub(super) fn plugin_of(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value["type"].as_str()?.to_owned())
}

impl Config {
    pub(super) fn read(input: &[u8], strictness: Strictness) -> Result<Config, CniError> {
        if input.len() as u64 > INPUT_LIMIT {
            let text = format!(
                "standard input: the configuration is longer than {INPUT_LIMIT} bytes: make it shorter"
            );
            return Err(CniError::new(Code::Config, text));
        }
        let raw: Raw = serde_json::from_slice(input).map_err(|error| {
            let text = format!("standard input: {error}: give a network's configuration in JSON");
            CniError::new(Code::Decode, text)
        })?;
        let asked = raw.version.as_deref().unwrap_or("none");
        let version = Version::of(asked).ok_or_else(|| {
            let text = format!(
                "cniVersion: {asked:?} is not spoken here: give one of {}",
                Version::ALL.map(Version::text).join(", ")
            );
            CniError::new(Code::IncompatibleVersion, text)
        })?;
        let name = raw.name.unwrap_or_default();
        if !is_container_id(&name) {
            return Err(wrong(format!(
                "name: {name:?} is no network's name: give letters, digits, `_`, `.` and `-`, the first a letter or digit"
            )));
        }
        if strictness == Strictness::Strict {
            refuse_unsupported(&raw.rest)?;
        }
        let path = |field: &str, given: Option<PathBuf>, usual: &str| match given {
            Some(path) if !path.is_absolute() => Err(wrong(format!(
                "{field}: {path:?} is relative: give an absolute path"
            ))),
            Some(path) => Ok(path),
            None => Ok(PathBuf::from(usual)),
        };
        Ok(Config {
            version,
            name,
            socket: path("socket", raw.socket, SOCKET)?,
            state: path("stateDir", raw.state, STATE_DIRECTORY)?,
            dns: raw.dns,
            previous: raw.previous,
            valid: union(raw.valid, raw.listed).map(attachments).transpose()?,
        })
    }

    /// Commands that older versions lack are not understood under them.
    pub(super) fn since(&self, command: &str, version: Version) -> Result<(), CniError> {
        if self.version >= version {
            return Ok(());
        }
        let text = format!(
            "cniVersion: {} has no {command}: give {} or newer",
            self.version.text(),
            version.text()
        );
        Err(CniError::new(Code::IncompatibleVersion, text))
    }
}

/// What either key lists is left: runtimes give one of them, or both alike.
fn union<T>(one: Option<Vec<T>>, other: Option<Vec<T>>) -> Option<Vec<T>> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.into_iter().chain(other).flatten().collect()),
    }
}

fn attachments(raw: Vec<RawAttachment>) -> Result<Vec<Wired>, CniError> {
    let attachment =
        |it: RawAttachment| match is_container_id(&it.container) && is_device_name(&it.device) {
            true => Ok(Wired {
                container: it.container,
                device: it.device,
            }),
            false => Err(wrong(format!(
                "cni.dev/valid-attachments: {:?} {:?} is no container's interface",
                it.container, it.device
            ))),
        };
    raw.into_iter().map(attachment).collect()
}

fn refuse_unsupported(rest: &Map<String, Value>) -> Result<(), CniError> {
    for (field, value) in rest {
        let remedy = match field.as_str() {
            "ipam" if !value.as_object().is_some_and(Map::is_empty) => {
                "addresses are of the Node's podCIDRs: take it out"
            }
            "runtimeConfig" => {
                let mappings = &value["portMappings"];
                if mappings.as_array().is_none_or(Vec::is_empty) {
                    continue;
                }
                "podway opens host ports by the pods' own specs: take the capability portMappings from it"
            }
            known
                if known == "ipam" || FIELDS.contains(&known) || known.starts_with("cni.dev/") =>
            {
                continue;
            }
            _ => "podway does not know it: take it out",
        };
        let own = OWN_FIELDS.join(", ");
        let text = format!("{field}: {remedy} (podway's own fields are {own})");
        return Err(CniError::new(Code::UnsupportedField, text));
    }
    Ok(())
}

fn wrong(text: String) -> CniError {
    CniError::new(Code::Config, text)
}

//! The agent's configuration: a TOML file whose every value is legal once it is read.

mod values;

use std::fs;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use self::values::{
    flows, frames, host_interface, interface, node, pod_mtu, service_ranges, socket, source,
    tunnel_port, vni, workers,
};

/// What `podway run` is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, as its Node object has it.
    #[serde(deserialize_with = "node")]
    pub node: String,
    /// The directory of manifests that describes the cluster.
    #[serde(deserialize_with = "source")]
    pub source: PathBuf,
    /// The device that leads to the other nodes.
    #[serde(deserialize_with = "interface")]
    pub uplink: String,
    /// The admin socket.
    #[serde(default = "default_socket", deserialize_with = "socket")]
    pub socket: PathBuf,
    /// How many worker threads there are, 1 to 64.
    #[serde(default = "default_workers", deserialize_with = "workers")]
    pub workers: usize,
    /// The cores that workers are pinned to, one each; empty: the agent chooses.
    #[serde(default)]
    pub cores: Vec<usize>,
    /// The MTU of pods' devices, in bytes.
    #[serde(default = "default_pod_mtu", deserialize_with = "pod_mtu")]
    pub pod_mtu: u32,
    /// How many flows the table holds.
    #[serde(default = "default_flows", deserialize_with = "flows")]
    pub flows: usize,
    /// Packet buffers of 4 KiB for each worker, a power of two.
    #[serde(default = "default_frames", deserialize_with = "frames")]
    pub frames: u32,
    /// The name of the host's end of the pair that joins the node with the dataplane.
    #[serde(
        default = "default_host_interface",
        deserialize_with = "host_interface"
    )]
    pub host_interface: String,
    /// The ranges that cluster IPs come from.
    #[serde(
        default = "default_service_ranges",
        deserialize_with = "service_ranges"
    )]
    pub service_ranges: Vec<IpNet>,
    /// The tunnel between nodes.
    #[serde(default)]
    pub tunnel: Tunnel,
}

/// The VXLAN tunnel (RFC 7348), equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// UDP port.
    #[serde(deserialize_with = "tunnel_port")]
    pub port: u16,
    /// Network identifier, 24 bits.
    #[serde(deserialize_with = "vni")]
    pub vni: u32,
}

impl Default for Tunnel {
    fn default() -> Tunnel {
        Tunnel { port: 4789, vni: 1 }
    }
}

/// Why a configuration is refused: file, line, key and remedy in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error(
        "{path}: {problem}: give the configuration's path with --config, as in config/podway.toml"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        problem: String,
    },
    /// A key is wrong or missing.
    #[error("{path}:{line}: {problem}")]
    Wrong {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The key, what is wrong with it and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads the file; errors name file, line and key.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: name.clone(),
            problem: error.kind().to_string(),
        })?;
        parse(&name, &text)
    }
}

fn parse(path: &str, text: &str) -> Result<Config, ConfigError> {
    let wrong = |line: usize, problem: String| ConfigError::Wrong {
        path: path.to_owned(),
        line,
        problem,
    };
    let config: Config = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text[..start].matches('\n').count();
        let key = key_of(text.lines().nth(line).unwrap_or_default());
        let message = error.message().replace('\n', " ");
        match key {
            Some(key) if !message.contains(" field `") => {
                wrong(line + 1, format!("{key}: {message}"))
            }
            Some(_) | None => wrong(line + 1, message),
        }
    })?;
    if !config.cores.is_empty() && config.cores.len() != config.workers {
        let line = line_of(text, "cores");
        let (cores, workers) = (config.cores.len(), config.workers);
        return Err(wrong(
            line,
            format!("cores: {cores} cores for {workers} workers: list one core for each worker"),
        ));
    }
    Ok(config)
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.starts_with('#')).then_some(key)
}

fn line_of(text: &str, key: &str) -> usize {
    text.lines()
        .position(|line| key_of(line) == Some(key))
        .map_or(1, |index| index + 1)
}

fn default_socket() -> PathBuf {
    PathBuf::from("/run/podway/podway.sock")
}

fn default_workers() -> usize {
    1
}

fn default_pod_mtu() -> u32 {
    61000
}

fn default_flows() -> usize {
    262_144
}

fn default_frames() -> u32 {
    8192
}

fn default_host_interface() -> String {
    "podway-host".to_owned()
}

pub(crate) fn default_service_ranges() -> Vec<IpNet> {
    ["10.96.0.0/16", "fd96::/112"]
        .iter()
        .map(|text| text.parse().expect("a range"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "node = \"n1\"\nsource = \"/m\"\nuplink = \"eth0\"\n";

    #[test]
    fn the_documented_example_is_the_defaults() {
        let example = include_str!("../../../config/podway.toml");
        let documented = parse("config/podway.toml", example).expect("the example is legal");
        let least = "node = \"node1\"\nsource = \"/etc/podway/cluster\"\nuplink = \"eth0\"\n";
        assert_eq!(documented, parse("least", least).expect("legal"));
    }

    #[test]
    fn every_key_is_in_the_example() {
        let example = include_str!("../../../config/podway.toml");
        for key in [
            "node",
            "source",
            "uplink",
            "socket",
            "workers",
            "cores",
            "pod_mtu",
            "flows",
            "frames",
            "host_interface",
            "service_ranges",
            "port",
            "vni",
        ] {
            assert!(example.contains(&format!("{key} = ")), "{key}");
        }
    }

    #[test]
    fn wrong_values_name_file_line_key_and_remedy() {
        for (line, said) in [
            (
                "workers = 0",
                "c:4: workers: 0 is out of range: give a whole number from 1 to 64",
            ),
            (
                "frames = 5000",
                "c:4: frames: 5000 is no power of two: give 4096 or 8192",
            ),
            (
                "pod_mtu = 900",
                "c:4: pod_mtu: 900 is out of range: give a whole number from 1280 to 65535",
            ),
            (
                "flows = \"many\"",
                "c:4: flows: invalid type: string \"many\", expected i64",
            ),
            (
                "socket = \"run\"",
                "c:4: socket: \"run\" is no socket path: give an absolute path of at most 107 bytes",
            ),
            (
                "cores = [0, 1]",
                "c:4: cores: 2 cores for 1 workers: list one core for each worker",
            ),
            (
                "service_ranges = [\"10.96.0.1/16\"]",
                "c:4: service_ranges: \"10.96.0.1/16\" has bits beyond its length: write \"10.96.0.0/16\"",
            ),
            (
                "service_ranges = [\"ten\"]",
                "c:4: service_ranges: \"ten\" is no range: give an address and a length, as in \"10.96.0.0/16\"",
            ),
            (
                "[tunnel]\nvni = 16777216",
                "c:5: vni: 16777216 is out of range: give a whole number from 0 to 16777215",
            ),
            (
                "host_interface = \"podway-dp\"",
                "c:4: host_interface: \"podway-dp\" is the dataplane's own end: choose another name",
            ),
        ] {
            let error = parse("c", &format!("{LEAST}{line}\n")).expect_err(line);
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn kubernetes_is_promised_not_pretended() {
        let text = "node = \"n1\"\nsource = \"kubernetes\"\nuplink = \"eth0\"\n";
        let error = parse("c", text).expect_err("not yet");
        assert_eq!(
            error.to_string(),
            "c:2: source: \"kubernetes\" comes with a later version: give a directory of manifests"
        );
    }

    #[test]
    fn unknown_and_missing_keys_are_errors() {
        let error = parse("c", &format!("{LEAST}worker = 2\n")).expect_err("unknown");
        assert!(
            error
                .to_string()
                .starts_with("c:4: unknown field `worker`, expected one of `node`, `source`"),
            "{error}"
        );
        let error = parse("c", "node = \"n1\"\nsource = \"/m\"\n").expect_err("missing");
        assert_eq!(error.to_string(), "c:1: missing field `uplink`");
        let error = parse("c", "node = \"n1\nsource = 3").expect_err("no TOML");
        assert!(error.to_string().starts_with("c:1: node: "), "{error}");
    }

    #[test]
    fn a_missing_file_says_how_to_give_one() {
        let error = Config::read(Path::new("/nowhere/podway.toml")).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "/nowhere/podway.toml: entity not found: give the configuration's path with --config, as in config/podway.toml"
        );
    }
}

//! The plugin `loopback`, which many runtimes call for each container before the network's own (containerd before 2.0,
//! CRI-O): it starts the container's `lo`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podway_host::{Namespace, Network};
use serde_json::{Value, json};

use super::config::{Config, Strictness};
use super::environment::{Command, Container, Environment};
use super::error::{CniError, Code};
use super::result::ip;
use super::version::versions;

/// The name that runtimes call it by; always the same, because its configuration is theirs.
pub const LOOPBACK: &str = "loopback";
const DEVICE: &str = "lo";

/// Does what is asked of it.
pub(super) fn answer(
    command: Command,
    environment: &Environment<'_>,
    input: &[u8],
) -> Result<Option<Value>, CniError> {
    let read = || Config::read(input, Strictness::Lenient);
    match command {
        Command::Version => versions(input).map(Some),
        Command::Add => add(&environment.container_to_add()?, &read()?).map(Some),
        Command::Check => check(&environment.container_to_add()?).map(|()| None),
        // It goes with its container.
        Command::Delete | Command::Collect | Command::Status => Ok(None),
    }
}

/// Starts `lo`.
fn add(container: &Container, config: &Config) -> Result<Value, CniError> {
    inside(container, async |pod: Network| {
        Ok(pod.set_up(pod.index(DEVICE)?).await?)
    })?;
    if let Some(previous) = &config.previous {
        return Ok(previous.clone());
    }
    let addresses = [
        IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8),
        IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), 128),
    ];
    Ok(json!({
        "cniVersion": config.version.text(),
        "interfaces": [{
            "name": DEVICE, "mac": "00:00:00:00:00:00", "sandbox": container.netns.to_string_lossy(),
        }],
        "ips": addresses.map(|address| ip(config.version, address, 0)),
        "dns": {},
    }))
}

/// Nothing if `lo` is up.
fn check(container: &Container) -> Result<(), CniError> {
    inside(container, async |pod: Network| {
        match pod.is_up(pod.index(DEVICE)?).await? {
            true => Ok(()),
            false => Err(CniError::new(
                Code::Different,
                "lo is down in the container",
            )),
        }
    })
}

fn inside<T: Send>(
    container: &Container,
    job: impl AsyncFnOnce(Network) -> Result<T, CniError> + Send,
) -> Result<T, CniError> {
    Network::of(&Namespace::open(&container.netns)?, job)
}

//! Puts the plugin where a container runtime looks for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use podway_host::{Durability, write_whole};
use serde_json::json;

use crate::plugin::{LOOPBACK, Version};

/// The plugin's file name, by which a network's configuration names it.
const PLUGIN: &str = "podway-cni";
/// The network's configuration: runtimes take the first file in the order of names.
const CONFIGURATION: &str = "10-podway.conflist";

/// What is put where.
#[derive(Clone, Debug)]
pub struct Install {
    /// The plugin's program.
    pub program: PathBuf,
    /// The runtime's directory of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's directory of networks.
    pub conf_dir: PathBuf,
    /// The agent's socket as the plugin will find it.
    pub socket: PathBuf,
    /// Where the plugin will keep its records.
    pub state_dir: PathBuf,
}

/// Why the plugin is not installed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}; {remedy}", path.display())]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
    remedy: &'static str,
}

/// Writes the program, as `loopback` too where there is none, then the configuration that makes runtimes call them, each
/// whole or not at all; returns what was written.
pub fn install(wanted: &Install) -> Result<Vec<PathBuf>, InstallError> {
    let failed = |path: &Path, remedy| {
        let path = path.to_owned();
        move |source| InstallError {
            path,
            source,
            remedy,
        }
    };
    let program = fs::read(&wanted.program).map_err(failed(
        &wanted.program,
        "podway-cni belongs next to podway: build or unpack both",
    ))?;
    let put = |directory: &Path, name: &str, bytes: &[u8], mode| {
        let path = directory.join(name);
        let temporary = directory.join(format!(".{name}.new"));
        let written = fs::create_dir_all(directory)
            .and_then(|()| write_whole(&temporary, &path, bytes, mode, Durability::Machine));
        written.map_err(failed(&path, "make the directory writable for root"))?;
        Ok(path)
    };
    let configuration = format!("{:#}\n", configuration(wanted));
    let mut written = vec![put(&wanted.bin_dir, PLUGIN, &program, 0o755)?];
    if !wanted.bin_dir.join(LOOPBACK).exists() {
        written.push(put(&wanted.bin_dir, LOOPBACK, &program, 0o755)?);
    }
    let (name, bytes) = (CONFIGURATION, configuration.as_bytes());
    written.push(put(&wanted.conf_dir, name, bytes, 0o644)?);
    Ok(written)
}

/// Runtimes that know of `cniVersions` take the highest that both sides speak; older ones read `cniVersion`.
fn configuration(wanted: &Install) -> serde_json::Value {
    json!({
        "cniVersion": Version::V1_0_0.text(),
        "cniVersions": Version::ALL.map(Version::text),
        "name": "podway",
        "plugins": [{
            "type": PLUGIN,
            "socket": wanted.socket,
            "stateDir": wanted.state_dir,
        }],
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wanted(folder: &Path) -> Install {
        Install {
            program: folder.join("built/podway-cni"),
            bin_dir: folder.join("opt/cni/bin"),
            conf_dir: folder.join("etc/cni/net.d"),
            socket: "/run/podway/podway.sock".into(),
            state_dir: "/var/lib/podway/cni".into(),
        }
    }

    #[test]
    fn program_and_configuration_are_put_in_place_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(folder.path());
        fs::create_dir(folder.path().join("built")).unwrap();
        for program in ["first, and longer", "second"] {
            fs::write(&wanted.program, program).unwrap();
            let written = install(&wanted).unwrap();
            let (binary, configuration) = (&written[0], written.last().unwrap());
            assert_eq!(fs::read_to_string(binary).unwrap(), program);
            let mode = fs::metadata(binary).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
            let text = fs::read(configuration).unwrap();
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(value["cniVersion"], "1.0.0");
            assert_eq!(value["plugins"][0]["socket"], "/run/podway/podway.sock");
        }
        let loopback = fs::read_to_string(wanted.bin_dir.join("loopback")).unwrap();
        assert_eq!(loopback, "first, and longer", "one that is there stays");
        for (directory, files) in [(&wanted.bin_dir, 2), (&wanted.conf_dir, 1)] {
            let left = fs::read_dir(directory).unwrap().count();
            assert_eq!(left, files, "nothing else is left");
        }
    }

    #[test]
    fn without_a_program_there_is_no_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = wanted(folder.path());
        let error = install(&wanted).unwrap_err().to_string();
        assert!(
            error.ends_with("podway-cni belongs next to podway: build or unpack both"),
            "{error}"
        );
        assert!(!wanted.conf_dir.exists());
    }
}

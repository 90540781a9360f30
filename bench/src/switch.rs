//! A switch of Open vSwitch in a namespace of ours: userspace datapath, AF_XDP ports.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, ensure};
use podway_host::Namespace;

use crate::wire::{feed, settle};

/// Where switches keep their databases, sockets and logs while they run.
const DIRECTORY: &str = "/run/podway-bench-ovs";

/// Debian's build with DPDK, which users of the userspace datapath have; without it, `ovs-vswitchd` can AF_XDP, too.
const WITH_DPDK: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// A switch; dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Switch {
    namespace: String,
    directory: PathBuf,
    processes: Vec<Child>,
}

impl Switch {
    /// Starts one in the namespace of that name; its threads that forward run on the cores of `mask`, all others on
    /// `control_core`.
    pub(crate) fn start(namespace: &str, mask: u32, control_core: usize) -> anyhow::Result<Switch> {
        let directory = Path::new(DIRECTORY).join(namespace);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("{}: cannot make it", directory.display()))?;
        let mut switch = Switch {
            namespace: namespace.to_owned(),
            directory,
            processes: Vec::new(),
        };
        let schema = env::var_os("OVS_PKGDATADIR").unwrap_or("/usr/share/openvswitch".into());
        let schema = Path::new(&schema).join("vswitch.ovsschema");
        let mut create = switch.program("ovsdb-tool");
        create.arg("create").arg(switch.file("conf.db")).arg(schema);
        switch.run(&mut create, "")?;
        let mut database = switch.program("ovsdb-server");
        database.arg(format!("--remote=punix:{}", switch.text("db.sock")));
        database.arg(switch.file("conf.db"));
        switch.spawn(&mut database, control_core)?;
        switch.configure(&format!(
            "--retry --no-wait init -- set Open_vSwitch . other_config:pmd-cpu-mask={mask:x}"
        ))?;
        let mut daemon = switch.program(match Path::new(WITH_DPDK).exists() {
            true => WITH_DPDK,
            false => "ovs-vswitchd",
        });
        daemon.arg(format!("unix:{}", switch.text("db.sock")));
        daemon.arg(format!("--unixctl={}", switch.text("control")));
        switch.spawn(&mut daemon, control_core)?;
        Ok(switch)
    }

    /// What `ovs-vsctl` makes of these words.
    pub(crate) fn configure(&self, words: &str) -> anyhow::Result<String> {
        let database = format!("--db=unix:{}", self.text("db.sock"));
        let mut command = self.program("ovs-vsctl");
        command.args([&database, "--timeout=10"]);
        command.args(words.split_whitespace());
        self.run(&mut command, "")
            .with_context(|| format!("ovs-vsctl {words}"))
    }

    /// Adds a device with so many queues to a bridge, by AF_XDP; an error if the switch can't.
    pub(crate) fn add_device(
        &self,
        bridge: &str,
        device: &str,
        number: u32,
        queues: usize,
    ) -> anyhow::Result<()> {
        self.configure(&format!(
            "add-port {bridge} {device} -- set interface {device} type=afxdp options:xdp-mode=native options:n_rxq={queues} ofport_request={number}"
        ))?;
        let error = self.configure(&format!("get interface {device} error"))?;
        ensure!(
            error.trim() == "[]",
            "Open vSwitch can't use `{device}`: {}",
            error.trim()
        );
        Ok(())
    }

    /// What `ovs-appctl` makes of these words.
    pub(crate) fn tell(&self, words: &str) -> anyhow::Result<String> {
        let mut command = self.program("ovs-appctl");
        command.args(["-t", &self.text("control")]);
        command.args(words.split_whitespace());
        self.run(&mut command, "")
            .with_context(|| format!("ovs-appctl {words}"))
    }

    /// Adds groups and flows to a bridge.
    pub(crate) fn program_flows(
        &self,
        bridge: &str,
        groups: &str,
        flows: &str,
    ) -> anyhow::Result<()> {
        for (what, text) in [("add-groups", groups), ("add-flows", flows)] {
            let mut command = self.program("ovs-ofctl");
            command.args(["-O", "OpenFlow13", what, bridge, "-"]);
            self.run(&mut command, text)?;
        }
        Ok(())
    }

    /// Starts a process of the switch on a core; threads that forward leave it for their own.
    fn spawn(&mut self, command: &mut Command, core: usize) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .context("the switch's log")?;
        let command = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let namespace = Namespace::named(&self.namespace)?;
        let started = || {
            settle(&namespace, core)?;
            command.spawn().context("starting Open vSwitch")
        };
        let child = thread::scope(|scope| {
            let started = scope.spawn(started);
            started.join().expect("spawning does not panic")
        })?;
        self.processes.push(child);
        Ok(())
    }

    fn run(&self, command: &mut Command, input: &str) -> anyhow::Result<String> {
        feed(&Namespace::named(&self.namespace)?, command, input)
    }

    /// A program of Open vSwitch that knows no other place than ours.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.directory);
        }
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
        // Others may still have theirs in it.
        let _ = fs::remove_dir(DIRECTORY);
    }
}

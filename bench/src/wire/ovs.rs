//! Open vSwitch as OVN uses it: userspace datapath on AF_XDP ports, conntrack DNAT by select groups, and VXLAN.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use super::bed::{Bed, feed, ip};
use super::count::settle;
use super::{FORWARDER_CORE, SOURCE_CORE};
use crate::cluster::{
    BACKEND_PORT, ENDPOINTS, NODE, PEER, PEER_MAC, REMOTE_SERVICE, SERVICE_PORT, TARGETS,
    TUNNEL_PORT, UPLINK_MAC, VNI, after, endpoint,
};

/// Where the switch keeps its database, sockets and logs while it runs.
const DIRECTORY: &str = "/run/podway-bench-ovs";
/// OpenFlow ports of the pod's device and of the tunnel.
const POD: u32 = 1;
const TUNNEL: u32 = 2;

/// A switch of our own in the node's namespace; dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct OpenVswitch {
    processes: Vec<Child>,
}

impl OpenVswitch {
    /// Starts the switch and makes it forward from `in` to `wire`.
    pub(crate) fn start(bed: &Bed) -> anyhow::Result<OpenVswitch> {
        let _ = fs::remove_dir_all(DIRECTORY);
        fs::create_dir_all(DIRECTORY).with_context(|| format!("{DIRECTORY}: cannot make it"))?;
        let mut switch = OpenVswitch {
            processes: Vec::new(),
        };
        let schema = env::var_os("OVS_PKGDATADIR").unwrap_or("/usr/share/openvswitch".into());
        let schema = Path::new(&schema).join("vswitch.ovsschema");
        feed(
            &bed.node,
            program("ovsdb-tool")
                .arg("create")
                .arg(file("conf.db"))
                .arg(schema),
            "",
        )?;
        switch.spawn(
            bed,
            program("ovsdb-server")
                .arg(format!("--remote=punix:{DIRECTORY}/db.sock"))
                .arg(file("conf.db")),
        )?;
        let mask = format!("other_config:pmd-cpu-mask={:x}", 1 << FORWARDER_CORE);
        configure(
            bed,
            &[
                "--retry",
                "--no-wait",
                "init",
                "--",
                "set",
                "Open_vSwitch",
                ".",
                &mask,
            ],
        )?;
        switch.spawn(
            bed,
            program("ovs-vswitchd")
                .arg(format!("unix:{DIRECTORY}/db.sock"))
                .arg(format!("--unixctl={DIRECTORY}/control")),
        )?;
        switch.forward(bed)?;
        Ok(switch)
    }

    fn forward(&self, bed: &Bed) -> anyhow::Result<()> {
        let afxdp = ["type=afxdp", "options:xdp-mode=native", "options:n_rxq=1"];
        let (mac, ends) = (
            format!("other-config:hwaddr=\"{UPLINK_MAC}\""),
            [
                "type=vxlan".to_owned(),
                format!("options:remote_ip={PEER}"),
                format!("options:local_ip={NODE}"),
                format!("options:key={VNI}"),
                format!("options:dst_port={TUNNEL_PORT}"),
                format!("ofport_request={TUNNEL}"),
            ],
        );
        let pod = format!("ofport_request={POD}");
        configure(
            bed,
            &[
                "add-br",
                "pods",
                "--",
                "set",
                "bridge",
                "pods",
                "datapath_type=netdev",
                "fail-mode=secure",
            ],
        )?;
        configure(
            bed,
            &[
                "add-br",
                "under",
                "--",
                "set",
                "bridge",
                "under",
                "datapath_type=netdev",
                &mac,
            ],
        )?;
        configure(
            bed,
            &[
                &[
                    "add-port",
                    "pods",
                    "in",
                    "--",
                    "set",
                    "interface",
                    "in",
                    &pod,
                ],
                &afxdp[..],
            ]
            .concat(),
        )?;
        configure(
            bed,
            &[
                &[
                    "add-port",
                    "under",
                    "wire",
                    "--",
                    "set",
                    "interface",
                    "wire",
                ],
                &afxdp[..],
            ]
            .concat(),
        )?;
        ip(
            "node",
            &format!("address add {NODE}/24 dev under\nlink set under up\n"),
        )?;
        let ends: Vec<&str> = ends.iter().map(String::as_str).collect();
        configure(
            bed,
            &[
                &["add-port", "pods", "vx", "--", "set", "interface", "vx"],
                &ends[..],
            ]
            .concat(),
        )?;
        let control = format!("{DIRECTORY}/control");
        let (peer, mac) = (PEER.to_string(), PEER_MAC.to_string());
        feed(
            &bed.node,
            program("ovs-appctl").args(["-t", &control, "tnl/neigh/set", "under", &peer, &mac]),
            "",
        )?;
        let (groups, flows) = openflow();
        for (command, text) in [("add-groups", groups), ("add-flows", flows)] {
            feed(
                &bed.node,
                program("ovs-ofctl").args(["-O", "OpenFlow13", command, "pods", "-"]),
                &text,
            )?;
        }
        Ok(())
    }

    /// Starts a process of the switch; its own threads leave the forwarder's core to the one that forwards.
    fn spawn(&mut self, bed: &Bed, command: &mut Command) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(file("log"))
            .context("the switch's log")?;
        let command = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = || {
            settle(&bed.node, SOURCE_CORE)?;
            command.spawn().context("starting Open vSwitch")
        };
        let child = std::thread::scope(|scope| {
            scope
                .spawn(started)
                .join()
                .expect("spawning does not panic")
        })?;
        self.processes.push(child);
        Ok(())
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = fs::remove_dir_all(DIRECTORY);
    }
}

fn configure(bed: &Bed, words: &[&str]) -> anyhow::Result<()> {
    let database = format!("--db=unix:{DIRECTORY}/db.sock");
    feed(
        &bed.node,
        program("ovs-vsctl")
            .args([&database, "--timeout=10"])
            .args(words),
        "",
    )
    .map(drop)
}

/// A program of Open vSwitch that knows no other place than ours.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, DIRECTORY);
    }
    command
}

fn file(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Groups and flows: what conntrack has translated goes on, what still has a service's address has an endpoint chosen.
///
/// A flow that nobody answers stays new to conntrack, so its state can't tell the two apart.
fn openflow() -> (String, String) {
    let (mut groups, mut flows) = (String::new(), String::new());
    for service in 0..TARGETS {
        let group = service + 1;
        let buckets: String = (service * ENDPOINTS..(service + 1) * ENDPOINTS)
            .map(|end| {
                format!(
                    ",bucket=ct(commit,table=2,zone=1,nat(dst={}:{BACKEND_PORT}))",
                    endpoint(end)
                )
            })
            .collect();
        writeln!(groups, "group_id={group},type=select{buckets}").expect("a string takes all");
        let address = after(REMOTE_SERVICE, service);
        writeln!(
            flows,
            "table=1,priority=10,ct_state=+trk+new,udp,nw_dst={address},tp_dst={SERVICE_PORT},actions=group:{group}"
        )
        .expect("a string takes all");
    }
    flows += &format!(
        "table=0,priority=10,in_port={POD},ip,actions=ct(table=1,zone=1,nat)
         table=1,priority=5,ct_state=+trk,ip,actions=resubmit(,2)
         table=2,priority=10,ip,actions=dec_ttl,set_field:02:00:00:00:04:01->eth_src,set_field:02:00:00:00:04:02->eth_dst,output:{TUNNEL}\n"
    );
    (groups, flows)
}

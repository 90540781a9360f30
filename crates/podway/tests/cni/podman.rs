//! The plugin under a real runtime: podman with CNI as its network backend (`podman` and `crun` of Debian 12).

use std::env;
use std::fs;
use std::process::{Child, Command};

use podway_host::Namespace;
use serde_json::{Value, json};

use crate::place::{Place, sh};

const POD: &str = r#"
kind: Pod
apiVersion: v1
metadata: { name: box, namespace: default }
spec: { nodeName: n1, containers: [{ name: c, image: none }] }
"#;

/// A mount namespace on the node in which all cgroups are of version 2, which is what crun wants.
struct Mounts(Child);

impl Mounts {
    fn new(node: &Namespace) -> Mounts {
        let script = "[ $(stat -fc %T /sys/fs/cgroup) = cgroup2fs ] || { umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; }; exec sleep 300";
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script]);
        let child = node.inside(|| command.spawn()).expect("on the node");
        Mounts(child.expect("util-linux is installed"))
    }

    /// What a shell with these mounts and on the node's network prints.
    fn sh(&self, line: &str) -> String {
        let id = self.0.id().to_string();
        let output = Command::new("nsenter")
            .args(["-m", "-n", "-t", &id, "sh", "-c", line])
            .output();
        let output = output.expect("util-linux is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{line}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn c1_c6_podman_runs_and_removes_a_container_with_the_installed_plugin() {
    if !podway_needs::root() {
        return;
    }
    // Most machines have no podman and crun.
    if !podway_needs::asked_for_by("PODWAY_PODMAN") {
        return;
    }
    let place = Place::new("podman", "10.244.1.0/24", 0);
    fs::write(place.path("cluster/pod.yaml"), POD).expect("written");
    let agent = place.start();
    let folder = place.folder.path().display().to_string();
    let podway = env!("CARGO_BIN_EXE_podway");
    place.sh(&format!(
        "{podway} cni install --bin-dir {folder}/bin --conf-dir {folder}/net.d --socket {folder}/podway.sock --state-dir {folder}/state"
    ));
    place.sh(&format!(
        "cd {folder}; mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/etc rootfs/tmp rootfs/run; for file in /bin/cat /bin/sleep $(ldd /bin/cat /bin/sleep | grep -o '/[^ :]*'); do mkdir -p rootfs$(dirname $file); cp -L $file rootfs$file; done"
    ));
    let conf = format!(
        "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{folder}/bin\"]\nnetwork_config_dir = \"{folder}/net.d\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"crun\"\n"
    );
    fs::write(place.path("containers.conf"), conf).expect("written");
    let mounts = Mounts::new(&place.node());
    place.until("with cgroups of version 2", || {
        mounts.sh("stat -fc %T /sys/fs/cgroup").trim() == "cgroup2fs"
    });
    let podman = format!(
        "CONTAINERS_CONF={folder}/containers.conf podman --root {folder}/storage --runroot {folder}/run --tmpdir {folder}/tmp --storage-driver vfs"
    );

    mounts.sh(&format!(
        "{podman} run -d --name box --network podway --cgroups=disabled --security-opt seccomp=unconfined --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --rootfs {folder}/rootfs /bin/sleep 100"
    ));
    let records = place.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (&*records[0].pod, &*records[0].network),
        ("default/box", "podway")
    );
    let address = records[0].addresses[0];
    let ping = sh(&place.node(), &format!("ping -c 2 -W 2 {address}"));
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    let inside = mounts.sh(&format!("{podman} exec box /bin/cat /proc/net/dev"));
    assert!(inside.contains("eth0:"), "{inside}");
    let endpoints = place.ask(&json!({"show": "endpoints"})).expect("an answer");
    assert_eq!(endpoints[0]["addresses"], json!([address]), "{endpoints}");

    mounts.sh(&format!("{podman} rm -f -t 0 box"));
    assert_eq!(
        (place.wires(), place.records().len(), place.ports()),
        (0, 0, 0)
    );
    place
        .run("STATUS", 0, &place.network("1.1.0", Value::Null))
        .done();
    drop(agent);
}

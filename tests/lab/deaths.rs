//! Agents that die: pods fail closed, the node goes on, and a restart has traffic again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Lab, eventually, podway, root};
use crate::direct::counter;
use crate::world::{copy, up_from};

pub(crate) fn kill(pid: i32, signal: &str) {
    let killed = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

/// True once nothing is left of a process but its number.
pub(crate) fn is_gone(pid: i32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists()
}

/// Kills a node's agent; returns when the next one may start.
pub(crate) fn kill_agent(lab: &Lab, node: &str) {
    let socket = lab.node(node)["socket"]
        .as_str()
        .expect("a socket")
        .to_owned();
    kill(lab.agent(node), "-KILL");
    // Its socket goes with the last of its threads.
    let listens = || UnixStream::connect(&socket).is_ok();
    assert!(eventually(Duration::from_secs(3), || !listens()));
}

/// Starts a node's agent again, as the lab started it.
pub(crate) fn restart(lab: &Lab, node: &str) -> Child {
    let namespace = lab.node(node)["namespace"]
        .as_str()
        .expect("a namespace")
        .to_owned();
    let config = format!("/run/podway-lab/{node}.toml");
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &namespace])
        .arg(podway())
        .args(["run", "--config", &config]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("the agent starts")
}

/// Kills node1's agent in some way, checks what must hold while it is dead, and that a restart mends all.
fn dies_closed_and_comes_back(how: impl FnOnce(&Lab)) {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let near = "http://10.96.0.20/";
    let far = "http://10.96.0.30/1000";
    assert!(lab.gets("shop/client", near) && lab.gets("shop/client", far));
    let agent = lab.agent("node1");
    how(&lab);
    assert!(
        eventually(Duration::from_secs(3), || is_gone(agent)),
        "the agent is gone"
    );

    assert!(
        !lab.gets("shop/client", near),
        "a pod's packets stop, also to its own node"
    );
    assert!(!lab.gets("shop/client", far));
    assert!(
        lab.pings("node:node1", "192.168.50.2"),
        "the node's own traffic goes on"
    );
    assert!(lab.pings("node:node2", "192.168.50.1"));

    let start = Instant::now();
    let mut again = restart(&lab, "node1");
    let back = eventually(Duration::from_secs(5), || {
        lab.gets("shop/client", near) && lab.gets("shop/client", far)
    });
    let took = start.elapsed();
    let checked = back.then(|| lab.check()["wrong"].as_u64());
    kill(again.id() as i32, "-TERM");
    let stopped = again.wait().expect("it ends");
    assert!(back, "there is traffic again");
    println!("traffic again after {took:?}");
    assert_eq!(checked, Some(Some(0)), "and policy with it");
    assert!(stopped.success(), "told to stop, it stops well: {stopped}");
}

#[test]
fn d10_a_killed_agent_closes_its_pods_and_leaves_the_node_alone() {
    dies_closed_and_comes_back(|lab| kill(lab.agent("node1"), "-KILL"));
}

#[test]
fn d10_a_worker_that_dies_takes_its_agent_with_it() {
    // SIGABRT is what a worker's panic ends in.
    dies_closed_and_comes_back(|lab| kill(lab.agent("node1"), "-ABRT"));
}

#[test]
fn d10_an_agent_that_is_told_to_stop_closes_its_pods_and_leaves_the_node_alone() {
    dies_closed_and_comes_back(|lab| kill(lab.agent("node1"), "-TERM"));
}

/// A service of the pod `echo`, on node2, for connections that last.
pub(crate) const TALK: &str = "apiVersion: v1
kind: Service
metadata: { name: talk }
spec:
  clusterIP: 10.96.0.70
  selector: { app: echo }
  ports: [{ name: talk, port: 70, targetPort: 7000 }]
";

/// Starts one end of a connection, once it says that it is ready.
pub(crate) fn talker(at: &str, arguments: &[&str]) -> Child {
    let script = ["python3", "-c", include_str!("keeps_talking.py")];
    begun(at, &script, arguments)
}

/// Starts a command that runs until its input closes, once it says that it is ready.
pub(crate) fn begun(at: &str, script: &[&str], arguments: &[&str]) -> Child {
    let mut command = Command::new(podway());
    command.args(["lab", "exec", at, "--"]);
    command.args(script).args(arguments);
    let mut begun = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("podway runs");
    let mut said = String::new();
    let stdout = begun.stdout.as_mut().expect("piped");
    BufReader::with_capacity(1, stdout)
        .read_line(&mut said)
        .expect("it says that it is ready");
    assert!(!said.is_empty(), "{at}: {arguments:?} is not ready");
    begun
}

#[test]
fn f9_connections_survive_a_kill_and_restart_of_each_nodes_agent() {
    if !podway_needs::root() {
        return;
    }
    let directory = copy("restart");
    let talk = directory.join("talk.yaml");
    fs::write(&talk, TALK).expect("written");
    let lab = up_from(&directory);
    let mut servers = [
        talker("default/echo", &["serve", "7000"]),
        talker("world", &["serve", "7001"]),
    ];
    let clients = [
        talker("default/client", &["talk", "10.96.0.70", "70"]),
        talker("default/client", &["talk", "192.168.50.254", "7001"]),
    ];
    let mut agents = Vec::new();
    for (node, pod, gateway) in [
        ("node1", "default/client", "10.244.1.1"),
        ("node2", "default/remote", "10.244.2.1"),
    ] {
        kill_agent(&lab, node);
        // A connection that was not remembered would be given the pod that serves now, and be reset.
        fs::write(&talk, TALK.replace("app: echo", "app: echo-next")).expect("written");
        agents.push(restart(&lab, node));
        let back = eventually(Duration::from_secs(5), || lab.pings(pod, gateway));
        assert!(back, "{node} is back");
    }
    // Some more lines through both new agents.
    for node in ["node1", "node2"] {
        let remembered = || counter(&lab, node, "flow-hit");
        let before = remembered();
        let go_on = eventually(Duration::from_secs(5), || remembered() > before + 40);
        assert!(go_on, "{node}: {} after {before}", remembered());
    }
    for client in clients {
        let output = client.wait_with_output().expect("it ends with its input");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("lines that came back, and the longest wait in seconds: {text}");
        assert!(output.status.success(), "{text}");
        let lines = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        assert!(lines.is_some_and(|lines: u32| lines > 100), "{text}");
    }
    for server in &mut servers {
        let _ = server.kill();
        let _ = server.wait();
    }
    for agent in &mut agents {
        kill(agent.id() as i32, "-TERM");
        assert!(agent.wait().expect("it ends").success());
    }
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}

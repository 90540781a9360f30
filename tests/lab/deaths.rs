//! Agents that die: pods fail closed, the node goes on, and a restart has traffic again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Lab, eventually, podway, root, unprivileged};

fn kill(pid: i32, signal: &str) {
    let killed = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
}

/// Starts a node's agent again, as the lab started it.
fn restart(lab: &Lab, node: &str) -> Child {
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
    if unprivileged() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let near = "http://10.96.0.20/";
    let far = "http://10.96.0.30/1000";
    assert!(lab.gets("shop/client", near) && lab.gets("shop/client", far));
    let agent = lab.agent("node1");
    how(&lab);
    let gone = || !std::path::Path::new(&format!("/proc/{agent}/ns/net")).exists();
    assert!(
        eventually(Duration::from_secs(3), gone),
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

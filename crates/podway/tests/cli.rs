//! The built binary as scripts see it: exit codes, one line on standard error, JSON on standard output.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.1 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: client, namespace: shop }
spec: { nodeName: n1, containers: [{ name: c, image: none }] }
status: { podIP: 10.244.1.9, podIPs: [{ ip: 10.244.1.9 }] }
"#;

fn podway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podway"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Exit code and standard error, which must be one line.
fn complaint(output: &Output) -> (i32, String) {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    let code = output.status.code().expect("an exit code");
    (code, text.trim_end().to_owned())
}

fn cluster() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("cluster.yaml"), CLUSTER).expect("written");
    folder
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["lab", "--help"],
        &["explain", "--help"],
    ] {
        let output = podway(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
}

#[test]
fn bad_usage_exits_2_and_names_the_flag() {
    for (arguments, said) in [
        (&[][..], "podway: a command is missing: see `podway --help`"),
        (
            &["lab"],
            "podway: a command is missing: see `podway --help`",
        ),
        (
            &["run"],
            "podway: the following required arguments were not provided: --config <FILE>: see `podway --help`",
        ),
        (
            &["show", "wether"],
            "podway: invalid value 'wether' for '<TOPIC>' [possible values: services, endpoints, policies, flows, ports, counters, status]: see `podway --help`",
        ),
        (
            &["lab", "exec", "shop", "--", "true"],
            "podway: invalid value 'shop' for '<TARGET>': `shop` is neither NAMESPACE/POD nor node:NAME nor world: see `podway --help`",
        ),
        (
            &["run", "--config", "/nowhere.toml"],
            "podway: /nowhere.toml: entity not found: give the configuration's path with --config, as in config/podway.toml",
        ),
    ] {
        assert_eq!(complaint(&podway(arguments)), (2, said.to_owned()));
    }
}

#[test]
fn an_absent_agent_exits_2_and_names_the_socket() {
    let output = podway(&["show", "status", "--socket", "/nowhere/podway.sock"]);
    let (code, text) = complaint(&output);
    assert_eq!(code, 2);
    assert!(
        text.starts_with("podway: no agent answers on /nowhere/podway.sock: "),
        "{text}"
    );
}

#[test]
fn explain_answers_one_packet() {
    let folder = cluster();
    let manifests = folder.path().to_str().expect("text");
    let packet = r#"{"id":"a","ingress":"host","src":"192.168.50.1","sport":999,"dst":"10.244.1.9","dport":80,"protocol":"tcp"}"#;
    let ask = |node: &str, packet: &str| {
        podway(&[
            "explain",
            "--manifests",
            manifests,
            "--node",
            node,
            "--packet",
            packet,
        ])
    };
    let output = ask("n1", packet);
    assert_eq!(output.status.code(), Some(0));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["id"], "a");
    assert_eq!(answer["verdict"], "forward");
    assert_eq!(answer["egress"], "pod:shop/client");

    assert_eq!(
        complaint(&ask("n1", r#"{"protocol":"tcp"}"#)),
        (2, "podway: --packet: src: missing: give it".to_owned())
    );
    assert_eq!(
        complaint(&ask("n7", packet)),
        (
            2,
            "podway: --node: there is no Node \"n7\" in the manifests: give one of n1".to_owned()
        )
    );
}

#[test]
fn explain_answers_a_line_for_each_line() {
    let folder = cluster();
    let mut child = Command::new(env!("CARGO_BIN_EXE_podway"))
        .args(["explain", "--node", "n1", "--packets", "-", "--manifests"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = concat!(
        r#"{"id":1,"ingress":"pod:shop/client","src":"10.244.1.9","dst":"10.244.1.77","dport":80,"protocol":"tcp"}"#,
        "\n",
        r#"{"id":2,"ingress":"pod:shop/client","src":"ten"}"#,
        "\n\n",
        r#"{"id":3,"ingress":"pod:shop/client","src":"10.244.1.8","dst":"10.244.1.77","dport":80,"protocol":"udp"}"#,
    );
    let mut input = child.stdin.take().expect("piped");
    input.write_all(lines.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(
        (&answers[0]["id"], &answers[0]["reason"]),
        (&Value::from(1), &Value::from("no-such-pod"))
    );
    assert_eq!(
        answers[1],
        serde_json::json!({"id": 2, "error": "protocol: missing: give it"})
    );
    assert_eq!(answers[2]["reason"], "spoofed");
    assert_eq!(
        complaint(&output),
        (
            2,
            "podway: --packets: 1 of 3 lines are no packets: see their `error`".to_owned()
        )
    );
}

#[test]
fn a_policy_check_exits_1_where_manifests_differ_and_2_where_they_are_none() {
    let server = "apiVersion: v1\nkind: Pod\nmetadata: { name: server, namespace: shop }\nspec: { nodeName: n1, containers: [{ name: c, image: none }] }\n";
    let nobody = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: nobody, namespace: shop }\nspec: { podSelector: {} }\n";
    let (open_folder, shut_folder) = (cluster(), cluster());
    fs::write(open_folder.path().join("more.yaml"), server).expect("written");
    fs::write(
        shut_folder.path().join("more.yaml"),
        format!("{server}---\n{nobody}"),
    )
    .expect("written");
    let text = |folder: &tempfile::TempDir| folder.path().display().to_string();
    let (open, shut) = (text(&open_folder), text(&shut_folder));
    let check = |now: &str, before: &str| {
        let arguments = ["policy", "check", "--manifests", now, "--against", before];
        podway(&[&arguments[..], &["-o", "json"]].concat())
    };
    let same = check(&open, &open);
    assert_eq!(same.status.code(), Some(0));
    let changed = check(&shut, &open);
    let (code, line) = complaint(&changed);
    assert_eq!(code, 1, "{line}");
    let changed: Value = serde_json::from_slice(&changed.stdout).expect("JSON");
    let cells = changed["changed"].as_array().expect("cells");
    // Two ways of ICMP, SCTP, TCP and UDP.
    assert_eq!(cells.len(), 8);
    assert!(
        cells
            .iter()
            .all(|cell| cell["before"] == "allow" && cell["after"] == "deny")
    );
    let (code, line) = complaint(&podway(&["policy", "check", "--manifests", "no-such"]));
    assert_eq!(code, 2, "{line}");
    let suggest = [
        "policy",
        "suggest",
        "--manifests",
        &open,
        "--flows",
        "no-such",
    ];
    let (code, line) = complaint(&podway(&suggest));
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("--flows: no-such"), "{line}");
}

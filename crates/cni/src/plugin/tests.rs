//! What needs no kernel: variables, configurations, versions.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NETWORK: &str = r#"{"cniVersion":"1.1.0","name":"podway","type":"podway-cni","socket":"/nowhere/podway.sock","stateDir":"/nowhere/state"}"#;
const CONTAINER: [(&str, &str); 4] = [
    ("CNI_CONTAINERID", "c0ffee"),
    ("CNI_NETNS", "/nowhere/netns"),
    ("CNI_IFNAME", "eth0"),
    (
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    ),
];

fn run_with(command: &str, changes: &[(&str, Option<&str>)], input: &str) -> Answer {
    let variable = |name: &str| {
        let changed = changes.iter().find(|(key, _)| *key == name);
        let usual = CONTAINER.iter().find(|(key, _)| *key == name);
        let value = match (name, changed, usual) {
            ("CNI_COMMAND", None, _) => Some(command),
            (_, Some((_, value)), _) => *value,
            (_, None, usual) => usual.map(|(_, value)| *value),
        };
        value.map(OsString::from)
    };
    run(variable, input.as_bytes())
}

/// The code and the sentence that a command is answered.
fn error_of(command: &str, changes: &[(&str, Option<&str>)], input: &str) -> (u64, String) {
    let answer = run_with(command, changes, input);
    let output = answer.output.expect("an error is said");
    assert_eq!(answer.exit, 1, "{output}");
    let text = output["msg"].as_str().expect("a sentence").to_owned();
    (output["code"].as_u64().expect("a code"), text)
}

fn with(field: &str, value: Value) -> String {
    let mut network: Value = serde_json::from_str(NETWORK).expect("JSON");
    network[field] = value;
    network.to_string()
}

#[test]
fn c6_version_is_answered_in_the_version_that_asks() {
    let all = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        ("", "1.1.0"),
    ] {
        let answer = run_with("VERSION", &[], input);
        let expected = json!({"cniVersion": version, "supportedVersions": all});
        assert_eq!((answer.output, answer.exit), (Some(expected), 0));
    }
}

#[test]
fn c6_an_unknown_version_is_code_1() {
    for version in [json!("0.2.0"), json!("2.0.0"), Value::Null] {
        let (code, text) = error_of("ADD", &[], &with("cniVersion", version));
        assert_eq!(code, 1, "{text}");
        assert!(
            text.ends_with("give one of 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            "{text}"
        );
    }
}

#[test]
fn c6_commands_are_not_older_than_their_version() {
    for (command, before, since) in [
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "1.0.0", "1.1.0"),
    ] {
        let (code, text) = error_of(command, &[], &with("cniVersion", json!(before)));
        assert_eq!(code, 1);
        assert_eq!(
            text,
            format!("cniVersion: {before} has no {command}: give {since} or newer")
        );
    }
}

#[test]
fn malformed_json_is_code_6() {
    for input in [
        "",
        "{",
        "[]",
        "what?",
        r#"{"cniVersion":1}"#,
        r#"{"cniVersion":"1.1.0","name":[]}"#,
    ] {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let (code, text) = error_of(command, &[], input);
            assert_eq!(code, 6, "{command} {input:?}: {text}");
            assert!(text.starts_with("standard input: "), "{text}");
        }
    }
}

#[test]
fn an_error_is_said_in_the_version_that_asks() {
    let output = run_with("NO", &[], &with("cniVersion", json!("0.4.0")))
        .output
        .expect("an error");
    assert_eq!(output["cniVersion"], "0.4.0");
}

#[test]
fn values_that_make_no_sense_are_code_7() {
    for (command, field, value, said) in [
        ("ADD", "name", json!(""), "name: \"\" is no network's name"),
        (
            "ADD",
            "name",
            json!("../x"),
            "name: \"../x\" is no network's name",
        ),
        (
            "ADD",
            "socket",
            json!("podway.sock"),
            "socket: \"podway.sock\" is relative",
        ),
        (
            "DEL",
            "stateDir",
            json!("state"),
            "stateDir: \"state\" is relative",
        ),
        (
            "ADD",
            "prevResult",
            json!({}),
            "prevResult: podway-cni makes",
        ),
        ("CHECK", "dns", json!({}), "prevResult is missing"),
        (
            "GC",
            "dns",
            json!({}),
            "cni.dev/valid-attachments is missing",
        ),
        (
            "GC",
            "cni.dev/valid-attachments",
            json!([{"containerID": "../../etc", "ifname": "eth0"}]),
            "cni.dev/valid-attachments: \"../../etc\"",
        ),
    ] {
        let (code, text) = error_of(command, &[], &with(field, value));
        assert_eq!(code, 7, "{text}");
        assert!(text.starts_with(said), "{text}");
    }
}

#[test]
fn unsupported_fields_are_code_2_and_never_stop_a_del() {
    for (field, value) in [
        ("ipam", json!({"type": "host-local"})),
        ("bridge", json!("cni0")),
        (
            "runtimeConfig",
            json!({"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}),
        ),
    ] {
        let network = with(field, value);
        let (code, text) = error_of("ADD", &[], &network);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.starts_with(&format!("{field}: ")) && text.contains("socket, stateDir"),
            "{text}"
        );
        assert_eq!(
            run_with("DEL", &[], &network),
            Answer {
                output: None,
                exit: 0
            }
        );
    }
    for (field, value) in [
        ("ipam", json!({})),
        ("runtimeConfig", json!({"bandwidth": {}})),
        ("cni.dev/x", json!(1)),
    ] {
        assert_ne!(error_of("ADD", &[], &with(field, value)).0, 2);
    }
}

#[test]
fn missing_variables_are_code_4() {
    for (command, name) in [
        ("ADD", "CNI_COMMAND"),
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("CHECK", "CNI_NETNS"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
    ] {
        for value in [None, Some("")] {
            let (code, text) = error_of(command, &[(name, value)], NETWORK);
            assert_eq!(code, 4);
            assert!(text.starts_with(&format!("{name} is not set")), "{text}");
        }
    }
}

#[test]
fn an_unknown_command_is_code_4() {
    let (code, text) = error_of("DANCE", &[], NETWORK);
    assert_eq!(code, 4);
    assert!(
        text.starts_with("CNI_COMMAND: \"DANCE\" is no command"),
        "{text}"
    );
}

#[test]
fn variables_that_make_no_sense_are_code_4() {
    let long = "a".repeat(201);
    for (name, value) in [
        ("CNI_CONTAINERID", "../x"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", &long),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_ARGS", "K8S_POD_NAME"),
        ("CNI_ARGS", "K8S_POD_NAME=a/b"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a b"),
    ] {
        let (code, text) = error_of("ADD", &[(name, Some(value))], NETWORK);
        assert_eq!(code, 4, "{text}");
        assert!(text.starts_with(&format!("{name}: ")), "{text}");
    }
}

#[test]
fn c1_del_needs_neither_netns_nor_state_nor_previous_result_nor_agent() {
    for version in Version::ALL {
        let network = with("cniVersion", json!(version.text()));
        let changes = [("CNI_NETNS", None), ("CNI_ARGS", Some("broken"))];
        assert_eq!(
            run_with("DEL", &changes, &network),
            Answer {
                output: None,
                exit: 0
            }
        );
    }
}

#[test]
fn c4_status_is_51_while_the_agent_is_down() {
    let (code, text) = error_of("STATUS", &[], NETWORK);
    assert_eq!(code, 51);
    assert!(
        text.starts_with("no agent answers on /nowhere/podway.sock"),
        "{text}"
    );
}

#[test]
fn c7_a_missing_netns_is_code_3_and_a_missing_agent_code_11() {
    let (code, text) = error_of("ADD", &[], NETWORK);
    assert_eq!(code, 3);
    assert!(
        text.starts_with("CNI_NETNS: network namespace /nowhere/netns"),
        "{text}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let namespace = folder.path().join("not-ours");
    std::fs::write(&namespace, "").expect("written");
    let there = [("CNI_NETNS", namespace.to_str())];
    let (code, text) = error_of("ADD", &there, NETWORK);
    assert_eq!(code, 11);
    assert!(
        text.starts_with("no agent answers on /nowhere/podway.sock"),
        "{text}"
    );
    assert!(!Path::new("/nowhere").exists(), "nothing was made");
}

#[test]
fn the_nodes_own_netns_is_code_4() {
    let own = [("CNI_NETNS", Some("/proc/self/ns/net"))];
    let (code, text) = error_of("ADD", &own, NETWORK);
    assert_eq!(code, 4, "{text}");
}

#[test]
fn a_pod_without_kubernetes_is_its_container() {
    let environment = |text: &'static str| {
        let variable = move |name: &str| match name {
            "CNI_ARGS" => Some(OsString::from(text)),
            name => CONTAINER
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into()),
        };
        Environment {
            variable: &variable,
        }
        .pod()
        .expect("a pod")
    };
    assert_eq!(environment(""), "default/c0ffee");
    assert_eq!(
        environment("IgnoreUnknown=1;K8S_POD_NAME=web"),
        "default/web"
    );
    assert_eq!(
        environment("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=1"),
        "a/b"
    );
}

#[test]
fn c5_arguments_of_all_runtimes_are_understood() {
    for (arguments, pod) in [
        (
            "IgnoreUnknown=true;NOMAD_REGION=global;NOMAD_GROUP_NAME=web api;NOMAD_ALLOC_ID=8d7f",
            "default/c0ffee",
        ),
        (
            "IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME=c1;",
            "default/c0ffee",
        ),
        (
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=sandbox;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u",
            "default/sandbox",
        ),
        (
            "K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=5c9e;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
            "shop/web-0",
        ),
        ("K8S_POD_NAMESPACE=;K8S_POD_NAME=;", "default/c0ffee"),
    ] {
        let variable = |name: &str| match name {
            "CNI_ARGS" => Some(OsString::from(arguments)),
            name => CONTAINER
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into()),
        };
        let environment = Environment {
            variable: &variable,
        };
        assert_eq!(environment.pod().expect("a pod"), pod, "{arguments}");
    }
}

#[test]
fn c5_gc_reads_both_spellings_of_its_key() {
    let attachment = json!([{"containerID": "c9", "ifname": "eth0"}]);
    let other = json!([{"containerID": "c8", "ifname": "eth0"}]);
    let listed = |fields: Value| {
        let mut config: Value = serde_json::from_str(NETWORK).expect("JSON");
        let fields = fields.as_object().expect("fields").clone();
        config.as_object_mut().expect("a mapping").extend(fields);
        let config = Config::read(config.to_string().as_bytes(), Strictness::Strict);
        let valid = config.expect("a configuration").valid;
        valid.map(|all| all.into_iter().map(|it| it.container).collect::<Vec<_>>())
    };
    assert_eq!(listed(json!({})), None);
    assert_eq!(
        listed(json!({"cni.dev/valid-attachments": attachment})),
        Some(vec!["c9".into()])
    );
    assert_eq!(
        listed(json!({"cni.dev/attachments": attachment})),
        Some(vec!["c9".into()])
    );
    assert_eq!(
        listed(json!({"cni.dev/valid-attachments": attachment, "cni.dev/attachments": other})),
        Some(vec!["c9".into(), "c8".into()])
    );
    assert_eq!(listed(json!({"cni.dev/attachments": []})), Some(vec![]));
}

proptest! {
    #[test]
    fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..200), command in 0..6_usize) {
        let command = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"][command];
        let variable = |name: &str| (name == "CNI_COMMAND").then(|| command.into());
        run(variable, &input);
    }

    #[test]
    fn no_configuration_panics(
        field in "(cniVersion|name|socket|stateDir|dns|prevResult|runtimeConfig|ipam|cni.dev/valid-attachments|[a-z]{1,4})",
        value in r#"(null|true|-1|1e99|"[a-z0-9./]{0,8}"|\[\]|\{\}|\[\{"containerID":"a","ifname":"b"\}\]|\{"portMappings":[a-z0-9]{0,3}\})"#,
        lenient: bool,
    ) {
        let network = NETWORK.replacen('{', &format!("{{\"{field}\":{value},"), 1);
        let strictness = if lenient { Strictness::Lenient } else { Strictness::Strict };
        match Config::read(network.as_bytes(), strictness) {
            Ok(config) => prop_assert!(config.state.is_absolute() && !config.name.is_empty()),
            Err(error) => prop_assert!([1, 2, 6, 7].contains(&error.code.number()), "{}", error.text),
        }
    }
}

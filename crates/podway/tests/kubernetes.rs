//! What `kubectl apply -k config/kubernetes` installs: manifests, rights and configuration fit the program.

use std::collections::BTreeSet;
use std::fs;

use clap::Parser;
use k8s_openapi::api::core::v1::{Container, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podway::arguments::{Arguments, Cni, Command};
use podway::config::{Config, Source};
use podway_control::{Announcer, Kind, Unenforced};
use serde_json::Value;

mod install;

#[test]
fn agents_may_do_exactly_what_they_ask_an_api_server_for() {
    let role: ClusterRole = install::object("account.yaml");
    let mut granted = BTreeSet::new();
    for rule in role.rules.expect("rules") {
        for group in rule.api_groups.expect("groups") {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    granted.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
        assert!(rule.resource_names.is_none() && rule.non_resource_urls.is_none());
    }
    let watched = Kind::ALL.into_iter().flat_map(|kind| {
        Kind::VERBS.map(|verb| (kind.group().into(), kind.plural().into(), verb.into()))
    });
    let announced = Announcer::rights()
        .map(|(resource, verb)| (String::new(), resource.to_owned(), verb.to_owned()));
    let counted = Unenforced::counted()
        .map(|(group, resource)| (group.to_owned(), resource.to_owned(), "list".to_owned()));
    let asked: BTreeSet<_> = watched.chain(announced).chain(counted).collect();
    assert_eq!(granted, asked);
}

#[test]
fn the_role_is_the_agents_accounts() {
    let account: ServiceAccount = install::object("account.yaml");
    let role: ClusterRole = install::object("account.yaml");
    let binding: ClusterRoleBinding = install::object("account.yaml");
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    assert_eq!(binding.role_ref.kind, "ClusterRole");
    let subjects = binding.subjects.expect("subjects");
    let [subject] = &subjects[..] else {
        panic!("one subject: {subjects:?}");
    };
    assert_eq!(subject.kind, "ServiceAccount");
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    assert_eq!(subject.namespace, account.metadata.namespace);
    assert_eq!(install::pod().service_account_name, account.metadata.name);
}

/// The path in a container under which a volume's path of the host is seen.
fn mounted(container: &Container, host: &str) -> String {
    let volumes = install::pod().volumes.expect("volumes");
    let is_it = |path: &str| path == host;
    let volume = volumes
        .iter()
        .find(|volume| volume.host_path.as_ref().is_some_and(|it| is_it(&it.path)));
    let volume = volume.unwrap_or_else(|| panic!("no volume of {host}"));
    let mut mounts = container.volume_mounts.iter().flatten();
    let mount = mounts.find(|mount| mount.name == volume.name);
    mount.expect("mounted").mount_path.clone()
}

#[test]
fn containers_are_given_commands_and_folders_that_the_program_knows() {
    let pod = install::pod();
    let command = |container: &Container| {
        let args = container.args.iter().flatten().map(String::as_str);
        let args = args.map(|it| it.replace("$(NODE_NAME)", "node-1.example"));
        let line = std::iter::once("podway".to_owned()).chain(args);
        Arguments::try_parse_from(line).expect("legal").command
    };
    let Command::Run(run) = command(&pod.containers[0]) else {
        panic!("the container runs the agent");
    };
    assert_eq!(run.node.as_deref(), Some("node-1.example"));
    let file = run.config.file_name().expect("a file");
    let config = install::path(file.to_str().expect("text"));
    let config = Config::read(&config, run.node.as_deref()).expect("legal");
    assert_eq!(config.source, Source::Kubernetes);
    assert_eq!(config.kubeconfig, None);

    let agent = &pod.containers[0];
    let folder = config.socket.parent().expect("a folder");
    let folder = folder.to_str().expect("text");
    assert_eq!(mounted(agent, folder), folder);
    let records = config.cni_state.to_str().expect("text");
    assert_eq!(mounted(agent, records), records);
    let facts = config.facts.clone().expect("kept on a disk");
    let facts = facts.parent().and_then(std::path::Path::to_str);
    let facts = facts.expect("a folder");
    assert_eq!(mounted(agent, facts), facts);
    let settings = mounted(agent, "/proc/sys/net");
    assert_eq!(config.proc_sys.join("net"), std::path::Path::new(&settings));

    let init = pod.init_containers.expect("one");
    let Command::Cni(Cni::Install {
        bin_dir,
        conf_dir,
        socket,
        state_dir,
    }) = command(&init[0])
    else {
        panic!("the plugin is installed first");
    };
    assert_eq!(bin_dir.to_str(), Some(&*mounted(&init[0], "/opt/cni/bin")));
    let seen = mounted(&init[0], "/etc/cni/net.d");
    assert_eq!(conf_dir.to_str(), Some(&*seen));
    assert_eq!((socket, state_dir), (config.socket, config.cni_state));
}

#[test]
fn probes_ask_where_the_agent_answers() {
    let pod = install::pod();
    let agent = &pod.containers[0];
    let config = install::path("podway.toml");
    let config = Config::read(&config, Some("n1")).expect("legal");
    for (probe, path) in [
        (&agent.liveness_probe, "/livez"),
        (&agent.readiness_probe, "/healthz"),
    ] {
        let probe = probe.as_ref().expect("asked");
        let asked = probe.http_get.clone().expect("by HTTP");
        assert_eq!(asked.path.as_deref(), Some(path));
        let port = i32::from(config.health_address.port());
        assert_eq!(asked.port, IntOrString::Int(port));
        // Kubelet's own limit, 1 s, is soon over on a busy node.
        assert_eq!(probe.timeout_seconds, Some(5));
    }
    let alive = agent.liveness_probe.as_ref().expect("asked");
    assert_eq!(
        (alive.period_seconds, alive.failure_threshold),
        (Some(10), Some(3))
    );
}

#[test]
fn agents_run_on_every_node_before_pods_do_and_with_as_little_as_they_need() {
    let pod = install::pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(
        pod.priority_class_name.as_deref(),
        Some("system-node-critical")
    );
    let tolerations = pod.tolerations.expect("some");
    for effect in ["NoSchedule", "NoExecute"] {
        assert!(
            tolerations.iter().any(|it| it.key.is_none()
                && it.operator.as_deref() == Some("Exists")
                && it.effect.as_deref() == Some(effect)),
            "{effect}"
        );
    }
    let init = pod.init_containers.expect("one");
    for container in pod.containers.iter().chain(&init) {
        let limits = container.security_context.clone().expect("limits");
        assert_eq!(limits.read_only_root_filesystem, Some(true));
        assert_eq!(limits.allow_privilege_escalation, Some(false));
        assert_eq!(limits.privileged, None);
        let dropped = limits.capabilities.expect("few").drop;
        assert_eq!(dropped, Some(vec!["ALL".to_owned()]));
    }
    let operations = install::path("../../docs/operations.md");
    let reasons = fs::read_to_string(operations).expect("there");
    for capability in install::capabilities() {
        let row = format!("| `{capability}` |");
        assert!(reasons.contains(&row), "the reason for {capability}");
    }
}

#[test]
fn what_is_generated_is_what_the_pods_refer_to() {
    let text = fs::read_to_string(install::path("kustomization.yaml")).expect("there");
    let kustomization: Value = serde_saphyr::from_str(&text).expect("YAML");
    let generated = |index: usize| &kustomization["configMapGenerator"][index];
    let pod = install::pod();
    let volumes = pod.volumes.expect("volumes");
    let mut maps = volumes.iter().filter_map(|it| it.config_map.as_ref());
    assert_eq!(maps.next().expect("one").name, generated(0)["name"]);
    assert_eq!(generated(0)["files"][0], "podway.toml");
    let from = pod.containers[0].env_from.clone().expect("some");
    let map = from[0].config_map_ref.as_ref().expect("a map");
    assert_eq!(map.name, generated(1)["name"]);
    let file = generated(1)["envs"][0].as_str().expect("a file");
    let variables = fs::read_to_string(install::path(file)).expect("there");
    for name in ["KUBERNETES_SERVICE_HOST=", "KUBERNETES_SERVICE_PORT="] {
        assert!(variables.lines().any(|line| line.starts_with(name)));
    }
    for file in kustomization["resources"].as_array().expect("files") {
        assert!(install::path(file.as_str().expect("a name")).exists());
    }
}

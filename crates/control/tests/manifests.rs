//! What kubectl takes is taken, and what a cluster's controllers would make is made (BEHAVIOURS.md, M1-M3).

use std::collections::{BTreeMap, BTreeSet};

use podway_control::{Manifests, Problems};
use podway_intent::{Change, PodPhase};

const NODES: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: east}}, spec: {podCIDRs: [10.244.1.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.50.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2, labels: {topology.kubernetes.io/zone: west, disk: ssd}}, spec: {podCIDRs: [10.244.2.0/24]}, status: {addresses: [{type: InternalIP, address: 192.168.50.2}]}}
---
";

fn try_read(files: &[(&str, &[u8])]) -> Result<Manifests, Problems> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    Manifests::read(folder.path())
}

#[track_caller]
fn read(text: &str) -> Manifests {
    let text = format!("{NODES}{text}");
    try_read(&[("a.yaml", text.as_bytes())]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn pod_names(manifests: &Manifests) -> BTreeSet<String> {
    let names = manifests.pods.iter().map(|pod| pod.metadata.name.clone());
    names.map(Option::unwrap_or_default).collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

/// The ready or unready addresses of each slice, with their ports and hints.
fn endpoints(manifests: &Manifests, service: &str) -> BTreeSet<(String, i32, bool, String)> {
    let slices = manifests.endpoint_slices.iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels["kubernetes.io/service-name"] == service)
    });
    let mut all = BTreeSet::new();
    for slice in slices {
        for port in slice.ports.iter().flatten() {
            for endpoint in slice.endpoints.iter().flatten() {
                let hints = endpoint.hints.clone().unwrap_or_default();
                let zones = hints
                    .for_zones
                    .iter()
                    .flatten()
                    .map(|zone| zone.name.clone());
                let nodes = hints
                    .for_nodes
                    .iter()
                    .flatten()
                    .map(|node| node.name.clone());
                let hints: Vec<String> = zones.chain(nodes).collect();
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                all.insert((
                    endpoint.addresses[0].clone(),
                    port.port.unwrap_or_default(),
                    conditions.ready != Some(false),
                    hints.join(" "),
                ));
            }
        }
    }
    all
}

#[test]
fn m1_text_is_read_as_kubectl_reads_it() {
    let manifests = read(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {n: '184467440737095516150'}}
spec:
  hostNetwork: no
  terminationGracePeriodSeconds: 30.0
  containers:
    - {name: c, tty: off, ports: [{containerPort: 80.0}], resources: {limits: {cpu: 2, memory: 536870912}, requests: {cpu: 0.5}}}
---
apiVersion: v1
kind: List
items:
---
{apiVersion: v1, kind: List}
---
{apiVersion: v1, kind: PodList, items: null}
---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: 443}]}}
",
    );
    assert_eq!(pod_names(&manifests), names(&["p"]));
    let limits = manifests.pods[0].spec.clone().unwrap().containers[0]
        .resources
        .clone()
        .unwrap();
    assert_eq!(limits.limits.unwrap()["memory"].0, "536870912");
    let ports = manifests.services[0].spec.clone().unwrap().ports.unwrap();
    assert_eq!(ports[0].node_port, Some(443));
    let long = "x".repeat(253);
    let manifests = read(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {long}}}, spec: {{containers: [{{name: c}}]}}}}"
    ));
    assert_eq!(pod_names(&manifests), names(&[&long]));
}

#[test]
fn m1_other_encodings_are_refused_by_the_files_name() {
    let utf16: Vec<u8> = "\u{feff}kind: Pod"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (bytes, said) in [
        (utf16.as_slice(), "it is UTF-16: save it as UTF-8"),
        (b"kind: \xe9", "it is not UTF-8"),
    ] {
        let problems = try_read(&[("bad.yaml", bytes)]).unwrap_err().to_string();
        assert!(
            problems.contains("bad.yaml: can't be read: ") && problems.contains(said),
            "{problems}"
        );
    }
    let marked = [b"\xef\xbb\xbf", NODES.replace('\n', "\r\n").as_bytes()].concat();
    assert_eq!(try_read(&[("a.yaml", &marked)]).unwrap().nodes.len(), 2);
}

#[test]
fn m2_workloads_have_the_pods_that_their_controllers_make() {
    let template = "selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c}]}}";
    let bare = "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c}]}}";
    let manifests = read(&format!(
        "
{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{replicas: 2, {template}}}}}
---
{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: web}}, spec: {{replicas: 2, serviceName: db, podManagementPolicy: Parallel, {template}}}}}
---
{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: late}}, spec: {{ordinals: {{start: 5}}, {template}}}}}
---
{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: rs}}, spec: {{{template}}}}}
---
{{apiVersion: v1, kind: ReplicationController, metadata: {{name: rc}}, spec: {{selector: {{app: a}}, {bare}}}}}
---
{{apiVersion: batch/v1, kind: Job, metadata: {{name: job}}, spec: {{parallelism: 3, completions: 2, {bare}}}}}
---
{{apiVersion: batch/v1, kind: Job, metadata: {{name: waits}}, spec: {{suspend: true, {bare}}}}}
---
{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: cron}}, spec: {{schedule: '* * * * *', jobTemplate: {{spec: {{{bare}}}}}}}}}
"
    ));
    let expected = [
        "web-0", "web-1", "web-2", "web-3", "late-5", "rs-0", "rc-0", "job-0", "job-1", "cron-0",
    ];
    assert_eq!(pod_names(&manifests), names(&expected));
    let label = |pod: &str, key: &str| {
        let pod = manifests
            .pods
            .iter()
            .find(|it| it.metadata.name.as_deref() == Some(pod));
        pod.unwrap()
            .metadata
            .labels
            .clone()
            .unwrap()
            .get(key)
            .cloned()
    };
    assert_eq!(
        label("web-1", "apps.kubernetes.io/pod-index").as_deref(),
        Some("1")
    );
    assert_eq!(label("web-2", "apps.kubernetes.io/pod-index"), None);
    assert_eq!(label("job-1", "job-name").as_deref(), Some("job"));
}

#[test]
fn m2_daemon_sets_have_a_pod_on_each_node_that_takes_it() {
    let tainted = "{apiVersion: v1, kind: Node, metadata: {name: n3}, spec: {podCIDRs: [10.244.3.0/24], taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]}}";
    let cordoned = "{apiVersion: v1, kind: Node, metadata: {name: n4}, spec: {podCIDRs: [10.244.4.0/24], unschedulable: true, taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}}";
    let on = |spec: &str| {
        let manifests = read(&format!(
            "{tainted}\n---\n{cordoned}\n---\n{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: d}}, spec: {{selector: {{matchLabels: {{app: d}}}}, template: {{metadata: {{labels: {{app: d}}}}, spec: {{containers: [{{name: c}}]{spec}}}}}}}}}"
        ));
        let nodes = manifests
            .pods
            .iter()
            .map(|pod| pod.spec.clone().unwrap().node_name.unwrap());
        nodes.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(on(""), "n1 n2 n4");
    assert_eq!(on(", nodeSelector: {disk: ssd}"), "n2");
    assert_eq!(on(", tolerations: [{operator: Exists}]"), "n1 n2 n3 n4");
    assert_eq!(
        on(", tolerations: [{key: node-role.kubernetes.io/control-plane}]"),
        "n1 n2 n3 n4"
    );
    assert_eq!(
        on(", tolerations: [{key: other, operator: Exists}]"),
        "n1 n2 n4"
    );
    let affinity = |expression: &str| {
        on(&format!(
            ", affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{{expression}}}]}}}}}}"
        ))
    };
    assert_eq!(
        affinity("matchExpressions: [{key: disk, operator: DoesNotExist}]"),
        "n1 n4"
    );
    assert_eq!(
        affinity("matchFields: [{key: metadata.name, operator: In, values: [n1]}]"),
        "n1"
    );
}

#[test]
fn m2_the_first_port_of_a_name_counts_and_those_of_sidecars_last() {
    let manifests = read(
        "
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: web}}
spec:
  containers:
    - {name: app, ports: [{name: http, containerPort: 81}]}
    - {name: proxy, ports: [{name: http, containerPort: 80}]}
    - {name: dns, ports: [{name: http, containerPort: 53, protocol: UDP}]}
  initContainers:
    - {name: once, ports: [{name: once, containerPort: 1}]}
    - {name: mesh, restartPolicy: Always, ports: [{name: http, containerPort: 82}, {name: mesh, containerPort: 15021, hostPort: 15021}]}
---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {app: web}, ports: [{name: a, port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: m}, spec: {selector: {app: web}, ports: [{name: a, port: 80, targetPort: mesh}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: o}, spec: {selector: {app: web}, ports: [{name: a, port: 80, targetPort: once}]}}
",
    );
    let port = |service: &str| {
        endpoints(&manifests, service)
            .into_iter()
            .map(|it| it.1)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (port("s"), port("m"), port("o")),
        (vec![81], vec![15021], vec![])
    );
    let changes = manifests.changes().unwrap();
    let pod = changes.iter().find_map(|change| {
        let Change::Pod(pod) = change else {
            return None;
        };
        Some(pod)
    });
    let pod = pod.unwrap();
    let named: Vec<(&str, u16)> = pod.ports.iter().map(|it| (&*it.name, it.port)).collect();
    assert_eq!(named, [("http", 81), ("http", 53), ("mesh", 15021)]);
    assert_eq!(
        pod.host_ports.iter().map(|it| it.port).collect::<Vec<_>>(),
        [15021]
    );
}

#[test]
fn m2_endpoints_are_mirrored_for_services_without_selector() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{name: sql, port: 5432}]}}";
    let of = |metadata: &str, service: &str| {
        let manifests = read(&format!(
            "{service}\n---\n{{apiVersion: v1, kind: Endpoints, metadata: {{name: db{metadata}}}, subsets: [{{addresses: [{{ip: 192.0.2.1}}, {{ip: '2001:db8::1'}}], notReadyAddresses: [{{ip: 192.0.2.2}}], ports: [{{name: sql, port: 5433}}]}}, {{addresses: [{{ip: 192.0.2.3}}], ports: [{{name: sql, port: 5434}}]}}]}}"
        ));
        endpoints(&manifests, "db")
    };
    let none = String::new;
    let expected = BTreeSet::from([
        ("192.0.2.1".to_owned(), 5433, true, none()),
        ("192.0.2.2".to_owned(), 5433, false, none()),
        ("192.0.2.3".to_owned(), 5434, true, none()),
        ("2001:db8::1".to_owned(), 5433, true, none()),
    ]);
    assert_eq!(of("", service), expected);
    assert!(
        of(
            ", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}",
            service
        )
        .is_empty()
    );
    assert!(
        of(
            ", annotations: {control-plane.alpha.kubernetes.io/leader: x}",
            service
        )
        .is_empty()
    );
    assert!(of("", &service.replace("ports", "selector: {a: b}, ports")).is_empty());
}

#[test]
fn m2_traffic_distribution_gives_the_hints_that_the_controller_gives() {
    let hints = |service: &str| -> BTreeMap<String, String> {
        let manifests = read(&format!(
            "
{{apiVersion: v1, kind: Pod, metadata: {{name: a, labels: {{app: web}}}}, spec: {{nodeName: n1, containers: [{{name: c}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: b, labels: {{app: web}}}}, spec: {{nodeName: n2, containers: [{{name: c}}]}}, status: {{conditions: [{{type: Ready, status: 'False'}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, ports: [{{port: 80}}]}}}}
"
        ));
        let pods = manifests.pods.iter().map(|pod| {
            (
                pod.status.clone().unwrap().pod_ip.unwrap(),
                pod.metadata.name.clone().unwrap(),
            )
        });
        let pods: BTreeMap<String, String> = pods.collect();
        endpoints(&manifests, "s")
            .into_iter()
            .map(|(address, _, _, hints)| (pods[&address].clone(), hints))
            .collect()
    };
    let expected = |a: &str| {
        BTreeMap::from([
            ("a".to_owned(), a.to_owned()),
            ("b".to_owned(), String::new()),
        ])
    };
    let spec = |distribution: &str| {
        format!("}}, spec: {{selector: {{app: web}}, trafficDistribution: {distribution}")
    };
    assert_eq!(hints(&spec("PreferClose")), expected("east"));
    assert_eq!(hints(&spec("PreferSameZone")), expected("east"));
    assert_eq!(hints(&spec("PreferSameNode")), expected("east n1"));
    assert_eq!(hints(&spec("Somehow")), expected(""));
    let by_capacity = format!(
        ", annotations: {{service.kubernetes.io/topology-mode: Auto}}{}",
        spec("PreferClose")
    );
    assert_eq!(hints(&by_capacity), expected(""));
}

#[test]
fn m3_a_dump_of_any_network_is_read() {
    let dump = "
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Node, metadata: {name: bare, uid: b}, status: {addresses: [{type: InternalIP, address: 192.168.50.9}], inventedLater: 1}}
  - {apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: Yg==}}
  - {apiVersion: v1, kind: Pod, metadata: {name: far, uid: f, labels: {app: web}}, spec: {nodeName: bare, inventedLater: {a: b}, containers: [{name: c}]}, status: {podIP: 172.20.0.1}}
  - {apiVersion: v1, kind: Pod, metadata: {name: outside, uid: o}, spec: {nodeName: n1, containers: [{name: c}]}, status: {podIP: 10.99.0.7}}
  - {apiVersion: v1, kind: Pod, metadata: {name: outside, uid: o}, spec: {nodeName: n1, containers: [{name: c}]}, status: {podIP: 10.99.0.7}}
  - {apiVersion: v1, kind: Pod, metadata: {name: going, uid: g, deletionTimestamp: '2026-01-05T10:00:00Z'}, spec: {nodeName: n2, containers: [{name: c}]}, status: {phase: Running, podIP: 10.99.0.7}}
  - {apiVersion: v1, kind: Pod, metadata: {name: done, uid: d}, spec: {nodeName: n2, containers: [{name: c}]}, status: {phase: Succeeded, podIP: 10.99.0.7}}
  - {apiVersion: v1, kind: Pod, metadata: {name: waits, uid: p}, spec: {nodeSelector: {none: such}, containers: [{name: c}]}, status: {phase: Pending}}
  - {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: each, uid: e}, spec: {selector: {matchLabels: {app: each}}, template: {metadata: {labels: {app: each}}, spec: {nodeSelector: {kubernetes.io/hostname: bare}, containers: [{name: c}]}}}}
  - {apiVersion: apps/v1, kind: Deployment, metadata: {name: web, uid: w}, spec: {replicas: 3, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}}
  - {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: web-6d4, uid: r, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: w, controller: true}]}, spec: {replicas: 3, selector: {matchLabels: {app: web, hash: x}}, template: {metadata: {labels: {app: web, hash: x}}, spec: {containers: [{name: c}]}}}}
  - {apiVersion: batch/v1, kind: CronJob, metadata: {name: cron, uid: c}, spec: {schedule: '* * * * *', jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}}}
";
    let manifests = read(dump);
    assert_eq!(
        pod_names(&manifests),
        names(&["far", "outside", "going", "done", "waits", "each-bare"])
    );
    let bare = manifests
        .nodes
        .iter()
        .find(|node| node.metadata.name.as_deref() == Some("bare"));
    assert_eq!(
        bare.unwrap().spec.clone().and_then(|spec| spec.pod_cidrs),
        None
    );
    let changes = manifests.changes().unwrap();
    let lives: BTreeMap<String, PodPhase> = changes
        .iter()
        .filter_map(|change| {
            let Change::Pod(pod) = change else {
                return None;
            };
            Some((pod.name.name.to_string(), pod.phase))
        })
        .collect();
    assert_eq!(
        ["outside", "going", "done"].map(|name| lives[name]),
        [PodPhase::Alive, PodPhase::Leaving, PodPhase::Ended]
    );
}

//! Broken manifests, and the exact words about each.

use std::fs;

use podway_control::Manifests;

/// What is said of a directory with these files, without the directory's name.
fn said(files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let problems = match Manifests::read(directory.path()) {
        Ok(_) => return Vec::new(),
        Err(problems) => problems.to_string(),
    };
    let prefix = format!("{}/", directory.path().display());
    problems
        .replace(&prefix, "")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    assert_eq!(said(&[("a.yaml", text)]), expected, "of\n{text}");
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\n";
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n";
const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n";

/// A kind's head, the rest of it from line 4 on, and what is said of it.
type Row = (&'static str, &'static str, &'static [&'static str]);

#[track_caller]
fn all_say(rows: &[Row]) {
    for (head, rest, expected) in rows {
        says(&format!("{head}{rest}\n"), expected);
    }
}

#[test]
fn text_that_is_not_manifests() {
    says(
        "a: [1\n",
        &["a.yaml:2: this is not YAML: while parsing a flow sequence, expected ',' or ']'"],
    );
    says(
        "kind: Pod\nkind: Pod\n",
        &["a.yaml:1: apiVersion: is missing: every Kubernetes object has apiVersion and kind"],
    );
    says(
        "# nothing\n---\nkind: Pod\n",
        &["a.yaml:3: apiVersion: is missing: every Kubernetes object has apiVersion and kind"],
    );
    says(
        "- 1\n",
        &["a.yaml:1: kind: is missing: every Kubernetes object has apiVersion and kind"],
    );
    says("apiVersion: v2\nkind: Pod\n", &[]);
    says(
        "apiVersion: extensions/v1beta1\nkind: Deployment\n",
        &["a.yaml:1: apiVersion: expected apps/v1 for a Deployment, found extensions/v1beta1"],
    );
    says(
        "apiVersion: v1\nkind: List\nitems: 3\n",
        &["a.yaml:3: items: expected a list"],
    );
}

#[test]
fn values_of_other_types_and_misspelt_fields() {
    all_say(&[
        (
            SERVICE,
            "spec:\n  ports:\n    - name: x\n      port: eighty",
            &["a.yaml:7: spec.ports[0].port: expected a number 1-65535, found string \"eighty\""],
        ),
        (
            SERVICE,
            "spec:\n  selector: [a]\n  ports: [{port: 80}]",
            &["a.yaml:5: spec.selector: expected a mapping, found sequence"],
        ),
        (
            POD,
            "spec:\n  containers:\n    - name: c\n      env:\n        - name: A\n          value: 1",
            &[
                "a.yaml:9: spec.containers[0].env[0].value: expected text (in quotes, if it looks like something else), found integer `1`",
            ],
        ),
        (
            POD,
            "spec:\n  hostNetwork: \"yes\"\n  containers: [{name: c}]",
            &["a.yaml:5: spec.hostNetwork: expected true or false, found string \"yes\""],
        ),
        (
            POLICY,
            "spec:\n  podSelector: {}\n  ingres: []",
            &[
                "a.yaml:6: spec.ingres: is not a field of a NetworkPolicy: look for a misspelling, or remove it",
            ],
        ),
        (
            POLICY,
            "spec:\n  podSelector: {}\n  ingress:\n    - from:\n        - podSelectors: {}",
            &[
                "a.yaml:8: spec.ingress[0].from[0].podSelectors: is not a field of a NetworkPolicy: look for a misspelling, or remove it",
            ],
        ),
    ]);
}

#[test]
fn names_and_labels() {
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: Shop\n",
        &["a.yaml:4: metadata.name: expected at most 63 of a-z, 0-9 and inner '-', found \"Shop\""],
    );
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  labels: {a: b}\n",
        &["a.yaml:3: metadata.name: is missing: give the object a name"],
    );
    says(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels:\n    app: '-x'\n",
        &[
            "a.yaml:6: metadata.labels.app: expected at most 63 letters, digits and inner '-', '_', '.', found \"-x\"",
        ],
    );
}

#[test]
fn services() {
    all_say(&[
        (
            SERVICE,
            "spec: {ports: []}",
            &["a.yaml:4: spec.ports: is empty: a service has at least one port"],
        ),
        (
            SERVICE,
            "spec:\n  ports:\n    - port: 0",
            &["a.yaml:6: spec.ports[0].port: expected a number 1-65535, found 0"],
        ),
        (
            SERVICE,
            "spec:\n  ports:\n    - {port: 80, protocol: tcp}\n    - {name: b, port: 81, targetPort: 70000}",
            &[
                "a.yaml:6: spec.ports[0].name: is missing: with several ports, each has a name",
                "a.yaml:6: spec.ports[0].protocol: expected TCP, UDP or SCTP, found \"tcp\"",
                "a.yaml:7: spec.ports[1].targetPort: expected a number 1-65535, found 70000",
            ],
        ),
        (
            SERVICE,
            "spec:\n  ports:\n    - {name: a, port: 80}\n    - {name: a, port: 80}",
            &[
                "a.yaml:7: spec.ports[1].name: \"a\" is there twice: rename one",
                "a.yaml:7: spec.ports[1].port: 80 is there twice with this protocol: change one",
            ],
        ),
        (
            SERVICE,
            "spec:\n  ports: [{port: 80, nodePort: 30001}]",
            &["a.yaml:5: spec.ports[0].nodePort: needs spec.type NodePort or LoadBalancer"],
        ),
        (
            SERVICE,
            "spec:\n  type: NodePort\n  ports: [{port: 80, nodePort: 65536}]",
            &["a.yaml:6: spec.ports[0].nodePort: expected a number 1-65535, found 65536"],
        ),
        (
            SERVICE,
            "spec:\n  type: Nodeport\n  ports: [{port: 80}]",
            &[
                "a.yaml:5: spec.type: expected ClusterIP, NodePort, LoadBalancer or ExternalName, found \"Nodeport\"",
            ],
        ),
        (
            SERVICE,
            "spec:\n  clusterIP: 10.96.0.1.2\n  ports: [{port: 80}]",
            &["a.yaml:5: spec.clusterIP: expected an IP address, found \"10.96.0.1.2\""],
        ),
        (
            SERVICE,
            "spec:\n  internalTrafficPolicy: local\n  sessionAffinity: Client\n  ports: [{port: 80}]",
            &[
                "a.yaml:5: spec.internalTrafficPolicy: expected Cluster or Local, found \"local\"",
                "a.yaml:6: spec.sessionAffinity: expected None or ClientIP, found \"Client\"",
            ],
        ),
        (
            SERVICE,
            "spec:\n  ipFamilies: [IPv4, ipv6]\n  ipFamilyPolicy: DualStack\n  ports: [{port: 80}]",
            &[
                "a.yaml:5: spec.ipFamilies[1]: expected IPv4 or IPv6, found \"ipv6\"",
                "a.yaml:6: spec.ipFamilyPolicy: expected SingleStack, PreferDualStack or RequireDualStack, found \"DualStack\"",
            ],
        ),
        (
            SERVICE,
            "spec:\n  loadBalancerSourceRanges: [10.0.0.0]\n  ports: [{port: 80}]",
            &[
                "a.yaml:5: spec.loadBalancerSourceRanges[0]: expected a range such as 10.0.0.0/8, found \"10.0.0.0\"",
            ],
        ),
        (
            SERVICE,
            "spec: {type: ExternalName}",
            &["a.yaml:4: spec.externalName: is missing: name a host"],
        ),
    ]);
}

#[test]
fn policies() {
    all_say(&[
        (
            POLICY,
            "spec:\n  podSelector:\n    matchExpressions:\n      - {key: a, operator: Is, values: [b]}",
            &[
                "a.yaml:7: spec.podSelector.matchExpressions[0].operator: expected In, NotIn, Exists or DoesNotExist, found \"Is\"",
            ],
        ),
        (
            POLICY,
            "spec:\n  podSelector:\n    matchExpressions:\n      - {key: a, operator: In}\n      - {key: a, operator: Exists, values: [b]}",
            &[
                "a.yaml:7: spec.podSelector.matchExpressions[0].values: In needs at least one value",
                "a.yaml:8: spec.podSelector.matchExpressions[1].values: Exists takes no values: remove them",
            ],
        ),
        (
            POLICY,
            "spec:\n  policyTypes: [Ingres]",
            &["a.yaml:5: spec.policyTypes[0]: expected Ingress or Egress, found \"Ingres\""],
        ),
        (
            POLICY,
            "spec:\n  ingress:\n    - from:\n        - {}",
            &[
                "a.yaml:7: spec.ingress[0].from[0]: expected podSelector, namespaceSelector or ipBlock; an empty podSelector is all pods",
            ],
        ),
        (
            POLICY,
            "spec:\n  egress:\n    - to:\n        - ipBlock: {cidr: 10.0.0.0/8}\n          podSelector: {}",
            &[
                "a.yaml:7: spec.egress[0].to[0].ipBlock: an ipBlock stands alone: give podSelector and namespaceSelector a peer of their own",
            ],
        ),
        (
            POLICY,
            "spec:\n  egress:\n    - to:\n        - ipBlock:\n            cidr: 10.0.0.0/8\n            except: [11.0.0.0/8]\n        - ipBlock: {cidr: 10.0.0.0/40}",
            &[
                "a.yaml:9: spec.egress[0].to[0].ipBlock.except[0]: expected a range strictly inside 10.0.0.0/8, found 11.0.0.0/8",
                "a.yaml:10: spec.egress[0].to[1].ipBlock.cidr: expected a range such as 10.0.0.0/8, found \"10.0.0.0/40\"",
            ],
        ),
        (
            POLICY,
            "spec:\n  ingress:\n    - ports:\n        - {port: 80, endPort: 79}\n        - {port: http, endPort: 90}\n        - {endPort: 90}\n        - {port: 80, protocol: ICMP}\n        - {port: Not_A_Name}",
            &[
                "a.yaml:7: spec.ingress[0].ports[0].endPort: expected 80 (the port) or more, found 79",
                "a.yaml:8: spec.ingress[0].ports[1].endPort: needs a port that is a number, to be its last",
                "a.yaml:9: spec.ingress[0].ports[2].endPort: needs a port that is a number, to be its last",
                "a.yaml:10: spec.ingress[0].ports[3].protocol: expected TCP, UDP or SCTP, found \"ICMP\"",
                "a.yaml:11: spec.ingress[0].ports[4].port: expected at most 15 of a-z, 0-9 and '-' with a letter, found \"Not_A_Name\"",
            ],
        ),
    ]);
}

#[test]
fn pods_and_deployments() {
    all_say(&[
        (
            POD,
            "spec: {}",
            &["a.yaml:4: spec.containers: is empty: a pod has at least one container"],
        ),
        (
            POD,
            "spec:\n  nodeName: gone\n  containers: [{name: c}]",
            &["a.yaml:5: spec.nodeName: there is no Node gone: add it, or leave nodeName out"],
        ),
        (
            POD,
            "spec:\n  containers: [{name: c}]",
            &[
                "a.yaml:4: spec.nodeSelector: no Node can run it: add a Node with the labels of spec.nodeSelector",
            ],
        ),
        (
            POD,
            "spec:\n  containers:\n    - name: c\n      ports: [{containerPort: 99999}, {name: x--y, containerPort: 1}]\n    - name: c",
            &[
                "a.yaml:7: spec.containers[0].ports[0].containerPort: expected a number 1-65535, found 99999",
                "a.yaml:7: spec.containers[0].ports[1].name: expected at most 15 of a-z, 0-9 and '-' with a letter, found \"x--y\"",
                "a.yaml:8: spec.containers[1].name: \"c\" is there twice: rename one",
            ],
        ),
        (
            POD,
            "spec:\n  containers: [{name: c}]\nstatus:\n  phase: Resting\n  podIP: 10.0.0.256",
            &[
                "a.yaml:7: status.phase: expected Pending, Running, Succeeded, Failed or Unknown, found \"Resting\"",
                "a.yaml:8: status.podIP: expected an IP address, found \"10.0.0.256\"",
            ],
        ),
        (
            DEPLOYMENT,
            "spec:\n  replicas: -1\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: c}}\n    spec:\n      containers:\n        - {name: C}",
            &[
                "a.yaml:5: spec.replicas: expected 0-1000, found -1",
                "a.yaml:6: spec.selector: doesn't match spec.template.metadata.labels: give both the same labels",
                "a.yaml:11: spec.template.spec.containers[0].name: expected at most 63 of a-z, 0-9 and inner '-', found \"C\"",
            ],
        ),
    ]);
}

#[test]
fn nodes_and_slices() {
    all_say(&[
        (
            NODE,
            "spec:\n  podCIDRs: [10.0.0.0/24, 10.0.1.0/24]\nstatus:\n  addresses:\n    - {type: InternalIP, address: here}",
            &[
                "a.yaml:5: spec.podCIDRs[1]: a second IPv4 range: keep one",
                "a.yaml:8: status.addresses[0].address: expected an IP address, found \"here\"",
            ],
        ),
        (
            SLICE,
            "addressType: IPv5",
            &["a.yaml:4: addressType: expected IPv4 or IPv6, found \"IPv5\""],
        ),
        (
            SLICE,
            "addressType: IPv4\nports: [{port: 0}]\nendpoints:\n  - addresses: []\n  - addresses: [127.0.0.1]\n  - addresses: ['fd00::1']",
            &[
                "a.yaml:5: ports[0].port: expected a number 1-65535, found 0",
                "a.yaml:7: endpoints[0].addresses: is empty: an endpoint has at least one address",
                "a.yaml:8: endpoints[1].addresses[0]: 127.0.0.1 is loopback, link-local, multicast or unspecified: no endpoint can be there",
                "a.yaml:9: endpoints[2].addresses[0]: expected an IPv4 address, found fd00::1",
            ],
        ),
    ]);
}

#[test]
fn files_are_reported_together_and_clashes_name_both() {
    let service = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {address}\n  ports: [{{port: 80}}]\n"
        )
    };
    let both = [
        ("a.yaml", &*service("a", "10.96.0.1")),
        ("b.yml", &*service("a", "10.96.0.2")),
    ];
    assert_eq!(
        said(&both),
        ["b.yml:3: metadata.name: Service default/a is at a.yaml:1 already: rename or remove one"]
    );
    let both = [
        ("a.yaml", &*service("a", "10.96.0.1")),
        ("b.yml", &*service("b", "10.96.0.1")),
    ];
    assert_eq!(
        said(&both),
        [
            "b.yml:5: spec.clusterIP: 10.96.0.1 is in use twice, by Service default/a (a.yaml:1) too: change one"
        ]
    );
    let both = [
        ("a.yaml", "a: [\n"),
        ("b.json", "{\"kind\": \"Pod\"}"),
        ("c.txt", "!"),
        (".d.yaml", "!"),
    ];
    assert_eq!(said(&both).len(), 2);
}

#[test]
fn given_addresses_that_clash() {
    let node = |name: &str, range: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{range}]}}\nstatus:\n  addresses: [{{type: InternalIP, address: {address}}}]\n"
        )
    };
    let pod = |name: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c}}]}}\nstatus: {{podIP: {address}}}\n"
        )
    };
    let port = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  ports:\n    - {{port: 80, nodePort: 30080}}\n"
        )
    };
    let nodes = [
        node("a", "10.1.0.0/16", "192.0.2.1"),
        node("b", "10.1.2.0/24", "192.0.2.1"),
    ]
    .concat();
    says(
        &nodes,
        &[
            "a.yaml:12: spec.podCIDRs: 10.1.2.0/24 overlaps 10.1.0.0/16 of Node a (a.yaml:2): change one",
            "a.yaml:14: status.addresses: 192.0.2.1 is in use twice, by Node a (a.yaml:2) too: change one",
        ],
    );
    let pods = [
        node("a", "10.1.2.0/24", "192.0.2.1"),
        pod("a", "10.1.2.7"),
        pod("b", "10.1.2.7"),
    ];
    says(
        &pods.concat(),
        &[
            "a.yaml:19: status.podIPs: 10.1.2.7 is in use twice, by Pod default/a (a.yaml:9) too: change one",
        ],
    );
    says(
        &[port("a"), port("b")].concat(),
        &[
            "a.yaml:16: spec.ports[0].nodePort: 30080 is in use twice, by Service default/a (a.yaml:2) too: change one",
        ],
    );
}

#[test]
fn a_path_that_is_not_there() {
    let problems = Manifests::read("/nonexistent/podway".as_ref())
        .unwrap_err()
        .to_string();
    assert_eq!(
        problems,
        "/nonexistent/podway: can't be read: No such file or directory (os error 2)"
    );
}

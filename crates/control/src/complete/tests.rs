use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::read;
use crate::validate::NODE_PORTS;

/// The objects of a text.
fn objects(text: &str) -> Vec<Located> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    read(file.path()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn completed(text: &str) -> Manifests {
    complete(objects(text)).unwrap_or_else(|problems| panic!("{problems}"))
}

fn node(name: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Node, metadata: {{name: '{name}'}}}}\n")
}

fn pod(name: &str, rest: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: '{name}', labels: {{app: '{name}'}}}}, \
         spec: {{containers: [{{name: c}}]{rest}}}}}\n"
    )
}

fn service(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: '{name}'}}, \
         spec: {{selector: {{app: '{name}'}}, {spec}}}}}\n"
    )
}

/// Node and addresses of each pod.
fn places(cluster: &Manifests) -> BTreeMap<String, (Option<String>, Vec<String>)> {
    let place = |pod: &Pod| {
        let ips = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ips.clone());
        let ips = ips
            .unwrap_or_default()
            .into_iter()
            .map(|ip| ip.ip)
            .collect();
        (
            pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ips,
        )
    };
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    cluster
        .pods
        .iter()
        .map(|pod| (name(pod), place(pod)))
        .collect()
}

#[test]
fn nodes_are_numbered_by_their_names() {
    let cluster = completed(&(node("node7") + &node("node2") + &node("edge") + &node("b7")));
    let number = |name: &str| {
        let found = cluster
            .nodes
            .iter()
            .find(|node| node.metadata.name.as_deref() == Some(name));
        let node = found.unwrap();
        let ranges = node.spec.clone().unwrap().pod_cidrs.unwrap();
        let addresses = node.status.clone().unwrap().addresses.unwrap();
        let address = addresses[0].address.strip_prefix("192.168.50.").unwrap();
        let number: u8 = address.parse().unwrap();
        assert_eq!(addresses[1].address, format!("fd50::{number:x}"));
        assert_eq!(ranges[0], format!("10.244.{number}.0/24"));
        assert_eq!(ranges[1], format!("fd44:0:0:{number:x}::/64"));
        number
    };
    assert_eq!(number("node2"), 2);
    // Both want 7, and b7 comes first.
    assert_eq!(number("b7"), 7);
    let all: BTreeSet<u8> = ["node7", "node2", "edge", "b7"].map(number).into();
    assert_eq!(all.len(), 4);
}

#[test]
fn given_addresses_of_nodes_are_kept_and_kept_clear_of() {
    let given = "---\n{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.244.2.0/25}, \
                 status: {addresses: [{type: InternalIP, address: 192.168.50.3}]}}\n";
    let single = "---\n{apiVersion: v1, kind: Node, metadata: {name: v4}, \
                  status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n";
    let cluster = completed(&(node("n2") + &node("n3") + given + single));
    let ranges = |index: usize| cluster.nodes[index].spec.clone().unwrap().pod_cidrs;
    assert_eq!(
        cluster.nodes[0].spec.as_ref().unwrap().pod_cidr.as_deref(),
        Some("10.244.2.0/25")
    );
    assert_eq!(ranges(0), None);
    for (index, taken) in [(1, "10.244.2.0/24"), (2, "10.244.3.0/24")] {
        assert_ne!(ranges(index).unwrap()[0], taken);
    }
    assert_eq!(
        ranges(3).unwrap().len(),
        1,
        "a node with one address has one family"
    );
}

#[test]
fn deployments_spread_over_nodes_with_stable_names() {
    let deployment = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  \
                      replicas: 4\n  selector: {matchLabels: {app: web}}\n  template:\n    \
                      metadata: {labels: {app: web}}\n    spec: {containers: [{name: c}]}\n";
    let cluster = completed(&(node("node1") + &node("node2") + deployment));
    let places = places(&cluster);
    assert_eq!(
        places.keys().collect::<Vec<_>>(),
        ["web-0", "web-1", "web-2", "web-3"]
    );
    let on = |name: &str| {
        places
            .values()
            .filter(|(node, _)| node.as_deref() == Some(name))
            .count()
    };
    assert_eq!((on("node1"), on("node2")), (2, 2));
    let with_pod = completed(&(node("node1") + deployment + &pod("web-1", "")));
    assert_eq!(
        self::places(&with_pod).keys().collect::<Vec<_>>(),
        ["web-0", "web-1", "web-2", "web-3", "web-4"]
    );
}

#[test]
fn pods_go_where_their_selector_and_addresses_say() {
    let far = "---\n{apiVersion: v1, kind: Node, metadata: {name: node9, labels: {zone: far}}}\n";
    let given = "---\n{apiVersion: v1, kind: Pod, metadata: {name: given}, \
                 spec: {containers: [{name: c}]}, status: {podIPs: [{ip: 10.244.9.77}]}}\n";
    let two = "---\n{apiVersion: v1, kind: Node, metadata: {name: two}, status: {addresses: [\
               {type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: 192.0.2.2}]}}\n";
    let text = node("node1")
        + two
        + &pod("host-of-two", ", hostNetwork: true, nodeName: two")
        + far
        + given
        + &pod("selected", ", nodeSelector: {zone: far}")
        + &pod("host", ", hostNetwork: true, nodeName: node1");
    let places = places(&completed(&text));
    assert_eq!(places["selected"].0.as_deref(), Some("node9"));
    assert_eq!(
        places["given"],
        (Some("node9".into()), vec!["10.244.9.77".into()])
    );
    assert_eq!(places["host"].1, ["192.168.50.1", "fd50::1"]);
    assert_eq!(places["host-of-two"].1, ["192.0.2.1"]);
}

#[test]
fn services_get_addresses_of_their_families() {
    let families = |spec: &str| {
        let cluster = completed(&service("a", &format!("ports: [{{port: 80}}], {spec}")));
        let spec = cluster.services[0].spec.clone().unwrap();
        assert_eq!(
            spec.cluster_ip,
            spec.cluster_ips
                .clone()
                .and_then(|ips| ips.first().cloned())
        );
        let ips = spec.cluster_ips.unwrap();
        let kind = |ip: &String| if ip.starts_with("10.96.") { '4' } else { '6' };
        assert!(
            ips.iter()
                .all(|ip| ip.starts_with("10.96.") || ip.starts_with("fd96::")),
            "{ips:?}"
        );
        ips.iter().map(kind).collect::<String>()
    };
    assert_eq!(families(""), "4");
    assert_eq!(families("ipFamilies: [IPv6]"), "6");
    assert_eq!(families("ipFamilyPolicy: PreferDualStack"), "46");
    assert_eq!(
        families("ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6]"),
        "64"
    );
    assert_eq!(
        families("clusterIP: 'fd96::9', ipFamilyPolicy: RequireDualStack"),
        "64"
    );
    let headless = completed(&service("a", "ports: [{port: 80}], clusterIP: None"));
    assert_eq!(
        headless.services[0].spec.as_ref().unwrap().cluster_ips,
        None
    );
}

#[test]
fn node_ports_are_assigned_by_type() {
    let ports = |spec: &str| {
        let cluster = completed(&service("a", spec));
        let spec = cluster.services[0].spec.clone().unwrap();
        let ports = spec
            .ports
            .unwrap()
            .into_iter()
            .map(|port| port.node_port)
            .collect::<Vec<_>>();
        (ports, spec.health_check_node_port)
    };
    assert_eq!(ports("ports: [{port: 80}]"), (vec![None], None));
    let (given, _) =
        ports("type: NodePort, ports: [{name: a, port: 80, nodePort: 30001}, {name: b, port: 81}]");
    assert_eq!(given[0], Some(30001));
    assert!(given[1].is_some_and(|port| NODE_PORTS.contains(&port) && port != 30001));
    let (_, health_check) =
        ports("type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]");
    assert!(health_check.is_some_and(|port| NODE_PORTS.contains(&port)));
}
#[test]
fn slices_follow_selectors_ports_and_conditions() {
    let ports = |port: u16| {
        format!(", nodeName: node1, initContainers: [], terminationGracePeriodSeconds: {port}")
    };
    let member = |name: &str, port: u16, rest: &str| {
        pod(name, &ports(port))
            .replace(&format!("app: '{name}'"), "app: web")
            .replace(
                "{name: c}",
                &format!("{{name: c, ports: [{{name: http, containerPort: {port}}}]}}"),
            )
            .replace("metadata: {", &format!("metadata: {{{rest}"))
    };
    let text = node("node1")
        + &member("a", 8080, "")
        + &member("b", 9090, "")
        + &member("c", 8080, "deletionTimestamp: '2026-01-01T00:00:00Z', ")
        + &pod("other", "")
        + &service(
            "web",
            "ipFamilyPolicy: PreferDualStack, ports: [{name: h, port: 80, targetPort: http}]",
        );
    let slices = completed(&text).endpoint_slices;
    let names: Vec<_> = slices
        .iter()
        .map(|slice| slice.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["web-ipv4", "web-ipv4-1", "web-ipv6", "web-ipv6-1"]);
    let members = |slice: &EndpointSlice| {
        let endpoints = slice.endpoints.clone().unwrap();
        let of = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
            let conditions = endpoint.conditions.clone().unwrap();
            let name = endpoint.target_ref.clone().unwrap().name.unwrap();
            (name, conditions.ready.unwrap(), conditions.serving.unwrap())
        };
        (
            slice.ports.clone().unwrap()[0].port,
            endpoints.iter().map(of).collect::<Vec<_>>(),
        )
    };
    let first = vec![("a".to_owned(), true, true), ("c".to_owned(), false, true)];
    assert_eq!(members(&slices[0]), (Some(8080), first));
    assert_eq!(
        members(&slices[3]),
        (Some(9090), vec![("b".to_owned(), true, true)])
    );
}

#[test]
fn given_slices_take_the_place_of_selected_ones() {
    let given = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {name: s, labels: {kubernetes.io/service-name: web}}}\n";
    let text = node("node1") + &pod("web", "") + &service("web", "ports: [{port: 80}]");
    assert_eq!(completed(&text).endpoint_slices.len(), 1);
    let slices = completed(&(text + given)).endpoint_slices;
    assert_eq!(slices[0].metadata.name.as_deref(), Some("s"));
    assert_eq!(slices.len(), 1);
}

#[test]
fn namespaces_that_objects_are_in_exist() {
    let cluster = completed(&service("a", "ports: [{port: 80}]"));
    let labels = cluster.namespaces[0].metadata.labels.clone().unwrap();
    assert_eq!(
        labels,
        BTreeMap::from([(NAMESPACE_NAME.to_owned(), "default".to_owned())])
    );
}

#[test]
fn a_full_range_is_said() {
    let tiny =
        "---\n{apiVersion: v1, kind: Node, metadata: {name: tiny}, spec: {podCIDR: 10.0.0.0/30}}\n";
    let fits = complete(objects(&(tiny.to_owned() + &pod("a", ""))));
    assert_eq!(places(&fits.unwrap())["a"].1, ["10.0.0.2"]);
    let full = complete(objects(&(tiny.to_owned() + &pod("a", "") + &pod("b", ""))));
    assert!(
        full.unwrap_err()
            .to_string()
            .ends_with("10.0.0.0/30 of Node tiny is full: give it more")
    );
}

/// A cluster of so many pods, and services over some of them.
fn many(names: &BTreeSet<String>) -> String {
    let mut text = node("node1") + &node("node2") + &node("other");
    for name in names {
        text += &pod(name, "");
        text += &service(
            name,
            "type: NodePort, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]",
        );
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_does_not_matter(
        names in prop::collection::btree_set("[a-z]{1,3}", 1..12),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let mut objects = objects(&many(&names));
        let expected = complete(objects.clone()).unwrap();
        let turn = shuffle.index(objects.len());
        objects.rotate_left(turn);
        prop_assert_eq!(&complete(objects.clone()).unwrap(), &expected);
        objects.reverse();
        prop_assert_eq!(&complete(objects).unwrap(), &expected);
    }

    #[test]
    fn one_more_pod_moves_at_most_those_it_collides_with(
        names in prop::collection::btree_set("[a-z]{1,3}", 1..12),
        more in "[a-z]{4}",
    ) {
        let before = completed(&many(&names));
        let mut with_more = names.clone();
        with_more.insert(more.clone());
        let after = completed(&many(&with_more));
        let (before, mut after) = (places(&before), places(&after));
        let new = after.remove(&more).unwrap();
        prop_assert_eq!(new.1.len(), 2);
        let ips = |all: &BTreeMap<String, (Option<String>, Vec<String>)>| -> BTreeSet<String> {
            all.values().flat_map(|(_, ips)| ips.clone()).collect()
        };
        // Unless the new pod took an address that was somebody's, nobody moves.
        if new.1.iter().all(|ip| !ips(&before).contains(ip)) {
            prop_assert_eq!(&before, &after);
        }
        for (name, (node, _)) in &before {
            prop_assert_eq!(node, &after[name].0);
        }
        prop_assert_eq!(ips(&after).len(), 2 * names.len());
    }
}

//! `podway policy suggest`: the NetworkPolicies that allow the flows that were seen, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use podway_intent::{
    Cluster, Labels, Name, NetworkPolicy, Pod, PodNetwork, PodPhase, PolicyMode, PolicyPeer,
    PolicyPort, PolicyRule, Ports, Requirement, Selector,
};
use podway_wire::Protocol;

use super::flows::{self, Flow};
use super::stable::stable;
use super::{PolicyError, Reach};

/// The label by which a namespace is told from others.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Whom policies are suggested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subjects {
    /// Pods that are an end of some flow.
    Seen,
    /// All pods.
    All,
}

/// The longest name of an object.
const LONGEST_NAME: usize = 253;

/// Pods that no policy can tell apart by labels that last: policies are about these, not about pods.
type Kind = (Arc<str>, Arc<Labels>);

/// Whom a pod talks with: a kind of pods, or an address outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    Pods(Kind),
    Address(IpAddr),
}

/// What was seen of a kind, by direction.
#[derive(Default)]
struct Talk {
    ingress: BTreeMap<Other, BTreeSet<(Protocol, u16)>>,
    egress: BTreeMap<Other, BTreeSet<(Protocol, u16)>>,
}

/// The answer to `podway policy suggest`: YAML.
pub fn suggest(
    manifests: &Path,
    files: &[PathBuf],
    subjects: Subjects,
) -> Result<String, PolicyError> {
    let reach = Reach::of_manifests(manifests)?;
    let mut flows = Vec::new();
    for file in files {
        flows.extend(flows::read(file)?);
    }
    let mut text = String::new();
    for policy in policies(&reach.cluster, &flows, subjects) {
        write_policy(&policy, &mut text);
    }
    write_remarks(&reach.cluster, &flows, &mut text);
    Ok(text)
}

/// Says as comments what the policies don't or only half say.
fn write_remarks(cluster: &Cluster, flows: &[Flow], text: &mut String) {
    let nodes = cluster.nodes();
    let node_of = |ip: &IpAddr| nodes.iter().find(|node| node.addresses.contains(ip));
    let mut remarks = BTreeSet::new();
    for flow in flows {
        let Flow {
            source,
            target,
            protocol,
            ..
        } = flow;
        if !has_ports(*protocol) {
            remarks.insert(format!(
                "left out, for policies can't name it: {protocol} from {source} to {target}"
            ));
            continue;
        }
        for ip in [source, target] {
            remarks.extend(node_of(ip).map(|node| {
                let name = &node.name;
                format!(
                    "{ip} is Node {name}'s: whoever is on its network is meant, and a node in its place is not"
                )
            }));
        }
    }
    for remark in remarks {
        let _ = writeln!(text, "# {remark}");
    }
}

/// Policies under which exactly these flows are allowed to and from the subjects; in the order of names.
///
/// Pods with the same labels in one namespace are one to policies: what one of them was seen to do, all may do. Flows of
/// protocols that policies can't name, such as ICMP, are left out.
pub fn policies(cluster: &Cluster, flows: &[Flow], subjects: Subjects) -> Vec<NetworkPolicy> {
    let pods: Vec<&Pod> = cluster
        .pods()
        .into_iter()
        .filter(|pod| pod.network == PodNetwork::Own && pod.phase == PodPhase::Alive)
        .collect();
    let mut of_address = BTreeMap::new();
    let mut kinds: BTreeMap<Kind, &Name> = BTreeMap::new();
    for pod in &pods {
        let kind = (pod.name.namespace.clone(), Arc::new(stable(&pod.labels)));
        of_address.extend(pod.addresses.iter().map(|ip| (*ip, kind.clone())));
        kinds.entry(kind).or_insert(&pod.name);
    }
    let other = |ip: IpAddr| match of_address.get(&ip) {
        Some(kind) => Other::Pods(kind.clone()),
        None => Other::Address(ip),
    };
    let mut talks: BTreeMap<Kind, Talk> = BTreeMap::new();
    if subjects == Subjects::All {
        talks.extend(kinds.keys().map(|kind| (kind.clone(), Talk::default())));
    }
    for flow in flows.iter().filter(|flow| has_ports(flow.protocol)) {
        let port = (flow.protocol, flow.port);
        let (source, target) = (other(flow.source), other(flow.target));
        if flow.source == flow.target {
            // A pod reaches itself (N13).
            continue;
        }
        if let Other::Pods(kind) = &source {
            let talk = talks.entry(kind.clone()).or_default();
            talk.egress.entry(target.clone()).or_default().insert(port);
        }
        if let Other::Pods(kind) = &target {
            let talk = talks.entry(kind.clone()).or_default();
            talk.ingress.entry(source).or_default().insert(port);
        }
    }
    let mut taken = BTreeSet::new();
    talks
        .into_iter()
        .map(|(kind, talk)| NetworkPolicy {
            name: name_of(kinds[&kind], &mut taken),
            subject: selector_of(&kind, &kinds),
            ingress: Some(rules(&talk.ingress, &kinds)),
            egress: Some(rules(&talk.egress, &kinds)),
            mode: PolicyMode::Enforce,
        })
        .collect()
}

/// A name that no other policy has: that of a pod, cut if it is too long.
fn name_of(pod: &Name, taken: &mut BTreeSet<Name>) -> Name {
    let names = (1..).map(|number| {
        let end = match number {
            1 => String::new(),
            number => format!("-{number}"),
        };
        let mut name = format!("allow-seen-{}", pod.name);
        name.truncate(LONGEST_NAME - end.len());
        let name = name.trim_end_matches(['-', '.']);
        Name {
            namespace: pod.namespace.clone(),
            name: format!("{name}{end}").into(),
        }
    });
    let mut free = names.filter(|name| taken.insert(name.clone()));
    free.next().expect("numbers don't end")
}

fn has_ports(protocol: Protocol) -> bool {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol)
}

/// A rule for each set of ports, with all who use just these.
fn rules(
    talk: &BTreeMap<Other, BTreeSet<(Protocol, u16)>>,
    kinds: &BTreeMap<Kind, &Name>,
) -> Vec<PolicyRule> {
    let mut by_ports: BTreeMap<&BTreeSet<(Protocol, u16)>, Vec<PolicyPeer>> = BTreeMap::new();
    for (other, ports) in talk {
        let peer = match other {
            Other::Pods(kind) => PolicyPeer::Pods {
                namespaces: Some(Selector {
                    requirements: vec![is(NAMESPACE_NAME.into(), kind.0.clone())],
                }),
                pods: selector_of(kind, kinds),
            },
            Other::Address(ip) => PolicyPeer::Block {
                range: IpNet::from(*ip),
                except: Vec::new(),
            },
        };
        by_ports.entry(ports).or_default().push(peer);
    }
    let rule = |(ports, peers): (&BTreeSet<(Protocol, u16)>, Vec<PolicyPeer>)| PolicyRule {
        peers: Some(peers),
        ports: Some(
            ports
                .iter()
                .map(|(protocol, port)| PolicyPort {
                    protocol: *protocol,
                    ports: Ports::Range(*port, *port),
                })
                .collect(),
        ),
    };
    by_ports.into_iter().map(rule).collect()
}

/// A selector of one kind and no other of its namespace: others may have the same labels and more.
fn selector_of(kind: &Kind, kinds: &BTreeMap<Kind, &Name>) -> Selector {
    let (namespace, labels) = kind;
    let own = labels.iter();
    let mut requirements: Vec<_> = own
        .map(|(key, value)| is(key.clone(), value.clone()))
        .collect();
    let mut absent = BTreeSet::new();
    for (_, more) in kinds.keys().filter(|(other, _)| other == namespace) {
        let has_all = labels
            .iter()
            .all(|(key, value)| more.get(key) == Some(value));
        let told_apart = more.keys().any(|key| absent.contains(key));
        if has_all && !told_apart {
            absent.extend(more.keys().find(|key| !labels.contains_key(*key)).cloned());
        }
    }
    requirements.extend(absent.into_iter().map(Requirement::Absent));
    Selector { requirements }
}

fn is(key: Arc<str>, value: Arc<str>) -> Requirement {
    Requirement::In(key, vec![value])
}

fn write_policy(policy: &NetworkPolicy, text: &mut String) {
    let Name { namespace, name } = &policy.name;
    let _ = write!(
        text,
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n  podSelector:\n",
        quoted(name),
        quoted(namespace)
    );
    write_selector(&policy.subject, "    ", text);
    text.push_str("  policyTypes: [Ingress, Egress]\n");
    for (list, peers, rules) in [
        ("ingress", "from", &policy.ingress),
        ("egress", "to", &policy.egress),
    ] {
        let rules = rules.as_deref().unwrap_or_default();
        if rules.is_empty() {
            let _ = writeln!(text, "  {list}: []");
            continue;
        }
        let _ = writeln!(text, "  {list}:");
        for rule in rules {
            let _ = writeln!(text, "    - {peers}:");
            for peer in rule.peers.iter().flatten() {
                write_peer(peer, text);
            }
            text.push_str("      ports:\n");
            for port in rule.ports.iter().flatten() {
                if let Ports::Range(first, _) = port.ports {
                    let protocol = port.protocol.to_string().to_uppercase();
                    let _ = writeln!(text, "        - {{ protocol: {protocol}, port: {first} }}");
                }
            }
        }
    }
}

fn write_peer(peer: &PolicyPeer, text: &mut String) {
    match peer {
        PolicyPeer::Block { range, .. } => {
            let range = quoted(&range.to_string());
            let _ = writeln!(text, "        - ipBlock: {{ cidr: {range} }}");
        }
        PolicyPeer::Pods { namespaces, pods } => {
            text.push_str("        - namespaceSelector:\n");
            let everywhere = Selector::default();
            let namespaces = namespaces.as_ref().unwrap_or(&everywhere);
            write_selector(namespaces, "            ", text);
            text.push_str("          podSelector:\n");
            write_selector(pods, "            ", text);
        }
    }
}

fn write_selector(selector: &Selector, indent: &str, text: &mut String) {
    let mut labels = String::new();
    let mut expressions = String::new();
    for requirement in &selector.requirements {
        let _ = match requirement {
            Requirement::In(key, values) if values.len() == 1 => {
                writeln!(labels, "{indent}  {}: {}", quoted(key), quoted(&values[0]))
            }
            Requirement::In(key, values) => expression(key, "In", values, indent, &mut expressions),
            Requirement::NotIn(key, values) => {
                expression(key, "NotIn", values, indent, &mut expressions)
            }
            Requirement::Exists(key) => expression(key, "Exists", &[], indent, &mut expressions),
            Requirement::Absent(key) => {
                expression(key, "DoesNotExist", &[], indent, &mut expressions)
            }
        };
    }
    if labels.is_empty() && expressions.is_empty() {
        // An empty selector is all; an absent one would be nothing of the kind.
        let _ = writeln!(text, "{indent}matchLabels: {{}}");
    }
    if !labels.is_empty() {
        let _ = write!(text, "{indent}matchLabels:\n{labels}");
    }
    if !expressions.is_empty() {
        let _ = write!(text, "{indent}matchExpressions:\n{expressions}");
    }
}

fn expression(
    key: &str,
    operator: &str,
    values: &[Arc<str>],
    indent: &str,
    text: &mut String,
) -> std::fmt::Result {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    let values = match values.is_empty() {
        true => String::new(),
        false => format!(", values: [{}]", values.join(", ")),
    };
    let key = quoted(key);
    writeln!(
        text,
        "{indent}  - {{ key: {key}, operator: {operator}{values} }}"
    )
}

/// Text in quotes, as JSON and YAML both read it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

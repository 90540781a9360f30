//! Sets of policies one after the other in one running cluster: every cell, and connections that live through them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, root};

/// How long a change may take to be in force, and a connection to notice that it is allowed again.
const PATIENCE: Duration = Duration::from_secs(20);

fn v4(address: &str) -> bool {
    !address.contains(':')
}

fn v6(address: &str) -> bool {
    address.contains(':')
}

/// In which no answer comes on a connection that is cut: answers take a millisecond.
const SILENCE: Duration = Duration::from_millis(300);

/// A policy that would deny everything, but is only observed; its name says which set is in force.
fn marker(number: usize) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: set-{number}, namespace: x, annotations: {{ podway.dev/mode: observe }} }}\nspec: {{ podSelector: {{}}, policyTypes: [Ingress, Egress] }}\n"
    )
}

/// A directory of manifests that loses what it has with this value.
struct Manifests(PathBuf);

impl Manifests {
    fn new(test: &str) -> Manifests {
        let name = format!("podway-test-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory");
        let cluster = root().join("tests/manifests/policies/cluster.yaml");
        fs::copy(cluster, directory.join("cluster.yaml")).expect("a copy");
        Manifests(directory)
    }

    /// Replaces the policies by those of a set.
    fn set(&self, number: usize, file: &Path) {
        let text = fs::read_to_string(file).expect("a set of policies");
        let whole = format!("{text}\n{}", marker(number));
        // In one step, as an editor does: a reader never sees half a file.
        let new = self.0.join("policies.yaml.new");
        fs::write(&new, whole).expect("written");
        fs::rename(new, self.0.join("policies.yaml")).expect("renamed");
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// True if an agent judges by the set with this number.
fn is_in_force(lab: &Lab, node: &str, number: usize) -> bool {
    let name = format!("x/set-{number}");
    let shown = lab.show(node, "policies");
    let rows = shown.as_array().expect("rows").iter();
    let mut rules = rows.flat_map(|row| row["rules"].as_array().expect("rules"));
    rules.any(|rule| rule["policy"] == *name && rule["hits"].is_u64())
}

/// A connection that is made once and then used for as long as it lasts.
struct Connection {
    from: &'static str,
    to: &'static str,
    address: String,
    port: u16,
    protocol: &'static str,
    file: PathBuf,
    process: Child,
}

impl Connection {
    fn open(
        lab: &Lab,
        folder: &Path,
        (from, to): (&'static str, &'static str),
        is_family: fn(&str) -> bool,
        (protocol, port): (&'static str, u16),
    ) -> Connection {
        let address = lab.address(to, is_family);
        let file = folder.join(format!(
            "{protocol}-{}-{address}.count",
            from.replace('/', "-")
        ));
        let script = include_str!("stays.py");
        let (port_text, path) = (port.to_string(), file.to_str().expect("UTF-8"));
        let process = lab.spawn(
            from,
            &[
                "python3", "-c", script, &address, &port_text, protocol, path,
            ],
        );
        Connection {
            from,
            to,
            address,
            port,
            protocol,
            file,
            process,
        }
    }

    /// How many answers came so far.
    fn answers(&self) -> u64 {
        match fs::read_to_string(&self.file) {
            Ok(text) => text.parse().expect("a number"),
            // None came yet.
            Err(_) => 0,
        }
    }

    fn moves(&self) -> bool {
        // Two answers: the first may have been on its way.
        let before = self.answers();
        eventually(PATIENCE, || self.answers() > before + 1)
    }

    /// What the manifests say of it, by a report that holds its cell.
    fn is_open(&self, report: &Value) -> bool {
        let mut cells = report["cells"].as_array().expect("cells").iter();
        let cell = cells.find(|cell| {
            cell["from"] == self.from
                && cell["to"] == self.to
                && cell["address"] == *self.address
                && cell["port"] == self.port
                && cell["protocol"] == self.protocol
        });
        cell.expect("its cell")["expected"] == "open"
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// N1-N10, N12-N14, N16, A1-A5 and dry run, v4 and v6, TCP and UDP, on one node and across two.
#[test]
fn n12_every_cell_of_thirty_sets_of_policies_is_right_while_connections_live_through_them() {
    if !podway_needs::root() {
        return;
    }
    let manifests = Manifests::new("policies");
    let sets = fs::read_dir(root().join("tests/manifests/policies/sets")).expect("sets");
    let mut sets: Vec<PathBuf> = sets.map(|set| set.expect("an entry").path()).collect();
    sets.sort();
    manifests.set(0, &sets[0]);
    let lab = Lab::up(&manifests.0);
    let open = |ends, family, target| Connection::open(&lab, &manifests.0, ends, family, target);
    let connections = [
        open(("x/a", "y/a"), v4, ("tcp", 80)),
        open(("x/a", "y/b"), v6, ("tcp", 80)),
        open(("z/a", "x/a"), v4, ("udp", 80)),
        open(("y/b", "x/b"), v6, ("udp", 81)),
        open(("y/a", "x/b"), v4, ("tcp", 81)),
    ];
    for connection in &connections {
        assert!(
            connection.moves(),
            "{} to {}",
            connection.from,
            connection.to
        );
    }
    let mut wrong: Vec<String> = Vec::new();
    let (mut count, mut cut, mut mended) = (0, 0, 0);
    let mut was_open = vec![true; connections.len()];
    for (number, file) in sets.iter().enumerate().skip(1) {
        let set = file.file_stem().expect("a name").to_string_lossy();
        manifests.set(number, file);
        for node in ["node1", "node2"] {
            let in_force = eventually(PATIENCE, || is_in_force(&lab, node, number));
            assert!(in_force, "{set} at {node}: {}", lab.show(node, "status"));
        }
        let before: Vec<u64> = connections.iter().map(Connection::answers).collect();
        std::thread::sleep(SILENCE);
        let after: Vec<u64> = connections.iter().map(Connection::answers).collect();
        let report = lab.check();
        let cells = report["cells"].as_array().expect("cells");
        count += cells.len();
        let differ = cells.iter().filter(|cell| cell["expected"] != cell["seen"]);
        wrong.extend(differ.map(|cell| format!("{set}: {cell}")));
        for (index, connection) in connections.iter().enumerate() {
            let Connection {
                from, to, protocol, ..
            } = connection;
            let is_open = connection.is_open(&report);
            // One answer may have been on its way when the tables came.
            if !is_open && after[index] > before[index] + 1 {
                let answers = after[index] - before[index];
                wrong.push(format!(
                    "{set}: {protocol} {from} to {to} had {answers} answers"
                ));
            }
            if is_open && !connection.moves() {
                wrong.push(format!("{set}: {protocol} {from} to {to} is silent"));
            }
            cut += usize::from(was_open[index] && !is_open);
            mended += usize::from(!was_open[index] && is_open);
            was_open[index] = is_open;
        }
    }
    println!(
        "{} sets, {count} cells, {cut} connections cut and {mended} mended, {} wrong",
        sets.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 300 * (sets.len() - 1) && cut > 10 && mended > 10);
    drop(connections);
}

//! `podway show`: asks a running agent and prints what it says.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use podway_cni::agent::{AgentError, ask};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arguments::Output;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What an agent can be asked to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Service ports and their backends.
    Services,
    /// Pods of this node.
    Endpoints,
    /// What policies say of each pod of this node, by direction.
    Policies,
    /// Remembered flows, at most 10000 of them.
    Flows,
    /// Devices of the dataplane and what passed them.
    Ports,
    /// What was counted: by the XDP program, the engine and the edge.
    Counters,
    /// How the agent does: tables in force, sources, workers.
    Status,
}

/// What is sent to the agent.
#[derive(Serialize)]
struct Question {
    show: Topic,
}

/// Asks the agent and gives what is to be printed.
pub fn show(topic: Topic, socket: &Path, output: Output) -> Result<String, AgentError> {
    let answer = ask(socket, &Question { show: topic }, ANSWER_WITHIN)?;
    Ok(match output {
        Output::Json => answer.to_string(),
        Output::Table => table(topic, &answer),
    })
}

fn table(topic: Topic, answer: &Value) -> String {
    let columns: &[&str] = match topic {
        Topic::Services => &[
            "service",
            "address",
            "port",
            "protocol",
            "backends",
            "external_addresses",
            "external_backends",
            "internal_policy",
            "external_policy",
            "affinity_s",
        ],
        Topic::Endpoints => &["pod", "addresses", "mac", "mtu", "port", "interface"],
        Topic::Policies => return policies(answer),
        Topic::Flows => &[
            "protocol",
            "source",
            "target",
            "translated_source",
            "translated_target",
            "answered",
            "idle_ms",
            "service",
            "route",
        ],
        Topic::Ports => &[
            "port",
            "name",
            "interface",
            "binding",
            "rx_packets",
            "rx_bytes",
            "tx_packets",
            "tx_bytes",
            "ring_full",
            "why",
        ],
        Topic::Counters => return counters(answer),
        Topic::Status => return status(answer),
    };
    let (rows, rest) = match answer.as_array() {
        Some(rows) => (rows.as_slice(), String::new()),
        None => (
            answer["flows"].as_array().map_or(&[][..], Vec::as_slice),
            format!("{} flows\n", cell(&answer["total"])),
        ),
    };
    let rows = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(&row[*column])).collect())
        .collect();
    aligned(columns, rows) + &rest
}

/// A row for each rule, and under them one for each flow that an observed policy would have stopped.
fn policies(answer: &Value) -> String {
    let rows = |list: &'static str| {
        let all = answer.as_array().into_iter().flatten();
        all.flat_map(move |row| {
            let items = row[list].as_array().into_iter().flatten();
            items.map(move |item| (row, item))
        })
    };
    let mut rules = Vec::new();
    for row in answer.as_array().into_iter().flatten() {
        let head = [cell(&row["pod"]), cell(&row["direction"])];
        let items = row["rules"].as_array().into_iter().flatten();
        for rule in items {
            let columns = ["rule", "action", "mode", "hits"].map(|column| cell(&rule[column]));
            rules.push(head.iter().cloned().chain(columns).collect());
        }
        let last = match row["isolated"].as_bool() {
            Some(true) => ["no rule matches", "deny", "enforce"],
            Some(false) | None => ["no rule matches", "allow", "-"],
        };
        let last = last.map(str::to_owned).into_iter();
        let hits = [cell(&row["isolation_hits"])];
        rules.push(head.into_iter().chain(last).chain(hits).collect());
    }
    let mut text = aligned(
        &["pod", "direction", "rule", "action", "mode", "hits"],
        rules,
    );
    let columns = ["rule", "protocol", "source", "target", "times", "ago_ms"];
    let flows: Vec<Vec<String>> = rows("would_deny")
        .map(|(row, flow)| {
            let cells = columns.iter().map(|column| cell(&flow[*column]));
            [cell(&row["pod"])].into_iter().chain(cells).collect()
        })
        .collect();
    if !flows.is_empty() {
        let heads: Vec<&str> = ["pod", "would_deny"]
            .into_iter()
            .chain(columns.into_iter().skip(1))
            .collect();
        text += "\n";
        text += &aligned(&heads, flows);
    }
    text
}

fn counters(answer: &Value) -> String {
    let mut rows = Vec::new();
    for (group, counters) in answer.as_object().into_iter().flatten() {
        for (name, value) in counters.as_object().into_iter().flatten() {
            match value.as_object() {
                // Of each port, and of each worker.
                Some(own) => {
                    let part = format!("{group} {name}");
                    let counters = own.iter().filter(|(_, value)| is_counted(value));
                    rows.extend(
                        counters.map(|(name, value)| vec![part.clone(), name.clone(), cell(value)]),
                    );
                }
                None if is_counted(value) => {
                    rows.push(vec![group.clone(), name.clone(), cell(value)])
                }
                None => {}
            }
        }
    }
    aligned(&["part", "counter", "value"], rows)
}

fn is_counted(value: &Value) -> bool {
    value.as_f64() != Some(0.0)
}

fn status(answer: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", answer, &mut rows);
    aligned(&["what", "value"], rows)
}

fn flatten(prefix: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let name = |key: &str| match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    };
    match value {
        Value::Object(fields) => {
            // Histograms' buckets are for programs; people have the quantiles beside them.
            for (key, value) in fields.iter().filter(|(key, _)| *key != "buckets") {
                flatten(&name(key), value, rows);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&name(&index.to_string()), value, rows);
            }
        }
        Value::Array(items) if items.is_empty() => rows.push(vec![prefix.to_owned(), "-".into()]),
        Value::Array(items) => {
            for item in items {
                rows.push(vec![prefix.to_owned(), cell(item)]);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            rows.push(vec![prefix.to_owned(), cell(value)]);
        }
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// Rows under their heads, columns as wide as their widest cell.
pub(crate) fn aligned(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let heads: Vec<String> = heads
        .iter()
        .map(|head| head.replace('_', " ").to_uppercase())
        .collect();
    let width = |column: usize| {
        rows.iter()
            .chain([&heads])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in [&heads].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_aligned_under_their_heads() {
        let answer = json!([
            {"service": "shop/web:http", "address": "10.96.0.10", "port": 80, "protocol": "tcp", "backends": ["10.244.1.2:8080", "10.244.2.2:8080"],
             "external_addresses": ["node-port 10.0.0.1:30080"], "external_backends": ["10.244.1.2:8080"], "internal_policy": "cluster", "external_policy": "local", "affinity_s": 60},
            {"service": "a/b:1", "address": "fd96::1", "port": 1, "protocol": "udp", "backends": [],
             "external_addresses": [], "external_backends": [], "internal_policy": "local", "external_policy": "cluster", "affinity_s": null},
        ]);
        assert_eq!(
            table(Topic::Services, &answer),
            "SERVICE        ADDRESS     PORT  PROTOCOL  BACKENDS                         EXTERNAL ADDRESSES        EXTERNAL BACKENDS  INTERNAL POLICY  EXTERNAL POLICY  AFFINITY S\n\
             shop/web:http  10.96.0.10  80    tcp       10.244.1.2:8080,10.244.2.2:8080  node-port 10.0.0.1:30080  10.244.1.2:8080    cluster          local            60\n\
             a/b:1          fd96::1     1     udp       -                                -                         -                  local            cluster          -\n"
        );
    }

    #[test]
    fn rules_are_told_with_their_hits_and_a_dry_run_with_its_flows() {
        let rule = |rule, action, mode, hits| json!({"rule": rule, "policy": "shop/p", "action": action, "mode": mode, "hits": hits});
        let flow = json!({"policy": "shop/trial", "rule": "shop/trial ingress isolation", "protocol": "tcp",
            "source": "10.0.0.1:4000", "target": "10.0.0.2:80", "times": 2, "ago_ms": 30});
        let answer = json!([
            {"pod": "shop/web", "direction": "ingress", "isolated": true, "policies": ["shop/p", "shop/trial"], "observed": ["shop/trial"],
             "rules": [rule("shop/p ingress[0]", "allow", "enforce", 7), rule("shop/trial ingress isolation", "deny", "observe", 2)],
             "isolation_hits": 3, "would_deny": [flow]},
            {"pod": "shop/web", "direction": "egress", "isolated": false, "policies": [], "observed": [], "rules": [],
             "isolation_hits": 0, "would_deny": []},
        ]);
        assert_eq!(
            table(Topic::Policies, &answer),
            "POD       DIRECTION  RULE                          ACTION  MODE     HITS\n\
             shop/web  ingress    shop/p ingress[0]             allow   enforce  7\n\
             shop/web  ingress    shop/trial ingress isolation  deny    observe  2\n\
             shop/web  ingress    no rule matches               deny    enforce  3\n\
             shop/web  egress     no rule matches               allow   -        0\n\
             \n\
             POD       WOULD DENY                    PROTOCOL  SOURCE         TARGET       TIMES  AGO MS\n\
             shop/web  shop/trial ingress isolation  tcp       10.0.0.1:4000  10.0.0.2:80  2      30\n"
        );
    }

    #[test]
    fn zero_counters_are_left_out_for_people() {
        let answer = json!({
            "engine": {"received": 3, "drop/spoofed": 0},
            "ports": {"pod:shop/web": {"packets-a-poll": 1.5, "packets-a-sendto": 0.0, "ring-full": 0}},
            "workers": {"0": {"busy": 0.25}},
            "xdp": {"pod": 3},
        });
        assert_eq!(
            table(Topic::Counters, &answer),
            "PART                COUNTER         VALUE\n\
             engine              received        3\n\
             ports pod:shop/web  packets-a-poll  1.5\n\
             workers 0           busy            0.25\n\
             xdp                 pod             3\n"
        );
    }

    #[test]
    fn status_is_flat_for_people() {
        let latency = json!({"count": 3, "buckets": [{"at_most_us": 1, "count": 3}]});
        let answer = json!({"node": "n1", "workers": [{"busy": 0.5}], "problems": [], "in_force": true, "latency": latency});
        assert_eq!(
            table(Topic::Status, &answer),
            "WHAT            VALUE\nin_force        yes\nlatency.count   3\nnode            n1\nproblems        -\nworkers.0.busy  0.5\n"
        );
    }
}

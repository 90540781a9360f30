//! What `podway show policies` is answered: the rules of each pod, how often each decided, and what a dry run found.

use std::collections::HashMap;
use std::sync::Arc;

use podway_engine::{Cause, Hits, Observed};
use podway_intent::{
    ClusterAction, Effective, Name, Names, PolicyMode, PolicyName, RuleName, RulePlace,
};
use podway_tables::{Direction, EndpointId, RuleId};
use serde_json::{Value, json};

use super::Agent;
use super::clock::{boot_ns, flow_ms};
use super::report::side_text;

/// The workers' counts since ids mean what they now mean: ids are used again, counters only grow.
pub(super) struct HitsByName {
    hits: Arc<Hits>,
    /// What was counted already when an id got its meaning.
    before: HashMap<Cause, u64>,
}

impl HitsByName {
    pub(super) fn new(hits: Arc<Hits>) -> HitsByName {
        HitsByName {
            hits,
            before: HashMap::new(),
        }
    }

    /// Starts anew for the ids that mean something else in tables which are about to be published.
    pub(super) fn rename(&mut self, before: &Names, now: &Names) {
        let rules = now.renamed_rules(before);
        let rules = rules.flat_map(|id| [Cause::Rule(id), Cause::Observed(id)]);
        let endpoints = now.renamed_endpoints(before);
        let isolation = endpoints.flat_map(|id| {
            [Direction::Ingress, Direction::Egress].map(|it| Cause::Isolation(id, it))
        });
        for cause in rules.chain(isolation) {
            self.before
                .extend(self.hits.of(cause).map(|count| (cause, count)));
        }
    }

    /// How often something decided; `None` if there is no room to count it.
    fn of(&self, cause: Cause) -> Option<u64> {
        let before = self.before.get(&cause).copied().unwrap_or(0);
        Some(self.hits.of(cause)?.saturating_sub(before))
    }
}

/// The ids of rules by their names.
type Ids<'a> = HashMap<&'a RuleName, RuleId>;

impl Agent {
    /// A row for each pod and direction.
    pub(super) async fn policies(&self) -> Value {
        let mut observed = Vec::new();
        for worker in self.room.workers() {
            match worker.observed().await {
                Ok(flows) => observed.extend(flows),
                Err(error) => tracing::warn!(%error, "a worker does not say what it observed"),
            }
        }
        // The last ones first.
        let compiled = &self.shown().compiled;
        let now_ms = flow_ms(boot_ns());
        observed.sort_by_key(|flow| now_ms.wrapping_sub(flow.seen_ms));
        let names = &compiled.names;
        let ids: Ids<'_> = names.rules().map(|(id, name)| (name, id)).collect();
        let mut rows = Vec::new();
        for (id, endpoint) in (0..).map(EndpointId).zip(&compiled.snapshot.endpoints) {
            let (Some(_), Some(pod)) = (endpoint, names.endpoint(id)) else {
                continue;
            };
            for direction in [Direction::Ingress, Direction::Egress] {
                let flows = observed.iter();
                let flows = flows.filter(|it| (it.endpoint, it.direction) == (id, direction));
                let flows: Vec<Value> = flows
                    .filter_map(|it| would_deny(names, it, now_ms))
                    .collect();
                rows.push(self.pod_policies((pod, id), direction, &ids, flows));
            }
        }
        Value::Array(rows)
    }

    fn pod_policies(
        &self,
        (pod, id): (&Name, EndpointId),
        direction: Direction,
        ids: &Ids<'_>,
        would_deny: Vec<Value>,
    ) -> Value {
        let effective = self.facts.cluster().effective(pod, direction);
        let named = |policies: &[&Effective]| -> Vec<String> {
            policies.iter().map(|it| it.policy.to_string()).collect()
        };
        let all: Vec<&Effective> = effective.iter().collect();
        let of_mode = |mode| -> Vec<&Effective> {
            let all = effective.iter();
            all.filter(|it| it.mode == mode).collect()
        };
        let rules = effective.iter().flat_map(|policy| {
            let isolation = self.isolation(policy, direction);
            policy
                .rules
                .iter()
                .cloned()
                .chain(isolation)
                .map(|rule| self.rule(policy, &rule, ids))
        });
        json!({
            "pod": pod.to_string(),
            "direction": match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            "isolated": effective.iter().any(Effective::isolates),
            "policies": named(&all),
            "observed": named(&of_mode(PolicyMode::Observe)),
            "rules": rules.collect::<Vec<_>>(),
            "isolation_hits": self.room.hits.of(Cause::Isolation(id, direction)),
            "would_deny": would_deny,
        })
    }

    /// The isolation of an observed policy, which has a count of its own; what is in force counts by pod.
    fn isolation(&self, policy: &Effective, direction: Direction) -> Option<RuleName> {
        let observed = policy.mode == PolicyMode::Observe;
        let isolates = observed && matches!(policy.policy, PolicyName::Namespaced(_));
        isolates.then(|| RuleName {
            policy: policy.policy.clone(),
            direction,
            place: RulePlace::Isolation,
        })
    }

    fn rule(&self, policy: &Effective, rule: &RuleName, ids: &Ids<'_>) -> Value {
        let (mode, cause): (_, fn(RuleId) -> Cause) = match policy.mode {
            PolicyMode::Enforce => ("enforce", Cause::Rule),
            PolicyMode::Observe => ("observe", Cause::Observed),
        };
        let id = ids.get(rule).copied();
        json!({
            "rule": rule.to_string(),
            "policy": policy.policy.to_string(),
            "action": self.action(rule),
            "mode": mode,
            "hits": id.and_then(|id| self.room.hits.of(cause(id))),
        })
    }

    fn action(&self, rule: &RuleName) -> Option<&'static str> {
        let index = match rule.place {
            RulePlace::Isolation => return Some("deny"),
            RulePlace::Rule(index) => index as usize,
        };
        let PolicyName::Cluster(_, name) = &rule.policy else {
            return Some("allow");
        };
        let policy = self.facts.cluster().cluster_policy(name)?;
        let rules = match rule.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        Some(match rules.get(index)?.action {
            ClusterAction::Accept => "accept",
            ClusterAction::Deny => "deny",
            ClusterAction::Pass => "pass",
        })
    }
}

/// A flow that an observed policy would have stopped; `None` if the policy is gone.
fn would_deny(names: &Names, flow: &Observed, now_ms: u32) -> Option<Value> {
    let rule = names.rule(flow.rule)?;
    let key = &flow.key;
    Some(json!({
        "policy": rule.policy.to_string(),
        "rule": rule.to_string(),
        "protocol": key.protocol.to_string(),
        "source": side_text(&key.source, key.source_port, key.protocol),
        "target": side_text(&key.target, key.target_port, key.protocol),
        "times": flow.times,
        "ago_ms": now_ms.wrapping_sub(flow.seen_ms).cast_signed().max(0),
    }))
}

//! What became of a packet, in the words of the contract.

use podway_engine::{Decision, DropReason, Packet, Reply, Stop, Verdict};
use podway_intent::Effective;
use podway_tables::{Direction, EndpointId, Hop, Judgement};
use podway_wire::icmp::IcmpError;
use podway_wire::{Content, Frame, Parsed, vxlan};
use serde::Serialize;
use serde_json::Value;

use super::{Explainer, Question};
use crate::agent::{endpoint_text, mode_of};

/// The answer to a [`Question`]; its JSON keys are stable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The question's.
    pub id: Value,
    /// `forward`, `drop` or `reject`.
    pub verdict: &'static str,
    /// Why: `forwarded`, what answered, or a drop reason as counters name it.
    pub reason: &'static str,
    /// The service port as `ns/name:port`.
    pub service: Option<String>,
    /// The backend that this packet is given, as `ip:port`.
    pub backend: Option<String>,
    /// All backends that it could be given.
    pub candidates: Vec<String>,
    /// The source address as the backend sees it.
    pub source: String,
    /// `pod:NS/NAME`, `node:NAME`, `uplink` or `host`.
    pub egress: Option<String>,
    /// What policies say.
    pub policy: PolicyAnswer,
    /// What happened, in order, for people.
    pub steps: Vec<String>,
}

/// What policies say of a connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyAnswer {
    /// Of the source pod, if it is on this node: `allow`, `deny` or `none`.
    pub egress: &'static str,
    /// Of the target pod, if it is on this node.
    pub ingress: &'static str,
    /// The objects that decided.
    pub by: Vec<String>,
}

/// What the policies of one end say.
struct Judged {
    word: &'static str,
    policies: Vec<String>,
    rules: Vec<String>,
}

impl Default for Judged {
    fn default() -> Judged {
        Judged {
            word: "none",
            policies: Vec::new(),
            rules: Vec::new(),
        }
    }
}

impl Answer {
    /// The answer as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and lists")
    }
}

impl Explainer {
    pub(super) fn answer(
        &self,
        question: &Question,
        packet: &Packet<'_>,
        decision: Option<&Decision>,
    ) -> Answer {
        let (verdict, reason) = verdict(packet.verdict, decision);
        let seen = match (verdict, decision) {
            (
                "forward",
                Some(Decision {
                    outcome: Ok(()), ..
                }),
            ) => self.sent(&packet.frame),
            _ => None,
        };
        let source = seen.map_or(question.source, |parsed| parsed.key.source.ip());
        let service = decision.and_then(|decision| decision.service);
        let candidates = decision.map_or(&[][..], |it| it.candidates(&self.compiled.snapshot));
        let mut answer = Answer {
            id: question.id.clone(),
            verdict,
            reason,
            service: service
                .and_then(|id| self.compiled.names.service(id))
                .map(str::to_owned),
            backend: decision
                .and_then(|decision| decision.backend)
                .map(|it| endpoint_text(&it.addr, it.port)),
            candidates: candidates
                .iter()
                .map(|it| endpoint_text(&it.addr, it.port))
                .collect(),
            source: source.to_string(),
            egress: match verdict {
                "forward" => decision.and_then(|decision| self.egress(decision)),
                _ => None,
            },
            policy: self.policy(decision),
            steps: Vec::new(),
        };
        answer.steps = self.steps(question, decision, &answer);
        answer
    }

    /// The headers of the packet as its receiver gets it: out of the tunnel, if it was put into one.
    fn sent(&self, frame: &Frame<'_>) -> Option<Parsed> {
        let outer = ip_of(frame)?;
        let tunnelled = outer.key.target_port == self.compiled.snapshot.node.tunnel_port
            && self
                .compiled
                .snapshot
                .node
                .addresses
                .contains(&outer.key.source);
        if !tunnelled {
            return Some(outer);
        }
        let headers = vxlan::open(frame.bytes(), &outer).ok()?.headers;
        let mut inner = frame.bytes()[headers..].to_vec();
        let length = inner.len();
        ip_of(&Frame::new(&mut inner, 0, length, 0)?)
    }

    fn egress(&self, decision: &Decision) -> Option<String> {
        let names = &self.compiled.names;
        match decision.hop? {
            Hop::Endpoint(id) => names.endpoint(id).map(|pod| format!("pod:{pod}")),
            Hop::Peer(id) => names.peer(id).map(|node| format!("node:{node}")),
            Hop::Host => Some("host".to_owned()),
            Hop::World(_) => Some("uplink".to_owned()),
            // The gateway answers by itself.
            Hop::Gateway | Hop::Unallocated => None,
        }
    }

    /// How the packet gets to another node, if it goes there.
    fn way(&self, decision: &Decision) -> Option<String> {
        let id = match decision.hop? {
            Hop::Peer(id) => id,
            Hop::Endpoint(_) | Hop::Host | Hop::World(_) | Hop::Gateway | Hop::Unallocated => {
                return None;
            }
        };
        let node = self.compiled.names.peer(id)?;
        let mode = mode_of(self.compiled.snapshot.peer(id)?.via);
        Some(format!("{mode} to {node}"))
    }

    fn policy(&self, decision: Option<&Decision>) -> PolicyAnswer {
        let sides = decision.map(|it| self.judged(it)).unwrap_or_default();
        let [egress, ingress] = &sides;
        PolicyAnswer {
            egress: egress.word,
            ingress: ingress.word,
            by: sides
                .iter()
                .flat_map(|side| side.policies.clone())
                .collect(),
        }
    }

    /// What the source's and the target's policies say.
    fn judged(&self, decision: &Decision) -> [Judged; 2] {
        let source = decision.source_endpoint();
        let target = decision.target_endpoint();
        [
            self.side(decision.egress, source, Direction::Egress),
            self.side(decision.ingress, target, Direction::Ingress),
        ]
    }

    fn side(
        &self,
        judgement: Judgement,
        endpoint: Option<EndpointId>,
        direction: Direction,
    ) -> Judged {
        let rule = |word, id| {
            let rule = self.compiled.names.rule(id);
            Judged {
                word,
                policies: rule.iter().map(|it| it.policy.to_string()).collect(),
                rules: rule.iter().map(ToString::to_string).collect(),
            }
        };
        match judgement {
            Judgement::None => Judged::default(),
            Judgement::Allow(id) => rule("allow", id),
            Judgement::Deny(Some(id)) => rule("deny", id),
            Judgement::Deny(None) => {
                let pod = endpoint.and_then(|id| self.compiled.names.endpoint(id));
                let policies: Vec<String> = pod
                    .into_iter()
                    .flat_map(|pod| self.cluster.effective(pod, direction))
                    .filter(Effective::isolates)
                    .map(|it| it.policy.to_string())
                    .collect();
                Judged {
                    word: "deny",
                    rules: vec![format!(
                        "the isolation of {}, no rule matches",
                        policies.join(", ")
                    )],
                    policies,
                }
            }
        }
    }

    fn steps(
        &self,
        question: &Question,
        decision: Option<&Decision>,
        answer: &Answer,
    ) -> Vec<String> {
        let mut steps = vec![match decision {
            Some(decision) => format!("received {}", decision.original),
            None => format!("received from {} to {}", question.source, question.target),
        }];
        if let Some(decision) = decision {
            match (&answer.service, &answer.backend) {
                (Some(service), Some(backend)) => {
                    steps.push(format!("service {service}: backend {backend}"));
                }
                (Some(service), None) => steps.push(format!("service {service}: no backend")),
                (None, _) => steps.push("no service".to_owned()),
            }
            for (direction, side) in ["egress", "ingress"].iter().zip(self.judged(decision)) {
                if side.word != "none" {
                    let rules = side.rules.join(", ");
                    steps.push(format!("{direction} policy: {} by {rules}", side.word));
                }
            }
            if decision.translated != decision.original {
                steps.push(format!("translated to {}", decision.translated));
            }
        }
        let way = decision.and_then(|decision| self.way(decision));
        steps.push(match (way, &answer.egress) {
            (Some(way), Some(_)) => format!("{}: {way}", answer.verdict),
            (None, Some(egress)) => format!("{}: to {egress}", answer.verdict),
            (_, None) => format!("{}: {}", answer.verdict, answer.reason),
        });
        steps
    }
}

fn verdict(verdict: Verdict, decision: Option<&Decision>) -> (&'static str, &'static str) {
    match (verdict, decision.map(|decision| decision.outcome)) {
        (_, Some(Err(Stop::Reply(Reply::Error(IcmpError::PortUnreachable))))) => {
            ("reject", "port-unreachable")
        }
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Echo)))) => ("forward", "gateway-echo"),
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Error(IcmpError::NetUnreachable))))) => {
            ("reject", "net-unreachable")
        }
        (
            Verdict::Transmit(_),
            Some(Err(Stop::Reply(Reply::Error(
                IcmpError::HostUnreachable | IcmpError::AddressUnreachable,
            )))),
        ) => ("reject", "host-unreachable"),
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Error(IcmpError::Prohibited))))) => {
            ("reject", "prohibited")
        }
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Error(IcmpError::TimeExceeded))))) => {
            ("drop", "ttl-expired")
        }
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Error(IcmpError::TooBig { .. }))))) => {
            ("drop", "too-big")
        }
        (Verdict::Transmit(_), Some(Err(Stop::Reply(Reply::Reset)))) => ("reject", "tcp-reset"),
        (Verdict::Transmit(_), Some(Ok(()) | Err(Stop::Drop(_))) | None) => {
            ("forward", "forwarded")
        }
        (Verdict::Drop(reason), _) => ("drop", reason.name()),
        // A question is about a whole packet: that waits for a neighbour alone, and nobody here will find it.
        (Verdict::Waits, _) => ("drop", DropReason::NoNeighbour.name()),
    }
}

fn ip_of(frame: &Frame<'_>) -> Option<Parsed> {
    match Parsed::frame(frame) {
        Ok(Content::Ip(parsed)) => Some(parsed),
        Ok(Content::Arp) | Err(_) => None,
    }
}

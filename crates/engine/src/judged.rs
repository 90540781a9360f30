//! Who is counted for a decision, and what observed policies would have made of it.

use std::cell::RefCell;

use podway_tables::{Direction, EndpointId, Judgement};
use podway_wire::FlowKey;

use crate::decide::{Decision, Question, egress_question, ingress_question};
use crate::engine::Moment;
use crate::hits::OwnHits;
use crate::observed::{LastObserved, Noted};
use crate::{Cause, Observed};

/// What a worker tells of its decisions.
pub(crate) struct Judged {
    hits: OwnHits,
    last: RefCell<LastObserved>,
}

impl Judged {
    pub(crate) fn new(hits: OwnHits) -> Judged {
        Judged {
            hits,
            last: RefCell::new(LastObserved::new()),
        }
    }

    pub(crate) fn observed(&self) -> Vec<Observed> {
        self.last.borrow().iter().copied().collect()
    }

    /// Counts for a packet that nothing is remembered for.
    pub(crate) fn first(&self, moment: Moment<'_>, decision: &Decision) {
        for (direction, judgement) in sides(decision) {
            let cause = match judgement {
                Judgement::None => None,
                Judgement::Allow(rule) => Some(Cause::Rule(rule)),
                Judgement::Deny(_) => denial(decision, direction, judgement),
            };
            self.count(cause);
        }
        self.observe(moment, decision, |_| true);
    }

    /// Counts for a live flow that was judged again: only what is new, that it stops or would have stopped.
    #[cold]
    pub(crate) fn again(&self, moment: Moment<'_>, decision: &Decision) {
        for (direction, judgement) in sides(decision) {
            self.count(denial(decision, direction, judgement));
        }
        self.observe(moment, decision, |noted| noted == Noted::Anew);
    }

    /// Notes by which observed policies a flow that goes through would have stopped, and counts it if it `counts`.
    fn observe(&self, moment: Moment<'_>, decision: &Decision, counts: fn(Noted) -> bool) {
        if decision.outcome.is_err() {
            return;
        }
        let Moment { snapshot, now_ms } = moment;
        let questions = [
            egress_question(decision),
            ingress_question(snapshot, decision),
        ];
        for question in questions.into_iter().flatten() {
            let Question {
                endpoint,
                direction,
                ..
            } = question;
            let Some(rule) = question.observe(snapshot) else {
                continue;
            };
            let noted = self.last.borrow_mut().note(Observed {
                key: FlowKey {
                    source: decision.original.source,
                    source_port: decision.original.source_port,
                    ..decision.translated
                },
                endpoint,
                direction,
                rule,
                times: 1,
                seen_ms: now_ms,
            });
            self.count(counts(noted).then_some(Cause::Observed(rule)));
        }
    }

    fn count(&self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            self.hits.count(cause);
        }
    }
}

fn sides(decision: &Decision) -> [(Direction, Judgement); 2] {
    [
        (Direction::Egress, decision.egress),
        (Direction::Ingress, decision.ingress),
    ]
}

/// What stopped a packet, if policy did.
fn denial(decision: &Decision, direction: Direction, judgement: Judgement) -> Option<Cause> {
    let endpoint: Option<EndpointId> = match direction {
        Direction::Egress => decision.source_endpoint(),
        Direction::Ingress => decision.target_endpoint(),
    };
    match judgement {
        Judgement::None | Judgement::Allow(_) => None,
        Judgement::Deny(Some(rule)) => Some(Cause::Rule(rule)),
        Judgement::Deny(None) => Some(Cause::Isolation(endpoint?, direction)),
    }
}

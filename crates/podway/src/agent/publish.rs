//! From facts to tables in force.

use std::time::Duration;

use podway_intent::Compiled;
use podway_xsk::{Plan, RedirectError};
use tokio::time::Instant;

use super::{Agent, AgentError, wanted};

/// How long workers may take to go on to new tables.
const REACH: Duration = Duration::from_secs(2);

impl Agent {
    /// Compiles the facts and puts them in force: workers know what is ours before the XDP program redirects it,
    /// and it stops redirecting what is ours no longer before they forget it.
    pub(super) async fn publish(&mut self) -> Result<(), AgentError> {
        let began = Instant::now();
        let compiled = self.compiler.compile(&self.cluster);
        let plan = wanted::plan(&compiled.plan);
        self.redirect_as(wanted::common(&self.plan, &plan))?;
        self.hits.rename(&self.compiled.names, &compiled.names);
        let number = self.publication.publish(compiled.snapshot.clone());
        let before = std::mem::replace(&mut self.compiled, compiled);
        self.reached(number).await?;
        self.programming.reached();
        self.redirect_as(plan)?;
        self.publication.collect();
        self.stale.clear();
        self.health
            .tell(|told| told.cluster.clone_from(&self.cluster));
        if before.problems != self.compiled.problems {
            for problem in &self.compiled.problems {
                tracing::warn!(%problem, "objects contradict each other");
            }
        }
        tracing::debug!(
            sequence = self.compiled.snapshot.sequence,
            took_us = began.elapsed().as_micros() as u64,
            "tables in force"
        );
        // Nodes and services may have come or gone: routes, next hops and health ports follow.
        if wanted_differs(self, &before) || !self.health.are_of(&self.cluster) {
            self.unseen.mark();
        }
        Ok(())
    }

    fn redirect_as(&mut self, plan: Plan) -> Result<(), RedirectError> {
        if plan != self.plan {
            self.redirect.reconcile(&plan)?;
            self.plan = plan;
        }
        Ok(())
    }

    async fn reached(&self, number: u64) -> Result<(), AgentError> {
        let began = Instant::now();
        while !self.publication.reached(number) {
            if began.elapsed() > REACH {
                return Err(AgentError::Stuck);
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok(())
    }
}

fn wanted_differs(agent: &Agent, before: &Compiled) -> bool {
    let wanted = |compiled: &Compiled| wanted::of_node(&agent.cluster, compiled);
    wanted(before) != wanted(&agent.compiled)
}

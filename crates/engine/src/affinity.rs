//! Session affinity (S14): a client stays with its backend for as long as it comes back in time.
//!
//! An entry is a flow of its own kind in the flow table: client and service are its key, the backend is its decision.
//! It is bounded, shared between workers and swept as flows are, and costs no table of its own.

use podway_state::{Decision, FlowTable, Handle, NewFlow, Refused, Share};
use podway_tables::{Backend, ServiceKey};
use podway_wire::{Addr, FlowKey, Protocol};

use crate::track::Track;

/// No packet has this protocol (IANA: reserved).
pub(crate) const PROTOCOL: Protocol = Protocol(255);

/// A client of a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) addr: Addr,
    /// By where it answers in the cluster: that outlives the process, which a number does not (F9).
    pub(crate) service: ServiceKey,
}

/// The backend that a client had, and its entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stays {
    pub(crate) backend: Backend,
    entry: Handle,
}

impl Client {
    fn key(&self) -> [u64; 5] {
        let key = FlowKey {
            source: self.addr,
            target: self.service.addr,
            source_port: self.service.protocol.0.into(),
            target_port: self.service.port,
            protocol: PROTOCOL,
        };
        key.words()
    }

    /// The backend that the client had last, and not too long ago; whether it still serves is the caller's to say.
    pub(crate) fn stays(
        &self,
        table: &FlowTable,
        (timeout_s, now_ms): (u32, u32),
    ) -> Option<Stays> {
        let key = self.key();
        let hit = table.lookup(&key, table.hash(&key))?;
        // The sweep may be seconds late.
        if table.idle_ms(hit.flow, now_ms) >= timeout_s.saturating_mul(1_000) {
            let _ = table.remove(hit.flow);
            return None;
        }
        let [a, b, port, _] = hit.decision?.words;
        let backend = Backend {
            addr: Addr::of_words([a, b]),
            port: port as u16,
        };
        Some(Stays {
            backend,
            entry: hit.flow,
        })
    }

    /// Notes that the client was given `backend`; a full table forgets, and the client is spread as if it were new.
    pub(crate) fn note(
        &self,
        share: &Share,
        last: Option<Stays>,
        backend: Backend,
        (timeout_s, now_ms): (u32, u32),
    ) {
        let table = share.table();
        if let Some(last) = last {
            if last.backend == backend {
                return table.touch(last.entry, now_ms);
            }
            let _ = table.remove(last.entry);
        }
        let key = self.key();
        let [a, b] = backend.addr.words();
        let decision = Decision {
            words: [a, b, u64::from(backend.port), 0],
            sequence: 0,
        };
        let tracking = Track::of_affinity(timeout_s).0;
        let entry = NewFlow {
            original: key,
            reply: key,
            decision,
            tracking,
        };
        match share.insert(&entry, now_ms) {
            // It waits for no answer.
            Ok(entry) => drop(table.answered(entry)),
            Err(
                Refused::Full
                | Refused::EmbryonicQuota
                | Refused::Exists(_)
                | Refused::ReplyClash
                | Refused::Contested,
            ) => {}
        }
    }
}

//! Errors as the specification numbers them.

use std::time::Duration;

use podway_host::{NamespaceError, NetlinkError};

use crate::agent::AgentError;
use crate::{StateError, WireError};

/// How long the agent may take to take a wire up: others' may be before ours.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long the kernel may take to start a wire whose ends are up: it holds one lock for all links.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(10);

/// What kind of error it is: 1 to 99 are the specification's, the others podway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration's version is not spoken here.
    IncompatibleVersion,
    /// 2: a field of the configuration is not supported.
    UnsupportedField,
    /// 3: the container is not there; nothing was made for it.
    UnknownContainer,
    /// 4: a CNI_ variable is missing or wrong.
    Environment,
    /// 5: something can't be read or written.
    Io,
    /// 6: the configuration is no JSON of the right shape.
    Decode,
    /// 7: the configuration makes no sense.
    Config,
    /// 11: not now, but soon.
    TryAgain,
    /// 50: no container can be added now.
    NotAvailable,
    /// 51: nor do those that are there have all of their network.
    Limited,
    /// 100: a pod range is full.
    Full,
    /// 101: there is an interface of that name, or another one of podway's, in the container.
    Exists,
    /// 102: the agent refused.
    Refused,
    /// 103: the kernel refused.
    Kernel,
    /// 104: the container's network is not as it was made.
    Different,
}

impl Code {
    /// The number that runtimes see.
    pub fn number(self) -> u32 {
        match self {
            Code::IncompatibleVersion => 1,
            Code::UnsupportedField => 2,
            Code::UnknownContainer => 3,
            Code::Environment => 4,
            Code::Io => 5,
            Code::Decode => 6,
            Code::Config => 7,
            Code::TryAgain => 11,
            Code::NotAvailable => 50,
            Code::Limited => 51,
            Code::Full => 100,
            Code::Exists => 101,
            Code::Refused => 102,
            Code::Kernel => 103,
            Code::Different => 104,
        }
    }
}

/// What went wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) code: Code,
    pub(super) text: String,
}

impl CniError {
    pub(super) fn new(code: Code, text: impl Into<String>) -> CniError {
        CniError {
            code,
            text: text.into(),
        }
    }
}

impl From<StateError> for CniError {
    fn from(error: StateError) -> CniError {
        let code = match error {
            StateError::Full(_) => Code::Full,
            StateError::Io { .. } | StateError::Broken { .. } => Code::Io,
        };
        CniError::new(code, error.to_string())
    }
}

impl From<AgentError> for CniError {
    fn from(error: AgentError) -> CniError {
        let code = match error {
            AgentError::Unreachable { .. } | AgentError::Busy { .. } => Code::TryAgain,
            AgentError::Garbled { .. } | AgentError::Refused(_) => Code::Refused,
        };
        CniError::new(code, error.to_string())
    }
}

impl From<WireError> for CniError {
    fn from(error: WireError) -> CniError {
        CniError::new(Code::Kernel, error.to_string())
    }
}

impl From<NetlinkError> for CniError {
    fn from(error: NetlinkError) -> CniError {
        let code = match error {
            NetlinkError::NotStarted { .. } => Code::TryAgain,
            NetlinkError::Namespace(_)
            | NetlinkError::Socket(_)
            | NetlinkError::Refused { .. }
            | NetlinkError::Silent(_)
            | NetlinkError::NoLink(_)
            | NetlinkError::Offload(_)
            | NetlinkError::Setting(_) => Code::Kernel,
        };
        CniError::new(code, error.to_string())
    }
}

impl From<NamespaceError> for CniError {
    fn from(error: NamespaceError) -> CniError {
        CniError::new(Code::UnknownContainer, format!("CNI_NETNS: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_an_agent_that_is_busy_for_too_long_is_code_11() {
        let error = CniError::from(AgentError::Busy {
            socket: "/run/podway/podway.sock".into(),
            within: PATIENCE,
        });
        assert_eq!(error.code.number(), 11);
        let said = "the agent on /run/podway/podway.sock did not answer within 30 s: ";
        assert!(error.text.starts_with(said), "{}", error.text);
    }
}

//! How the kernel is asked, and what can come of it: every call has the same bound.

use std::io;
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use crate::{NamespaceError, SettingError};

/// How long an answer may take: links come and go under one lock of the kernel's, which many pods at once hold for seconds.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Why the kernel did not do or say what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace can't be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// No netlink socket, or no thread or runtime for it.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error(
        "cannot {doing}: {}; run as root (CAP_NET_ADMIN) and see `dmesg`",
        said(source)
    )]
    Refused {
        /// What was asked.
        doing: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The kernel did not answer.
    #[error("cannot {0}: the kernel did not answer within 20 s: look at its log (dmesg)")]
    Silent(String),
    /// There is no such link.
    #[error("there is no interface {0}; is the pod or lab gone?")]
    NoLink(String),
    /// The kernel has not started a link.
    #[error(
        "interface {link} carries no packets after {} s: the kernel is busy with others, or its other end is down; try again", within.as_secs_f32()
    )]
    NotStarted {
        /// The link.
        link: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// The stack would send partial checksums.
    #[error(
        "cannot switch checksum offload off: {0}; does the kernel have CONFIG_ETHTOOL_NETLINK?"
    )]
    Offload(#[source] io::Error),
    /// A setting under /proc/sys can't be written.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

fn said(error: &rtnetlink::Error) -> String {
    if let rtnetlink::Error::NetlinkError(message) = error {
        return message.to_io().to_string();
    }
    error.to_string()
}

/// What an asked kernel lists.
pub(crate) async fn collect<T>(
    doing: &str,
    items: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    let items: Vec<_> = within(doing, items.collect()).await?;
    let items: Result<Vec<T>, _> = items.into_iter().collect();
    items.map_err(|error| refused(doing, error))
}

/// Nothing, once the kernel has done it.
pub(crate) async fn done(
    doing: &str,
    request: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), NetlinkError> {
    let done = within(doing, request).await?;
    done.map_err(|error| refused(doing, error))
}

/// An answer in time.
pub(crate) async fn within<T>(
    doing: &str,
    answer: impl Future<Output = T>,
) -> Result<T, NetlinkError> {
    let silent = |_| NetlinkError::Silent(doing.to_owned());
    tokio::time::timeout(ANSWER_WITHIN, answer)
        .await
        .map_err(silent)
}

pub(crate) fn refused(doing: &str, source: rtnetlink::Error) -> NetlinkError {
    NetlinkError::Refused {
        doing: doing.to_owned(),
        source,
    }
}

/// Whether the kernel says that what was asked for is not there (ENODEV, ENOENT, ESRCH).
pub(crate) fn is_absent(error: &rtnetlink::Error) -> bool {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return false;
    };
    [19, 2, 3].contains(&message.raw_code().abs())
}

/// What a call returns that waits inside the kernel, made on a thread that nothing else waits for.
pub(crate) async fn beside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(returned) => returned,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

//! The body of a watch: events as they happen, bookmarks in between, and its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use hyper::body::{Bytes, Frame};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::store::Told;
use crate::{Resource, Store};

/// How often bookmarks are sent to who wants them.
const BOOKMARK: Duration = Duration::from_secs(5);

/// What is watched, from where and how long.
pub(crate) struct Watch {
    pub(crate) store: Arc<Store>,
    pub(crate) resource: Resource,
    pub(crate) version: u64,
    pub(crate) bookmarks: Bookmarks,
    pub(crate) end: Instant,
}

/// Whether a client takes bookmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bookmarks {
    Sent,
    Withheld,
}

enum At {
    Running,
    Ended,
}

pub(crate) fn stream(
    watch: Watch,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send + 'static {
    let newest = watch.store.newest();
    unfold(
        (watch, newest, At::Running),
        |(mut watch, mut newest, at)| async move {
            match at {
                At::Ended => None,
                At::Running => {
                    let (text, at) = watch.next(&mut newest).await?;
                    Some((Ok(Frame::data(Bytes::from(text))), (watch, newest, at)))
                }
            }
        },
    )
}

impl Watch {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self, newest: &mut watch::Receiver<u64>) -> Option<(String, At)> {
        let bookmark = Instant::now() + BOOKMARK;
        loop {
            newest.mark_unchanged();
            match self.store.events(&self.resource, self.version) {
                Told::Expired => return Some((expired(), At::Ended)),
                Told::Events(events, version) => {
                    self.version = version;
                    if !events.is_empty() {
                        return Some((events.concat(), At::Running));
                    }
                }
            }
            let until = bookmark.min(self.end);
            match timeout_at(until, newest.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) if Instant::now() >= self.end => return None,
                Err(_) => match self.bookmarks {
                    Bookmarks::Sent => return Some((self.bookmark(), At::Running)),
                    Bookmarks::Withheld => {}
                },
            }
        }
    }

    fn bookmark(&self) -> String {
        let version = self.version.to_string();
        let line =
            json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}});
        format!("{line}\n")
    }
}

fn expired() -> String {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version",
    });
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

//! Looks which policies a cluster has that others are to enforce (N20).

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

use super::announce::{AnnounceError, Announcer};
use super::backoff::Backoff;
use crate::unenforced::{Unenforced, is_about_traffic, is_policy};

/// API groups as a server lists them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Group {
    name: String,
    preferred_version: Version,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    group_version: String,
}

/// The kinds of a group.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    name: String,
    kind: String,
}

/// Looks now and then, for as long as somebody wants to know.
pub(super) async fn look(
    announcer: Announcer,
    every: Duration,
    seed: u64,
    found: watch::Sender<Vec<Unenforced>>,
) {
    let mut random = Backoff::new(every, every, seed);
    loop {
        // A server that can't be asked says nothing of what it has: what was found stays.
        if let Ok(now) = unenforced(&announcer).await {
            found.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
        }
        tokio::select! {
            () = found.closed() => return,
            () = sleep(every / 2 + random.portion(every)) => {}
        }
    }
}

async fn unenforced(announcer: &Announcer) -> Result<Vec<Unenforced>, AnnounceError> {
    let groups: Groups = read(announcer, "/apis").await?;
    let mut all = Vec::new();
    for group in groups
        .groups
        .iter()
        .filter(|group| is_about_traffic(&group.name))
    {
        let path = format!("/apis/{}", group.preferred_version.group_version);
        let resources: Resources = read(announcer, &path).await?;
        let resources = resources.resources.iter();
        // Parts of objects, such as `status`, have paths of their own.
        let kinds =
            resources.filter(|it| is_policy(&group.name, &it.kind) && !it.name.contains('/'));
        for Resource { name, kind } in kinds {
            let count = count(announcer, &format!("{path}/{name}")).await?;
            if count != Some(0) {
                all.push(Unenforced {
                    group: group.name.clone(),
                    kind: kind.clone(),
                    count,
                });
            }
        }
    }
    all.sort();
    Ok(all)
}

/// How many objects there are; `None` if we may not look.
async fn count(announcer: &Announcer, path: &str) -> Result<Option<u64>, AnnounceError> {
    let answer = announcer
        .send(Method::GET, &format!("{path}?limit=1"), None)
        .await?;
    if !answer.status.is_success() {
        return Ok(None);
    }
    let first = answer.value["items"].as_array().map_or(0, Vec::len) as u64;
    let more = answer.value["metadata"]["remainingItemCount"].as_u64();
    Ok(Some(first + more.unwrap_or_default()))
}

/// What is at a path; nothing if the server has no such path.
async fn read<T: for<'de> Deserialize<'de> + Default>(
    announcer: &Announcer,
    path: &str,
) -> Result<T, AnnounceError> {
    let answer = announcer.send(Method::GET, path, None).await?;
    let is_absent = answer.status == StatusCode::NOT_FOUND;
    let value = match is_absent {
        true => Value::Null,
        false => answer.succeeded(super::announce::DISCOVER)?,
    };
    Ok(serde_json::from_value(value).unwrap_or_default())
}

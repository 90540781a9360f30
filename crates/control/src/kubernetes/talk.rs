//! Requests to an API server, and what it answers: pages of lists, and lines of watches.

use std::borrow::Cow;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::Kind;

/// The bytes of a page at most: of a longer one, fewer objects are asked for.
const PAGE_LIMIT: usize = 64 << 20;
/// The bytes of a watch's line at most: etcd holds no object of that size.
const LINE_LIMIT: usize = 16 << 20;
/// The bytes of an error's text that are told.
const TOLD: usize = 200;

/// Why a request was not answered as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 410: the version that was asked for is forgotten.
    Expired,
    /// 404: there is no such kind.
    Absent,
    /// The answer is too long to be held.
    TooLong,
    /// 403, in words: the account may not see it.
    Forbidden(String, Option<Duration>),
    /// Another kind was answered meanwhile: asking anew is quicker than waiting on.
    Overtaken,
    /// Anything else, in words, and how long the server wants to be left alone.
    Failed(String, Option<Duration>),
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    /// Absent if Go found none.
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

/// Where a page is in its list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// Why something did not work, as an API server says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

/// A connection to an API server for one kind.
pub(super) struct Talk {
    pub(super) kind: Kind,
    pub(super) client: kube::Client,
    /// How long an answer may take to begin, and a page to arrive.
    pub(super) patience: Duration,
}

impl Talk {
    /// The bytes of a page: the first without a token, others with the last page's.
    pub(super) async fn page(&self, limit: u32, token: Option<&str>) -> Result<Vec<u8>, Refusal> {
        let mut query = format!("limit={limit}");
        if let Some(token) = token {
            query += "&continue=";
            query += &escaped(token);
        }
        let read = async {
            let mut body = self.ask(&query).await?;
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| failed(&error))?;
                bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                if bytes.len() > PAGE_LIMIT {
                    return Err(Refusal::TooLong);
                }
            }
            Ok(bytes)
        };
        let late = || Refusal::Failed("does not send a list in time".to_owned(), None);
        timeout(self.patience, read).await.map_err(|_| late())?
    }

    /// The changes after a version, for as long as the server likes, `lasting` at most.
    pub(super) async fn watch(&self, version: &str, lasting: Duration) -> Result<Lines, Refusal> {
        let version = escaped(version);
        let seconds = lasting.as_secs().max(1);
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={seconds}"
        );
        let late = || Refusal::Failed("does not answer".to_owned(), None);
        let body = timeout(self.patience, self.ask(&query)).await;
        Ok(Lines {
            body: body.map_err(|_| late())??,
            bytes: Vec::new(),
        })
    }

    async fn ask(&self, query: &str) -> Result<Body, Refusal> {
        let request = http::Request::get(format!("{}?{query}", self.kind.path()))
            .header(http::header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|error| failed(&error))?;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let after = answer.headers().get(http::header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = told(answer.into_body()).await;
        Err(match status.as_u16() {
            410 => Refusal::Expired,
            404 => Refusal::Absent,
            403 => {
                let (verbs, group) = (Kind::VERBS.join(" and "), self.kind.group());
                let what = format!("{} of API group {group:?}", self.kind.plural());
                let text = format!(
                    "refuses ({text}): allow the agent's account to {verbs} {what}, as config/kubernetes does"
                );
                Refusal::Forbidden(text, after.map(Duration::from_secs))
            }
            _ => Refusal::Failed(
                format!("answers {status} ({text})"),
                after.map(Duration::from_secs),
            ),
        })
    }
}

/// The lines of a watch as they come.
pub(super) struct Lines {
    body: Body,
    bytes: Vec<u8>,
}

impl Lines {
    /// Whole lines, at least one, as soon as they are there; `None` when the server has ended the watch.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        loop {
            if let Some(end) = self.bytes.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.bytes, rest)));
            }
            if self.bytes.len() > LINE_LIMIT {
                let text = "sends a line without an end".to_owned();
                return Err(Refusal::Failed(text, None));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| failed(&error))?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            self.bytes.extend_from_slice(data);
        }
    }
}

/// What a watch's line of type ERROR means.
pub(super) fn refusal(status: &str) -> Refusal {
    let status: Status = serde_json::from_str(status).unwrap_or_default();
    match status.code {
        410 => Refusal::Expired,
        code => Refusal::Failed(
            format!("ends the watch with {code} ({})", status.message),
            None,
        ),
    }
}

/// What an error's body says, its beginning.
async fn told(body: Body) -> String {
    let body = http_body_util::Limited::new(body, 64 << 10);
    let Ok(Ok(bytes)) = timeout(Duration::from_secs(5), body.collect()).await else {
        return "no reason given".to_owned();
    };
    let bytes = bytes.to_bytes();
    let status: Result<Status, _> = serde_json::from_slice(&bytes);
    let text = match status {
        Ok(status) if !status.message.is_empty() => status.message,
        Ok(_) | Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    text.chars().take(TOLD).collect()
}

/// An error and what caused it, in one line.
fn failed(error: &dyn std::error::Error) -> Refusal {
    let mut text = format!("can't be reached: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    Refusal::Failed(text.replace('\n', " "), None)
}

/// A value as a query may have it (RFC 3986, 2.3).
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => text.push(byte.into()),
            byte => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_escaped() {
        assert_eq!(escaped("a+b/c=="), "a%2Bb%2Fc%3D%3D");
        assert_eq!(escaped("12345"), "12345");
    }

    #[test]
    fn an_error_in_a_watch_says_whether_the_version_is_forgotten() {
        let expired = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
        assert_eq!(refusal(expired), Refusal::Expired);
        let other = r#"{"kind":"Status","code":500,"message":"etcd is away"}"#;
        let text = "ends the watch with 500 (etcd is away)".to_owned();
        assert_eq!(refusal(other), Refusal::Failed(text, None));
    }
}

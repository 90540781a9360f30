//! Follows the objects of one kind: a list, then what changes, and a list again when the server forgot where we were.

use std::time::Duration;

use podway_intent::Change;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::complain::{Complaint, Complaints};
use super::decode::{decode, head, uid};
use super::intern::Interner;
use super::kept::{self, Keeper, Said};
use super::kind::Presence;
use super::known::Known;
use super::recovery::Recovery;
use super::talk::{Line, Lines, Page, PageMetadata, Refusal, Talk, refusal};
use super::{Kind, Pace};
use crate::Problem;

/// How often in a row a kind must be absent before its objects are taken to be gone.
const ABSENT_LOOKS: u32 = 3;
/// What is said of a kind that is absent, instead of its version.
const ABSENT: &str = "absent";
/// Changes of a first list that are handed over at once.
const CHUNK: usize = 4096;

/// What became known of one kind.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) changes: Vec<Change>,
    /// When each event came in; none for what was listed.
    pub(super) received: Vec<Instant>,
    /// The resource version up to which the kind is known; `None` while its first list is read.
    pub(super) version: Option<String>,
    /// What keeps the server's word of it from us now, if anything does.
    pub(super) trouble: Option<String>,
    /// All that is wrong with the kind's objects now.
    pub(super) problems: Vec<Problem>,
    /// How many objects of the kind are not as they are written.
    pub(super) not_as_written: usize,
    pub(super) teller: Teller,
}

/// Whose word a kind's facts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// There are none yet.
    Nobody,
    /// The file's, and the server was not heard yet.
    File,
    /// The file's, and the server does not answer as it should.
    FileAlone,
    /// The server's.
    Server,
}

/// One kind, followed for as long as somebody takes the steps.
pub(super) struct Follow {
    talk: Talk,
    pace: Pace,
    steps: mpsc::Sender<Step>,
    known: Known,
    texts: Interner,
    backoff: Backoff,
    /// Objects of a page.
    limit: u32,
    /// The version up to which the kind is known.
    version: Option<String>,
    absent: u32,
    /// What keeps us from the server, if anything does.
    trouble: Option<String>,
    recovery: Recovery,
    complaints: Complaints,
    /// When the server was last heard.
    heard: Instant,
    /// Since when it does not answer as it should.
    away_since: Option<Instant>,
    teller: Teller,
    /// What the file said, until it is handed over.
    recalled: Vec<Change>,
    /// Where facts are kept, and those that are not there yet.
    keeper: Option<Keeper>,
    lines: Vec<u8>,
}

/// Where what is learnt goes, and who else learns.
pub(super) struct Ends {
    pub(super) steps: mpsc::Sender<Step>,
    pub(super) recovery: Recovery,
    pub(super) complaints: Complaints,
}

/// Nobody takes steps any more.
struct Unwanted;

/// How an attempt ended.
enum Ended {
    /// All objects are known, and from where to watch.
    Listed,
    /// The server ended the watch in good order.
    Closed,
    Refused(Refusal),
}

impl Follow {
    pub(super) fn new(talk: Talk, pace: Pace, seed: u64, ends: Ends) -> Follow {
        let Ends {
            steps,
            recovery,
            complaints,
        } = ends;
        Follow {
            known: Known::new(talk.kind),
            texts: Interner::new(),
            backoff: Backoff::new(pace.first_delay, pace.longest_delay, seed),
            limit: pace.page,
            version: None,
            absent: 0,
            trouble: None,
            recovery,
            complaints,
            heard: Instant::now(),
            away_since: None,
            teller: Teller::Nobody,
            recalled: Vec::new(),
            keeper: None,
            lines: Vec::new(),
            talk,
            pace,
            steps,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.talk.kind
    }

    /// Takes a line that an agent before kept: it is known until the server is heard.
    pub(super) fn recall(&mut self, line: kept::Line<'_>) {
        self.teller = Teller::File;
        match line.said {
            Said::Is => {
                let change = self.take_object(line.json);
                self.recalled.extend(change);
            }
            Said::Gone => {
                let key = head(self.talk.kind, line.json).ok();
                let change = key.and_then(|(key, _)| self.known.remove(key));
                self.recalled.extend(change);
            }
            Said::Known => self.version = serde_json::from_str(line.json).ok(),
        }
    }

    /// Keeps what becomes known from now on.
    pub(super) fn keep(&mut self, keeper: Keeper) {
        self.keeper = Some(keeper);
    }

    /// Follows until nobody takes the steps.
    pub(super) async fn run(mut self) {
        let recalled = std::mem::take(&mut self.recalled);
        if self.teller == Teller::File && self.hand_over(recalled, Vec::new()).await.is_err() {
            return;
        }
        // Whether the version that we know is one to watch from.
        let mut is_listed = false;
        loop {
            let began = Instant::now();
            let ended = match is_listed {
                false => self.list().await,
                true => self.watch().await,
            };
            let Ok(ended) = ended else { return };
            if began.elapsed() > self.pace.longest_delay {
                self.backoff.reset();
            }
            let delay = match ended {
                Ended::Listed => {
                    is_listed = true;
                    continue;
                }
                Ended::Closed => self.backoff.delay(),
                Ended::Refused(Refusal::Expired) => {
                    self.answered();
                    tracing::info!(kind = %self.talk.kind, "the API server forgot our version: listing anew");
                    is_listed = false;
                    self.backoff.delay()
                }
                Ended::Refused(Refusal::TooLong) => {
                    self.limit = (self.limit / 2).max(1);
                    self.backoff.delay()
                }
                Ended::Refused(Refusal::Absent) => {
                    self.answered();
                    is_listed = false;
                    match self.absent().await {
                        Ok(delay) => delay,
                        Err(Unwanted) => return,
                    }
                }
                Ended::Refused(Refusal::Overtaken) => {
                    self.backoff.reset();
                    continue;
                }
                Ended::Refused(Refusal::Forbidden(text, _))
                    if self.talk.kind.presence() == Presence::Newer =>
                {
                    self.answered();
                    is_listed = false;
                    match self.withheld(text).await {
                        Ok(delay) => delay,
                        Err(Unwanted) => return,
                    }
                }
                Ended::Refused(Refusal::Failed(text, after) | Refusal::Forbidden(text, after)) => {
                    self.away_since.get_or_insert(self.heard.max(began));
                    if self.in_trouble(text).await.is_err() {
                        return;
                    }
                    let least = after.unwrap_or_default().min(self.pace.longest_delay);
                    least + self.backoff.delay()
                }
            };
            self.pause(delay).await;
        }
    }

    /// Waits so long, or while the server is away until another kind was answered.
    async fn pause(&mut self, delay: Duration) {
        if self.away_since.is_none() {
            return sleep(delay).await;
        }
        if timeout(delay, self.recovery.told()).await.is_ok() {
            self.backoff.reset();
        }
    }

    /// Notes that the server answered; the first of all kinds wakes the others.
    fn answered(&mut self) {
        self.heard = Instant::now();
        if let Some(away_since) = self.away_since.take() {
            self.recovery.tell(away_since);
        }
    }

    /// Lists all objects; the first list is handed over in parts, for nothing is in force before its end, and later
    /// ones as the difference to what is known.
    async fn list(&mut self) -> Result<Ended, Unwanted> {
        self.known.begin_list();
        let mut changes = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let metadata = match self.page(token.as_deref(), &mut changes).await {
                Ok(metadata) => metadata,
                Err(refused) => {
                    // What was read is true, and won't be told again.
                    self.hand_over(changes, Vec::new()).await?;
                    return Ok(Ended::Refused(refused));
                }
            };
            self.store().await;
            token = metadata.next.filter(|token| !token.is_empty());
            if token.is_none() {
                let gone = self.known.end_list();
                gone.iter().for_each(|change| self.note(change, ""));
                changes.extend(gone);
                self.arrived(metadata.resource_version);
                self.absent = 0;
                self.hand_over(changes, Vec::new()).await?;
                return Ok(Ended::Listed);
            }
            if self.version.is_none() && changes.len() >= CHUNK {
                let changes = std::mem::take(&mut changes);
                self.hand_over(changes, Vec::new()).await?;
            }
        }
    }

    async fn page(
        &mut self,
        token: Option<&str>,
        changes: &mut Vec<Change>,
    ) -> Result<PageMetadata, Refusal> {
        let page = self.talk.page(self.limit, token);
        let bytes = match self.away_since {
            None => page.await?,
            Some(_) => tokio::select! {
                bytes = page => bytes?,
                _ = self.recovery.told() => return Err(Refusal::Overtaken),
            },
        };
        self.answered();
        let page: Page<'_> = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
        for item in page.items.iter().flatten() {
            changes.extend(self.take_object(item.get()));
        }
        Ok(page.metadata)
    }

    fn take_object(&mut self, json: &str) -> Option<Change> {
        let kind = self.talk.kind;
        let (key, version) = match head(kind, json) {
            Ok(head) => head,
            Err(problem) => {
                self.known.nameless(problem);
                return None;
            }
        };
        // Most objects of a list are known already, and need not be read.
        if self.known.has(&key, version) {
            return None;
        }
        let decoded = decode(kind, (key.clone(), version), json, &mut self.texts);
        let change = self.known.take(decoded);
        if let Some(problem) = self.known.problem(&key) {
            self.complaints.tell(Complaint {
                kind,
                uid: uid(json),
                version,
                message: problem.in_object(),
                key,
            });
        }
        let change = change?;
        self.note(&change, json);
        Some(change)
    }

    /// Notes a change for the file; an object's comes with its JSON.
    fn note(&mut self, change: &Change, json: &str) {
        if self.keeper.is_none() {
            return;
        }
        let (lines, kind) = (&mut self.lines, self.talk.kind);
        if let Change::Gone(key) = change {
            kept::put_gone(lines, kind, key);
        } else {
            kept::put_object(lines, kind, json);
        }
    }

    /// Watches until the server ends it or falls silent.
    async fn watch(&mut self) -> Result<Ended, Unwanted> {
        let version = self.version.clone().unwrap_or_default();
        let lasting = self.pace.watch + self.backoff.portion(self.pace.watch);
        let watch = self.talk.watch(&version, lasting);
        let lines = match self.away_since {
            None => watch.await,
            Some(_) => tokio::select! {
                lines = watch => lines,
                _ = self.recovery.told() => Err(Refusal::Overtaken),
            },
        };
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(refused) => return Ok(Ended::Refused(refused)),
        };
        self.answered();
        if self.trouble.take().is_some() {
            self.hand_over(Vec::new(), Vec::new()).await?;
        }
        loop {
            match self.wait(&mut lines).await {
                Ok(Some(bytes)) => {
                    let ended = self.take_lines(&bytes).await?;
                    if let Some(refused) = ended {
                        return Ok(Ended::Refused(refused));
                    }
                    self.backoff.reset();
                }
                Ok(None) => return Ok(Ended::Closed),
                Err(refused) => return Ok(Ended::Refused(refused)),
            }
        }
    }

    /// The next lines; a server that doesn't even send bookmarks any more is not there, and one that was away since it
    /// was last heard here may have forgotten that we listen.
    async fn wait(&mut self, lines: &mut Lines) -> Result<Option<Vec<u8>>, Refusal> {
        let next = timeout(self.pace.silence, lines.next());
        let lines = tokio::select! {
            lines = next => lines.unwrap_or(Ok(None)),
            () = self.recovery.told_away_after(self.heard) => Err(Refusal::Overtaken),
        };
        if let Ok(Some(_)) = &lines {
            self.heard = Instant::now();
        }
        lines
    }

    async fn take_lines(&mut self, bytes: &[u8]) -> Result<Option<Refusal>, Unwanted> {
        let now = Instant::now();
        let mut changes = Vec::new();
        let mut received = Vec::new();
        let mut refused = None;
        let lines = bytes.split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.is_empty()) {
            match self.take_line(line) {
                Ok(Some(change)) => {
                    changes.push(change);
                    received.push(now);
                }
                Ok(None) => {}
                Err(refusal) => {
                    refused = Some(refusal);
                    break;
                }
            }
        }
        self.hand_over(changes, received).await?;
        Ok(refused)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Change>, Refusal> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
        let json = line.object.get();
        let change = match &*line.event {
            "ERROR" => return Err(refusal(json)),
            "ADDED" | "MODIFIED" => self.take_object(json),
            "DELETED" => match head(self.talk.kind, json) {
                Ok((key, _)) => {
                    let change = self.known.remove(key);
                    change.iter().for_each(|change| self.note(change, ""));
                    change
                }
                Err(problem) => {
                    self.known.nameless(problem);
                    None
                }
            },
            // BOOKMARK, and what later servers may say: only the version counts.
            _ => None,
        };
        let seen: Page<'_> = serde_json::from_str(json).unwrap_or(Page {
            metadata: PageMetadata::default(),
            items: None,
        });
        let version = seen.metadata.resource_version;
        if line.event == "BOOKMARK" && self.keeper.is_some() {
            kept::put_version(&mut self.lines, self.talk.kind, &version);
        }
        if !version.is_empty() {
            self.version = Some(version);
        }
        Ok(change)
    }

    /// The kind is not there: it has no objects, unless it had some a moment ago.
    async fn absent(&mut self) -> Result<Duration, Unwanted> {
        match self.talk.kind.presence() {
            Presence::Always => {
                let text = "has no such kind: is it an API server of Kubernetes?";
                self.in_trouble(text.to_owned()).await?;
                return Ok(self.backoff.delay());
            }
            Presence::Perhaps | Presence::Newer => {}
        }
        self.absent += 1;
        let is_known = self.version.as_deref() == Some(ABSENT)
            && self.trouble.is_none()
            && self.teller == Teller::Server;
        if !is_known && (self.known.is_empty() || self.absent >= ABSENT_LOOKS) {
            self.known.begin_list();
            let gone = self.known.end_list();
            gone.iter().for_each(|change| self.note(change, ""));
            self.arrived(ABSENT.to_owned());
            self.hand_over(gone, Vec::new()).await?;
        }
        let look = self.pace.absent;
        Ok(look / 2 + self.backoff.portion(look))
    }

    /// The kind is not for us to see, and we can do without: an account from before it must not keep nodes closed.
    async fn withheld(&mut self, text: String) -> Result<Duration, Unwanted> {
        let look = self.pace.absent;
        let delay = look / 2 + self.backoff.portion(look);
        if self.version.is_none() {
            self.absent().await?;
        }
        self.in_trouble(text).await?;
        Ok(delay)
    }

    fn arrived(&mut self, version: String) {
        if self.keeper.is_some() {
            kept::put_version(&mut self.lines, self.talk.kind, &version);
        }
        self.version = Some(version);
        self.trouble = None;
        self.teller = Teller::Server;
    }

    async fn in_trouble(&mut self, text: String) -> Result<(), Unwanted> {
        if self.trouble.as_ref() == Some(&text) {
            return Ok(());
        }
        self.trouble = Some(text);
        self.hand_over(Vec::new(), Vec::new()).await
    }

    /// Hands over what was noted for the file.
    async fn store(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if let Some(keeper) = self.keeper.as_ref().filter(|_| !lines.is_empty()) {
            let kept = keeper.keep(lines).await;
            self.keeper = self.keeper.take().filter(|_| kept.is_ok());
        }
    }

    async fn hand_over(
        &mut self,
        changes: Vec<Change>,
        received: Vec<Instant>,
    ) -> Result<(), Unwanted> {
        self.store().await;
        let step = Step {
            kind: self.talk.kind,
            changes,
            received,
            version: self.version.clone(),
            trouble: self.trouble.clone(),
            problems: self.known.problems(),
            not_as_written: self.known.problem_count(),
            teller: match self.trouble {
                Some(_) if self.teller == Teller::File => Teller::FileAlone,
                Some(_) | None => self.teller,
            },
        };
        self.steps.send(step).await.map_err(|_| Unwanted)
    }
}

fn unreadable(error: &serde_json::Error) -> Refusal {
    Refusal::Failed(format!("sends what can't be read ({error})"), None)
}

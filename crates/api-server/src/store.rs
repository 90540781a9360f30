//! Objects with their versions, and the history that watches are told from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{Fault, Resource};

/// Events that are remembered at most; older ones are compacted away.
const HISTORY: usize = 200_000;

/// There is no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such object")]
pub struct NoSuchObject;

/// All objects of a cluster.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    /// The newest version; watches wait for it to change.
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    served: BTreeSet<Resource>,
    objects: BTreeMap<Resource, BTreeMap<Place, Stored>>,
    version: u64,
    /// The newest version that the history doesn't lead on from.
    compacted: u64,
    history: VecDeque<Event>,
    faults: BTreeMap<Resource, Fault>,
    fault: Fault,
    /// Requests that were answered so far, by their paths without queries and what they asked for.
    answered: BTreeMap<String, usize>,
}

/// Namespace and name.
pub(crate) type Place = (String, String);

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) value: Arc<Value>,
    pub(crate) version: u64,
}

/// One change, as a watch tells it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) resource: Resource,
    pub(crate) line: Arc<str>,
}

/// What a watch gets at a time.
pub(crate) enum Told {
    /// The events after a version, and the version that it is now.
    Events(Vec<Arc<str>>, u64),
    /// The history doesn't reach that far back.
    Expired,
}

impl Store {
    /// A store that serves these resources, without objects.
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Store {
        Store::starting_at(1, resources)
    }

    /// The same with its first version: what was before it is compacted away.
    pub fn starting_at(version: u64, resources: impl IntoIterator<Item = Resource>) -> Store {
        Store {
            state: Mutex::new(State {
                served: resources.into_iter().collect(),
                objects: BTreeMap::new(),
                version,
                compacted: version - 1,
                history: VecDeque::new(),
                faults: BTreeMap::new(),
                fault: Fault::None,
                answered: BTreeMap::new(),
            }),
            newest: watch::Sender::new(version),
        }
    }

    /// Serves one more resource, as after its CustomResourceDefinition was made.
    pub fn serve(&self, resource: Resource) {
        self.lock().served.insert(resource);
    }

    /// Serves a resource no more, and deletes its objects.
    pub fn withdraw(&self, resource: &Resource) {
        let mut state = self.lock();
        let objects = state.objects.remove(resource).unwrap_or_default();
        for (_, stored) in objects {
            state.deleted(resource, &stored.value);
        }
        state.served.remove(resource);
        self.newest.send_replace(state.version);
    }

    /// Makes an object be so; one that is so already keeps its version.
    pub fn apply(&self, resource: &Resource, object: Value) -> u64 {
        let mut state = self.lock();
        let version = state.apply(resource, object);
        self.newest.send_replace(state.version);
        version
    }

    /// Deletes an object; the namespace is empty for those without.
    pub fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, NoSuchObject> {
        let mut state = self.lock();
        let place = (namespace.to_owned(), name.to_owned());
        let objects = state.objects.get_mut(resource).ok_or(NoSuchObject)?;
        let stored = objects.remove(&place).ok_or(NoSuchObject)?;
        let value = state.deleted(resource, &stored.value);
        self.newest.send_replace(state.version);
        Ok(value)
    }

    /// An object as it is now.
    pub fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let place = (namespace.to_owned(), name.to_owned());
        let state = self.lock();
        let stored = state.objects.get(resource)?.get(&place)?;
        Some(stored.value.clone())
    }

    /// Namespaces and names of all objects of a resource.
    pub fn places(&self, resource: &Resource) -> Vec<(String, String)> {
        let state = self.lock();
        let objects = state.objects.get(resource);
        objects
            .into_iter()
            .flat_map(BTreeMap::keys)
            .cloned()
            .collect()
    }

    /// The resources that are served.
    pub(crate) fn served(&self) -> Vec<Resource> {
        self.lock().served.iter().cloned().collect()
    }

    /// The kind of a resource's objects; empty as long as there are none.
    pub(crate) fn kind(&self, resource: &Resource) -> String {
        let state = self.lock();
        let mut objects = state.objects.get(resource).into_iter().flatten();
        let kind = objects
            .next()
            .and_then(|(_, it)| it.value["kind"].as_str().map(str::to_owned));
        kind.unwrap_or_default()
    }

    /// Forgets the history: who watches from an older version than now is told so (410).
    pub fn compact(&self) {
        let mut state = self.lock();
        // A version that nobody has seen yet, so that even who saw everything must list.
        state.version += 1;
        state.compacted = state.version;
        state.history.clear();
        self.newest.send_replace(state.version);
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Makes trouble with all resources that have no trouble of their own.
    pub fn trouble(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    /// Makes trouble with one resource.
    pub fn trouble_with(&self, resource: &Resource, fault: Fault) {
        self.lock().faults.insert(resource.clone(), fault);
    }

    /// How many requests of a kind came so far: `list`, `watch`, `get`, `patch` and so on, and the resource.
    pub fn requests(&self, verb: &str, resource: &Resource) -> usize {
        let state = self.lock();
        let count = state.answered.get(&format!("{verb} {resource}"));
        count.copied().unwrap_or_default()
    }

    pub(crate) fn count(&self, verb: &str, resource: &Resource) {
        let mut state = self.lock();
        *state
            .answered
            .entry(format!("{verb} {resource}"))
            .or_default() += 1;
    }

    pub(crate) fn serves(&self, resource: &Resource) -> bool {
        self.lock().served.contains(resource)
    }

    pub(crate) fn fault(&self, resource: &Resource) -> Fault {
        let state = self.lock();
        let own = state.faults.get(resource);
        own.copied().unwrap_or(state.fault)
    }

    /// Up to `limit` objects after a place, in order, whether there are more, and the version now.
    pub(crate) fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        after: Option<&Place>,
        limit: usize,
    ) -> (Vec<(Place, Stored)>, usize, u64) {
        let state = self.lock();
        let objects = state.objects.get(resource);
        let is_wanted = |(namespace_of, _): &Place| namespace.is_none_or(|it| it == namespace_of);
        let mut rest = objects
            .into_iter()
            .flatten()
            .filter(|(place, _)| is_wanted(place) && after.is_none_or(|after| *place > after));
        let page: Vec<(Place, Stored)> = rest
            .by_ref()
            .take(limit)
            .map(|(place, stored)| (place.clone(), stored.clone()))
            .collect();
        (page, rest.count(), state.version)
    }

    /// The newest version that is compacted away.
    pub(crate) fn compacted(&self) -> u64 {
        self.lock().compacted
    }

    pub(crate) fn events(&self, resource: &Resource, after: u64) -> Told {
        let state = self.lock();
        if after < state.compacted {
            return Told::Expired;
        }
        let first = state.history.partition_point(|it| it.version <= after);
        let events = state.history.iter().skip(first);
        let of_resource = events.filter(|event| event.resource == *resource);
        Told::Events(
            of_resource.map(|it| it.line.clone()).collect(),
            state.version,
        )
    }

    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, resource: &Resource, mut object: Value) -> u64 {
        let place = place(&object);
        let before = self
            .objects
            .get(resource)
            .and_then(|objects| objects.get(&place));
        if let Some(stored) = before {
            // What the server gives is not the client's to say.
            let given = &stored.value["metadata"];
            for field in ["resourceVersion", "uid", "creationTimestamp"] {
                if !given[field].is_null() {
                    object["metadata"][field] = given[field].clone();
                }
            }
            if object == *stored.value {
                return stored.version;
            }
        }
        let is_new = before.is_none();
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{version}"));
        }
        let value = Arc::new(object);
        self.tell(
            if is_new { "ADDED" } else { "MODIFIED" },
            resource,
            &value,
            version,
        );
        let objects = self.objects.entry(resource.clone()).or_default();
        objects.insert(place, Stored { value, version });
        version
    }

    fn deleted(&mut self, resource: &Resource, value: &Value) -> Value {
        self.version += 1;
        let version = self.version;
        let mut value = value.clone();
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        self.tell("DELETED", resource, &value, version);
        value
    }

    fn tell(&mut self, event: &str, resource: &Resource, value: &Value, version: u64) {
        let line = format!("{{\"type\":\"{event}\",\"object\":{value}}}\n");
        self.history.push_back(Event {
            version,
            resource: resource.clone(),
            line: line.into(),
        });
        while self.history.len() > HISTORY {
            let oldest = self.history.pop_front();
            self.compacted = oldest.map_or(self.compacted, |event| event.version);
        }
    }
}

/// Namespace and name of an object.
fn place(object: &Value) -> Place {
    let text = |field: &str| {
        let text = object["metadata"][field].as_str();
        text.unwrap_or_default().to_owned()
    };
    (text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Resource {
        Resource::of_path("/api/v1/pods").expect("a path")
    }

    fn pod(name: &str, app: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": app}}})
    }

    fn told(store: &Store, after: u64) -> Option<usize> {
        match store.events(&pods(), after) {
            Told::Events(events, _) => Some(events.len()),
            Told::Expired => None,
        }
    }

    #[test]
    fn what_is_applied_twice_is_told_once() {
        let store = Store::new([pods()]);
        let begin = store.version();
        let first = store.apply(&pods(), pod("a", "web"));
        assert_eq!(store.apply(&pods(), pod("a", "web")), first);
        assert!(store.apply(&pods(), pod("a", "api")) > first);
        assert_eq!(told(&store, begin), Some(2));
        assert_eq!(told(&store, first), Some(1));
        store.delete(&pods(), "shop", "a").expect("it is there");
        assert_eq!(store.delete(&pods(), "shop", "a"), Err(NoSuchObject));
        assert_eq!(told(&store, begin), Some(3));
    }

    #[test]
    fn what_was_before_a_store_is_compacted_away() {
        let store = Store::starting_at(1_000, [pods()]);
        assert_eq!(told(&store, 998), None);
        assert_eq!(told(&store, 1_000), Some(0));
    }

    #[test]
    fn a_compacted_history_leads_nowhere() {
        let store = Store::new([pods()]);
        let seen = store.apply(&pods(), pod("a", "web"));
        store.compact();
        assert_eq!(told(&store, seen), None);
        assert_eq!(told(&store, store.version()), Some(0));
    }
}

//! A real kube-apiserver, which takes from manifests what it finds right.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use http::{Method, Request, StatusCode, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use podway_api_server::{Assets, DEFINITIONS, Real, RealSettings, definition, real_kubeconfig};
use podway_control::Kind;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::served::{Object, Served, changed, gone};
use crate::Error;
use crate::up::file;

/// Who owns the fields that manifests give.
const MANAGER: &str = "podway-lab";
/// Ranges of cluster addresses, as large as API servers allow.
const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/12", "fd96::/112"];
/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);
/// Requests at a time.
const AT_ONCE: usize = 16;

/// A control plane that ends with this value.
pub(super) struct RealServer {
    client: kube::Client,
    real: Real,
}

/// What the server said no to.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {}", said(source))]
struct Refusal {
    what: String,
    source: kube::Error,
}

fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    error.to_string()
}

impl RealServer {
    /// Starts it on what is left in the folder, and has it say what these objects say.
    pub(super) async fn start(
        assets: &Assets,
        folder: &Path,
        (address, advertised): (SocketAddr, IpAddr),
        served: &Served,
    ) -> Result<RealServer, Error> {
        file(folder, fs::create_dir_all(folder))?;
        let mut ranges = SERVICE_RANGES.map(str::to_owned);
        if advertised.is_ipv6() {
            ranges.reverse();
        }
        let settings = RealSettings {
            folder,
            address,
            advertised,
            service_ranges: &ranges,
        };
        let real = assets.start(settings).map_err(|source| Error::Start {
            name: "API server".to_owned(),
            program: "kube-apiserver and etcd of KUBEBUILDER_ASSETS".to_owned(),
            source,
        })?;
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        let client = client(&real_kubeconfig(here)).await?;
        let mut server = RealServer { client, real };
        server.ready(folder).await?;
        server.define().await?;
        let before = server.known().await?;
        match server.feed(&before, served).await.into_iter().next() {
            None => Ok(server),
            Some(refusal) => Err(Error::ApiServer(refusal.to_string())),
        }
    }

    /// Has it say what changed; what it does not take is named, and does not hold up the rest.
    pub(super) async fn take(&self, before: &Served, now: &Served) {
        for refusal in self.feed(before, now).await {
            eprintln!("{refusal}");
        }
    }

    async fn feed(&self, before: &Served, now: &Served) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for kind in Kind::ALL {
            let all = changed(before, now).filter(|(object, _)| object.kind == kind);
            let made = all.map(|(object, value)| self.apply(object, before.get(object), value));
            let made = stream::iter(made);
            let mut made = made.buffer_unordered(AT_ONCE);
            while let Some(result) = made.next().await {
                refusals.extend(result.err());
            }
        }
        let deleted = stream::iter(gone(before, now).map(|object| self.delete(object)));
        let mut deleted = deleted.buffer_unordered(AT_ONCE);
        while let Some(result) = deleted.next().await {
            refusals.extend(result.err());
        }
        refusals
    }

    async fn ready(&mut self, folder: &Path) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let request = Request::get("/readyz").body(Vec::new()).expect("a request");
            let said = match self.client.request_text(request).await {
                Ok(text) if text == "ok" => return Ok(()),
                Ok(text) => text,
                Err(error) => error.to_string(),
            };
            let log = folder.join("kube-apiserver.log");
            if let Some(ended) = self.real.ended() {
                let what = format!("kube-apiserver ended with {ended}; see {}", log.display());
                return Err(Error::ApiServer(what));
            }
            if start.elapsed() > PATIENCE {
                let what = format!("kube-apiserver is not ready: {said}; see {}", log.display());
                return Err(Error::ApiServer(what));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Has it serve ClusterNetworkPolicies, which are custom objects.
    async fn define(&self) -> Result<(), Error> {
        let kind = Kind::ClusterNetworkPolicy;
        let value = definition(kind.group(), kind.version(), kind.name(), kind.plural());
        match self.ask(Method::POST, DEFINITIONS, JSON, &value).await {
            Err(refusal) if !refusal.is(StatusCode::CONFLICT) => {
                return Err(Error::ApiServer(refusal.to_string()));
            }
            _ => {}
        }
        let start = Instant::now();
        // Every kind that is watched must be there: some servers take a moment for some.
        for kind in Kind::ALL {
            while let Err(error) = self.list(kind).await {
                if start.elapsed() > PATIENCE {
                    return Err(Error::ApiServer(error.to_string()));
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Objects that an earlier one of us made; what they say is not asked.
    async fn known(&self) -> Result<Served, Error> {
        let mut known = Served::new();
        for kind in Kind::ALL {
            let list = self.list(kind).await;
            let list = list.map_err(|refusal| Error::ApiServer(refusal.to_string()))?;
            for value in list["items"].as_array().into_iter().flatten() {
                let metadata = &value["metadata"];
                let mut managers = metadata["managedFields"].as_array().into_iter().flatten();
                if managers.any(|it| it["manager"] == MANAGER) {
                    let text = |field: &str| {
                        let text = metadata[field].as_str();
                        text.unwrap_or_default().to_owned()
                    };
                    let object = Object {
                        kind,
                        namespace: text("namespace"),
                        name: text("name"),
                    };
                    known.insert(object, Value::Null);
                }
            }
        }
        Ok(known)
    }

    /// Makes an object, or what of it has changed; its status is a part of its own.
    async fn apply(
        &self,
        object: &Object,
        before: Option<&Value>,
        now: &Value,
    ) -> Result<(), Refusal> {
        let path = path(object);
        let (main, status) = parts(now);
        let made = match before {
            Some(before) => {
                self.change(object, &difference(&parts(before).0, &main))
                    .await
            }
            None => match self.create(object, &main).await {
                // Some namespaces are there in every cluster.
                Err(refusal) if refusal.is(StatusCode::CONFLICT) => {
                    self.change(object, &main).await
                }
                created => created,
            },
        };
        let made = match made {
            // Most of a pod can't be changed: it is another pod.
            Err(refusal)
                if object.kind == Kind::Pod && refusal.is(StatusCode::UNPROCESSABLE_ENTITY) =>
            {
                self.delete(object).await?;
                self.create(object, &main).await
            }
            made => made,
        };
        made?;
        match status.as_object() {
            Some(fields) if !fields.is_empty() => {
                let part = json!({ "status": status });
                let path = format!("{path}/status");
                self.ask(Method::PATCH, &path, MERGE, &part).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn change(&self, object: &Object, changes: &Value) -> Result<(), Refusal> {
        let path = owned(&path(object));
        let patched = self.ask(Method::PATCH, &path, MERGE, changes).await;
        patched.map(drop)
    }

    async fn create(&self, object: &Object, main: &Value) -> Result<(), Refusal> {
        let path = path(object);
        let (all, _) = path.rsplit_once('/').expect("paths end with names");
        self.ask(Method::POST, &owned(all), JSON, main)
            .await
            .map(drop)
    }

    /// Deletes an object at once; one that is gone is gone.
    async fn delete(&self, object: &Object) -> Result<(), Refusal> {
        let path = path(object);
        let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        let deleted = self.ask(Method::DELETE, &path, JSON, &options).await;
        match deleted {
            Err(refusal) if !refusal.is(StatusCode::NOT_FOUND) => return Err(refusal),
            _ => {}
        }
        if object.kind == Kind::Namespace {
            // What a controller would do once it is empty.
            let empty = json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": object.name}, "spec": {"finalizers": []}});
            let path = format!("{path}/finalize");
            match self.ask(Method::PUT, &path, JSON, &empty).await {
                Err(refusal) if !refusal.is(StatusCode::NOT_FOUND) => return Err(refusal),
                _ => {}
            }
        }
        Ok(())
    }

    async fn list(&self, kind: Kind) -> Result<Value, Refusal> {
        match self
            .ask(Method::GET, &kind.path(), JSON, &Value::Null)
            .await
        {
            // Servers before 1.33 have no such kind.
            Err(refusal) if kind == Kind::ServiceCidr && refusal.is(StatusCode::NOT_FOUND) => {
                Ok(Value::Null)
            }
            answer => answer,
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content: &str,
        value: &Value,
    ) -> Result<Value, Refusal> {
        let body = match value.is_null() {
            true => Vec::new(),
            false => value.to_string().into_bytes(),
        };
        let what = format!("{method} {path}");
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, content).body(body);
        let answer = self.client.request(request.expect("a request")).await;
        answer.map_err(|source| Refusal { what, source })
    }
}

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
impl Refusal {
    fn is(&self, status: StatusCode) -> bool {
        matches!(&self.source, kube::Error::Api(said) if said.code == status.as_u16())
    }
}

async fn client(kubeconfig: &str) -> Result<kube::Client, Error> {
    let refused = |error: String| Error::ApiServer(error);
    let file = Kubeconfig::from_yaml(kubeconfig).map_err(|error| refused(error.to_string()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| refused(error.to_string()))?;
    kube::Client::try_from(config).map_err(|error| refused(error.to_string()))
}

fn path(object: &Object) -> String {
    let Object {
        kind,
        namespace,
        name,
    } = object;
    let all = kind.path();
    match namespace.as_str() {
        "" => format!("{all}/{name}"),
        namespace => {
            let (prefix, plural) = all.rsplit_once('/').expect("kinds have paths");
            format!("{prefix}/namespaces/{namespace}/{plural}/{name}")
        }
    }
}

fn owned(path: &str) -> String {
    format!("{path}?fieldManager={MANAGER}")
}

/// An object as it can be made, and its status. Containers of a lab are command lines, but an API server wants to know
/// their images.
fn parts(value: &Value) -> (Value, Value) {
    let mut main = value.clone();
    let fields = main.as_object_mut();
    let status = fields.and_then(|fields| fields.remove("status"));
    let containers = main.pointer_mut("/spec/containers");
    let containers = containers.and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        if container["image"].is_null() {
            container["image"] = json!("podway-lab");
        }
    }
    (main, status.unwrap_or_default())
}

/// The merge patch (RFC 7396) that makes one value another.
fn difference(before: &Value, now: &Value) -> Value {
    let (Value::Object(before), Value::Object(now)) = (before, now) else {
        return now.clone();
    };
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let gone = gone.map(|key| (key.clone(), Value::Null));
    let other = now
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value));
    let other = other.map(|(key, value)| {
        let before = before.get(key).unwrap_or(&Value::Null);
        (key.clone(), difference(before, value))
    });
    Value::Object(gone.chain(other).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_new_other_and_gone() {
        let before = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": 3});
        let now = json!({"a": 1, "b": {"c": [2], "f": {}}});
        let patch = json!({"b": {"c": [2], "d": null, "f": {}}, "e": null});
        assert_eq!(difference(&before, &now), patch);
        assert_eq!(difference(&Value::Null, &now), now);
        assert_eq!(difference(&now, &now), json!({}));
    }

    #[test]
    fn objects_of_the_cluster_and_of_namespaces_have_their_paths() {
        let of = |kind, namespace: &str, name: &str| {
            path(&Object {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        };
        assert_eq!(of(Kind::Node, "", "node1"), "/api/v1/nodes/node1");
        assert_eq!(
            of(Kind::Service, "shop", "web"),
            "/api/v1/namespaces/shop/services/web"
        );
        assert_eq!(
            of(Kind::EndpointSlice, "shop", "web-1"),
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-1"
        );
    }
}

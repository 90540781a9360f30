//! Requests and their answers.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::discover::discovered;
use crate::patch::patch;
use crate::resource::Target;
use crate::store::Place;
use crate::watch::{self, Bookmarks, Watch};
use crate::{Fault, Store};

/// The bytes of a request's body at most.
const BODY: usize = 4 << 20;
/// How long a watch lasts that doesn't say.
const WATCH_S: u64 = 1_800;

/// How long after its last byte a connection breaks.
const BREAK: Duration = Duration::from_millis(5);

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, io::Error>>>;

/// Answers until the task is ended, and with it all connections.
pub(crate) async fn serve(listener: TcpListener, store: Arc<Store>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, store.clone()))),
                // Out of descriptors: give those who have some the time to close them.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, store: Arc<Store>) {
    // As real ones do: an event doesn't wait for the last one's acknowledgement. Without it events are only later.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request| {
        let store = store.clone();
        async move { Ok::<_, Infallible>(answer(request, store).await) }
    });
    // A client that goes away is no fault of ours.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn answer(request: Request<Incoming>, store: Arc<Store>) -> Response<Body> {
    let path = request.uri().path();
    if let Some(found) = discovered(&store, path) {
        return whole(StatusCode::OK, found.to_string());
    }
    let Some(target) = Target::of_path(path) else {
        return failure(StatusCode::NOT_FOUND, "NotFound", "there is no such path");
    };
    let query = Query(request.uri().query().unwrap_or_default().to_owned());
    let verb = verb(request.method(), &target, &query);
    store.count(verb, &target.resource);
    let fault = store.fault(&target.resource);
    match fault {
        Fault::Refuse { status } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return failure(status, "Trouble", "trouble was asked for");
        }
        Fault::Hang => std::future::pending().await,
        Fault::None | Fault::Slow { .. } | Fault::Reset { .. } | Fault::ExpirePages => {}
    }
    if !store.serves(&target.resource) {
        return failure(StatusCode::NOT_FOUND, "NotFound", "there is no such kind");
    }
    let response = match verb {
        "watch" => watched(store, target, &query),
        "list" if fault == Fault::ExpirePages && query.value("continue").is_some() => gone(),
        "list" => listed(&store, &target, &query),
        "get" => found(&store, &target),
        _ => changed(request, &store, &target).await,
    };
    troubled(response, fault)
}

/// The request's verb as RBAC calls it.
fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    match (method, &target.name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if is_true(query.value("watch")) => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, _) => "delete",
        _ => "other",
    }
}

fn is_true(value: Option<String>) -> bool {
    matches!(value.as_deref(), Some("true" | "1"))
}

fn watched(store: Arc<Store>, target: Target, query: &Query) -> Response<Body> {
    let number = |name: &str| query.value(name).and_then(|text| text.parse().ok());
    let seconds = number("timeoutSeconds").unwrap_or(WATCH_S);
    let watch = Watch {
        version: number("resourceVersion").unwrap_or_default(),
        bookmarks: match is_true(query.value("allowWatchBookmarks")) {
            true => Bookmarks::Sent,
            false => Bookmarks::Withheld,
        },
        end: Instant::now() + Duration::from_secs(seconds),
        resource: target.resource,
        store,
    };
    respond(StatusCode::OK, watch::stream(watch).boxed())
}

/// A page; its token is the version of the first page and the last object's place.
fn listed(store: &Store, target: &Target, query: &Query) -> Response<Body> {
    let limit = query.value("limit").and_then(|text| text.parse().ok());
    let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let token = query.value("continue").and_then(|text| read_token(&text));
    if let Some((version, _)) = &token
        && *version < store.compacted()
    {
        return gone();
    }
    let (began, after) = token.unzip();
    let namespace = target.namespace.as_deref();
    let (page, left, version) = store.list(&target.resource, namespace, after.as_ref(), limit);
    let version = began.unwrap_or(version);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let (Some((place, _)), true) = (page.last(), left > 0) {
        metadata["continue"] = json!(write_token(version, place));
        metadata["remainingItemCount"] = json!(left);
    }
    let items: Vec<String> = page.iter().map(|(_, it)| it.value.to_string()).collect();
    let items = items.join(",");
    let text =
        format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{metadata},"items":[{items}]}}"#);
    whole(StatusCode::OK, text)
}

fn write_token(version: u64, (namespace, name): &Place) -> String {
    format!("{version}:{namespace}/{name}")
}

fn read_token(token: &str) -> Option<(u64, Place)> {
    let (version, place) = token.split_once(':')?;
    let (namespace, name) = place.split_once('/')?;
    let place = (namespace.to_owned(), name.to_owned());
    Some((version.parse().ok()?, place))
}

fn found(store: &Store, target: &Target) -> Response<Body> {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    match store.object(&target.resource, namespace, name) {
        Some(object) => whole(StatusCode::OK, object.to_string()),
        None => failure(StatusCode::NOT_FOUND, "NotFound", "there is no such object"),
    }
}

async fn changed(request: Request<Incoming>, store: &Store, target: &Target) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = Limited::new(body, BODY).collect().await else {
        return failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TooLarge",
            "the body is too long",
        );
    };
    let value: Value = serde_json::from_slice(&bytes.to_bytes()).unwrap_or_default();
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let name = target.name.as_deref().unwrap_or_default();
    let resource = &target.resource;
    let refused = |text: &str| failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text);
    let missing = || failure(StatusCode::NOT_FOUND, "NotFound", "there is no such object");
    let now = store.object(resource, namespace, name);
    let (object, place) = match parts.method {
        Method::DELETE => {
            return match store.delete(resource, namespace, name) {
                Ok(object) => whole(StatusCode::OK, object.to_string()),
                Err(_) => missing(),
            };
        }
        Method::POST => {
            let mut object = value;
            let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
                return refused("metadata.name is missing");
            };
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            if store.object(resource, namespace, &name).is_some() {
                return failure(StatusCode::CONFLICT, "AlreadyExists", "it is there already");
            }
            (object, name)
        }
        Method::PUT => match now {
            // The status is a part of its own, for writers, too.
            Some(now) => {
                let mut object = value;
                let mut whole = (*now).clone();
                match target.part.as_deref() {
                    Some("status") => whole["status"] = object["status"].take(),
                    Some(_) | None => {
                        if !now["status"].is_null() {
                            object["status"] = now["status"].clone();
                        }
                        whole = object;
                    }
                }
                (whole, name.to_owned())
            }
            None => return missing(),
        },
        Method::PATCH => {
            let Some(now) = now else { return missing() };
            let mut object = (*now).clone();
            let content_type = parts.headers.get(http::header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            if let Err(text) = patch(&mut object, content_type.unwrap_or_default(), &value) {
                return refused(&text);
            }
            (object, name.to_owned())
        }
        _ => {
            let text = "there is no such verb";
            return failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text);
        }
    };
    store.apply(resource, object);
    match store.object(resource, namespace, &place) {
        Some(object) => whole(StatusCode::OK, object.to_string()),
        None => missing(),
    }
}

fn gone() -> Response<Body> {
    let text = "the continue token is too old";
    failure(StatusCode::GONE, "Expired", text)
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status.as_u16(),
        "reason": reason, "message": message,
    });
    whole(status, text.to_string())
}

fn whole(status: StatusCode, text: String) -> Response<Body> {
    let frame = Frame::data(Bytes::from(text));
    respond(status, stream::iter([Ok(frame)]).boxed())
}

fn respond(
    status: StatusCode,
    body: BoxStream<'static, Result<Frame<Bytes>, io::Error>>,
) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(body));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}

/// The answer with the trouble that was asked for.
fn troubled(response: Response<Body>, fault: Fault) -> Response<Body> {
    let bytes = |frame: Result<Frame<Bytes>, io::Error>| {
        let data = frame.ok().and_then(|frame| frame.into_data().ok());
        data.unwrap_or_default()
    };
    match fault {
        Fault::None | Fault::Refuse { .. } | Fault::ExpirePages | Fault::Hang => response,
        Fault::Slow { chunk, pause } => response.map(|body| {
            let chunks = body.flat_map(move |frame| {
                let data = bytes(frame);
                let chunks: Vec<Bytes> = data
                    .chunks(chunk.max(1))
                    .map(Bytes::copy_from_slice)
                    .collect();
                stream::iter(chunks)
            });
            let paused = chunks.then(move |chunk| async move {
                sleep(pause).await;
                Ok(Frame::data(chunk))
            });
            StreamBody::new(paused.boxed())
        }),
        Fault::Reset { after } => response.map(|body| {
            let mut left = after;
            let cut = body.flat_map(move |frame| {
                let data = bytes(frame);
                let sent = data.len().min(left);
                left -= sent;
                let whole = Ok(Frame::data(data.slice(..sent)));
                let broken = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
                stream::iter(
                    [Some(whole), (sent < data.len()).then(broken)]
                        .into_iter()
                        .flatten(),
                )
            });
            // What comes before the break is to arrive.
            let late = cut.then(|frame: Result<Frame<Bytes>, io::Error>| async move {
                if frame.is_err() {
                    sleep(BREAK).await;
                }
                frame
            });
            StreamBody::new(late.boxed())
        }),
    }
}

/// The part of a URI after the question mark.
struct Query(String);

impl Query {
    fn value(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| unescaped(value))
    }
}

fn unescaped(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let code = match byte {
            b'%' => [rest.next(), rest.next()],
            b'+' => {
                bytes.push(b' ');
                continue;
            }
            byte => {
                bytes.push(byte);
                continue;
            }
        };
        if let [Some(high), Some(low)] = code
            && let Ok(text) = std::str::from_utf8(&[high, low])
            && let Ok(byte) = u8::from_str_radix(text, 16)
        {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! HTTP for load balancers and kubelets: one question and one answer a connection, all of it bounded.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use podway_intent::Name;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::told::Answers;

/// Connections of the node itself, and as many of all others: kubelet asks from the node, and who keeps others' busy must not
/// have it end an agent that does its work.
const CONNECTIONS: usize = 128;
/// How long a connection may take, its request and its answer included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long no connection is taken after one could not be.
const PAUSE: Duration = Duration::from_millis(100);
/// The weight that some load balancers go by, as kube-proxy sends it.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Whether the node should get traffic: `/healthz`.
    Healthy,
    /// Whether the agent does its work: `/livez`.
    Alive,
    /// Whether a service has endpoints here: any path of its port.
    Service(Name),
}

/// What is answered: 200 or 503.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Health {
    /// 200, with what is known.
    Well(Value),
    /// 503, with what is known.
    Unwell(Value),
}

/// Which questions a port answers.
#[derive(Clone, Debug)]
pub(super) enum Questions {
    /// `/healthz` and `/livez`.
    Agent,
    /// Those about a service.
    Service(Name),
}

/// Takes a port; for all addresses of a kernel without IPv6 those of IPv4.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
                && address.ip().is_unspecified() =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    }
}

/// Answers until it is dropped; connections beyond the limit are closed.
pub(super) async fn serve(listener: TcpListener, questions: Questions, answers: Answers) {
    let [own, others] = [CONNECTIONS; 2].map(|count| Arc::new(Semaphore::new(count)));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let is_own = stream.local_addr().is_ok_and(|to| to.ip() == from.ip());
        let limit = if is_own { &own } else { &others };
        let Ok(permit) = limit.clone().try_acquire_owned() else {
            continue;
        };
        let (questions, answers) = (questions.clone(), answers.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, connection(stream, &questions, &answers)).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, questions: &Questions, answers: &Answers) {
    let answered = service_fn(async |request: Request<Incoming>| {
        let response = match probe(questions, request.uri().path()) {
            Some(probe) => response(answers.to(probe).await),
            None => empty(StatusCode::NOT_FOUND),
        };
        Ok::<_, Infallible>(response)
    });
    // What goes wrong with a client's connection is the client's to know.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answered)
        .await;
}

fn probe(questions: &Questions, path: &str) -> Option<Probe> {
    match (questions, path) {
        (Questions::Service(name), _) => Some(Probe::Service(name.clone())),
        (Questions::Agent, "/healthz") => Some(Probe::Healthy),
        (Questions::Agent, "/livez") => Some(Probe::Alive),
        (Questions::Agent, _) => None,
    }
}

fn response(health: Health) -> Response<Full<Bytes>> {
    let (status, body) = match health {
        Health::Well(body) => (StatusCode::OK, body),
        Health::Unwell(body) => (StatusCode::SERVICE_UNAVAILABLE, body),
    };
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, "application/json".parse().expect("legal"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, "nosniff".parse().expect("legal"));
    if let Some(endpoints) = body["localEndpoints"].as_u64() {
        headers.insert(WEIGHT, endpoints.into());
    }
    *response.body_mut() = Full::from(format!("{body}\n"));
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::super::told::Readiness;
    use super::super::told::tests::{answers, web};
    use super::*;

    async fn port(questions: Questions, answers: Answers) -> SocketAddr {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener, questions, answers));
        address
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: it\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("answered");
        text
    }

    #[tokio::test(flavor = "current_thread")]
    async fn s6_s7_questions_are_told_apart_and_answered_by_200_or_503() {
        let answers = answers(Readiness::NotYet("wait"), 0);
        let agent = port(Questions::Agent, answers.clone()).await;
        let healthz = get(agent, "/healthz").await;
        assert!(healthz.starts_with("HTTP/1.1 503 "), "{healthz}");
        let body = "{\"nodeEligible\":true,\"problems\":[\"wait\"]}\n";
        assert!(healthz.ends_with(body), "{healthz}");
        let livez = get(agent, "/livez").await;
        assert!(livez.starts_with("HTTP/1.1 200 "), "{livez}");
        let other = get(agent, "/metrics").await;
        assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
        let service = port(Questions::Service(web()), answers).await;
        let any = get(service, "/any").await;
        assert!(any.starts_with("HTTP/1.1 503 "), "{any}");
        assert!(any.contains(&format!("{WEIGHT}: 1")), "{any}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn s7_others_that_hold_all_their_connections_do_not_keep_the_node_from_asking() {
        let agent = port(Questions::Agent, answers(Readiness::Ready, 0)).await;
        let mut held = Vec::new();
        for _ in 0..=CONNECTIONS {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket
                .bind(SocketAddr::from(([127, 0, 0, 2], 0)))
                .expect("bound");
            held.push(socket.connect(agent).await.expect("it listens"));
        }
        let mut beyond = held.pop().expect("the last one");
        assert_eq!(beyond.read(&mut [0]).await.expect("closed"), 0);
        let livez = get(agent, "/livez").await;
        assert!(livez.starts_with("HTTP/1.1 200 "), "{livez}");
        for mut stream in held {
            let request = b"GET /livez HTTP/1.1\r\nHost: it\r\n\r\n";
            stream.write_all(request).await.expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("answered");
            assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn s6_s7_a_control_that_is_at_one_thing_for_too_long_is_found() {
        let hung = "\"problems\":[\"control has been at one thing for 91 s\"]";
        for (seconds, code, problems) in [(90, 200, "\"problems\":[]"), (91, 503, hung)] {
            let answers = answers(Readiness::Ready, seconds);
            let agent = port(Questions::Agent, answers.clone()).await;
            for path in ["/livez", "/healthz"] {
                let said = get(agent, path).await;
                assert!(said.starts_with(&format!("HTTP/1.1 {code} ")), "{said}");
                assert!(said.contains(problems), "{said}");
            }
            let service = port(Questions::Service(web()), answers).await;
            let said = get(service, "/").await;
            assert!(said.starts_with(&format!("HTTP/1.1 {code} ")), "{said}");
        }
    }
}

//! One attempt to reach a server.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::Outcome;
use crate::cluster::Protocol;

/// How long an answer may take: long enough for a SYN that is sent again after a second.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How long a UDP server has before it is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a client in the caller's namespace sees of a server; UDP servers are expected to echo.
pub(crate) async fn dial(address: SocketAddr, protocol: Protocol) -> Outcome {
    let attempt = async {
        match protocol {
            Protocol::Tcp => TcpStream::connect(address).await.map(drop),
            Protocol::Udp => echoed(address).await,
            Protocol::Sctp => Err(ErrorKind::Unsupported.into()),
        }
    };
    match timeout(PATIENCE, attempt).await {
        Ok(Ok(())) => Outcome::Open,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Ok(Err(_)) | Err(_) => Outcome::Closed,
    }
}

async fn echoed(address: SocketAddr) -> io::Result<()> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let question = format!("podway lab check {address}");
    let mut answer = vec![0; 2 * question.len()];
    loop {
        socket.send(question.as_bytes()).await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut answer)).await {
            return match &answer[..received?] == question.as_bytes() {
                true => Ok(()),
                false => Err(ErrorKind::InvalidData.into()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use podway_host::{Namespace, NetlinkError, Network};

    use super::*;
    use crate::{Serve, Service, serve};

    /// Runs a test in a namespace of its own whose loopback is up.
    fn run(name: &str, test: impl AsyncFnOnce() + Send) {
        let name = format!("podway-test-probe-{name}");
        Namespace::remove(&name).unwrap();
        let namespace = Namespace::create(&name).unwrap();
        Network::of(&namespace, async |network: Network| network.prepare().await)
            .unwrap_or_else(|error: NetlinkError| panic!("{error}"));
        let tested = namespace.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(test());
        });
        Namespace::remove(&name).unwrap();
        tested.unwrap();
    }

    async fn echoes(service: Service, protocol: Protocol) {
        let (v4, v6): (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(dial((v6, 7).into(), protocol).await, Outcome::Refused);
        let address = Ipv6Addr::UNSPECIFIED.into();
        tokio::spawn(async move {
            serve(&Serve {
                service,
                address,
                port: 7,
            })
            .await
        });
        tokio::task::yield_now().await;
        assert_eq!(dial((v4, 7).into(), protocol).await, Outcome::Open);
        assert_eq!(dial((v6, 7).into(), protocol).await, Outcome::Open);
    }

    #[test]
    fn an_echo_over_udp_is_open_to_both_families() {
        run("udp", async || {
            echoes(Service::UdpEcho, Protocol::Udp).await
        });
    }

    #[test]
    fn an_echo_over_tcp_is_open_to_both_families() {
        run("tcp", async || {
            echoes(Service::TcpEcho, Protocol::Tcp).await
        });
    }

    #[test]
    fn a_silent_server_is_closed() {
        run("silent", async || {
            let silent = UdpSocket::bind("127.0.0.1:7").await.unwrap();
            let outcome = dial(silent.local_addr().unwrap(), Protocol::Udp).await;
            assert_eq!(outcome, Outcome::Closed);
        });
    }
}

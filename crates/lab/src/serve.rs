//! Small servers for containers of a lab.

use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::Error;

/// How many clients a TCP server has at once; the others wait in the listen queue.
const CLIENTS: usize = 256;

/// What a server offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Each datagram goes back to its sender.
    UdpEcho,
    /// Each byte goes back on its connection.
    TcpEcho,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "udp-echo" => Ok(Self::UdpEcho),
            "tcp-echo" => Ok(Self::TcpEcho),
            _ => Err(format!(
                "`{text}` is not offered; choose udp-echo or tcp-echo"
            )),
        }
    }
}

/// A server and where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// What it offers.
    pub service: Service,
    /// Where it listens; `::` takes IPv4 too.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Serves until the process ends; returns only if that fails.
pub async fn serve(options: &Serve) -> Result<Infallible, Error> {
    let Serve {
        service,
        address,
        port,
    } = *options;
    let served = match service {
        Service::UdpEcho => udp_echo(UdpSocket::bind((address, port)).await).await,
        Service::TcpEcho => tcp_echo(TcpListener::bind((address, port)).await).await,
    };
    served.map_err(|source| Error::Serve {
        address,
        port,
        source,
    })
}

async fn udp_echo(socket: std::io::Result<UdpSocket>) -> std::io::Result<Infallible> {
    let socket = socket?;
    let mut datagram = vec![0; 65_536];
    loop {
        // Errors here are about single datagrams: the client of an earlier one is gone.
        if let Ok((length, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(&datagram[..length], client).await;
        }
    }
}

async fn tcp_echo(listener: std::io::Result<TcpListener>) -> std::io::Result<Infallible> {
    let listener = listener?;
    let seats = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let seat = Arc::clone(&seats)
            .acquire_owned()
            .await
            .expect("never closed");
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(async move {
            let _ = echo(stream).await;
            drop(seat);
        });
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<u64> {
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await
}

//! What clients saw, beside what the manifests say.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// What a client sees of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It answers.
    Open,
    /// Nothing comes back.
    Closed,
    /// It says no: TCP reset, or ICMP port unreachable.
    Refused,
}

/// One client, one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The client: `NAMESPACE/POD` or `node:NAME`.
    pub from: String,
    /// The server: `NAMESPACE/POD` or `service:NAMESPACE/NAME`.
    pub to: String,
    /// The address that is dialled; each family has its own cell.
    pub address: IpAddr,
    /// The port that is dialled.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// What the manifests say.
    pub expected: Outcome,
    /// What the client sees.
    pub seen: Outcome,
}

/// All clients, all servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The cells, by client.
    pub cells: Vec<Cell>,
    /// How many of them are not as expected.
    pub wrong: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Open => "open",
            Outcome::Closed => "closed",
            Outcome::Refused => "refused",
        })
    }
}

/// A row for each server, a column for each client; what is wrong stands out, and is listed below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clients: Vec<&str> = Vec::new();
        let mut servers = Vec::new();
        for cell in &self.cells {
            if !clients.contains(&cell.from.as_str()) {
                clients.push(&cell.from);
            }
            let server = server_of(cell);
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        for (number, client) in clients.iter().enumerate() {
            writeln!(f, "{:>3} = {client}", number + 1)?;
        }
        let width = servers.iter().map(String::len).max().unwrap_or_default();
        write!(f, "{:width$}", "")?;
        (1..=clients.len()).try_for_each(|number| write!(f, " {number:>3}"))?;
        writeln!(f, "   (o open, - closed, r refused, ! wrong)")?;
        for server in servers {
            write!(f, "{server:width$}")?;
            for client in &clients {
                let of_pair = |cell: &&Cell| cell.from == *client && server_of(cell) == server;
                let mark = self.cells.iter().find(of_pair).map_or("", mark);
                write!(f, " {mark:>3}")?;
            }
            writeln!(f)?;
        }
        for cell in self.cells.iter().filter(|cell| cell.seen != cell.expected) {
            let Cell {
                from,
                expected,
                seen,
                ..
            } = cell;
            writeln!(
                f,
                "wrong: {from} to {}: expected {expected}, seen {seen}",
                server_of(cell)
            )?;
        }
        write!(f, "{} cells, {} wrong", self.cells.len(), self.wrong)
    }
}

fn server_of(cell: &Cell) -> String {
    let Cell {
        to,
        address,
        port,
        protocol,
        ..
    } = cell;
    format!("{to} {}/{protocol}", SocketAddr::new(*address, *port))
}

fn mark(cell: &Cell) -> &'static str {
    match (cell.seen, cell.seen == cell.expected) {
        (Outcome::Open, true) => "o",
        (Outcome::Closed, true) => "-",
        (Outcome::Refused, true) => "r",
        (Outcome::Open, false) => "!o",
        (Outcome::Closed, false) => "!-",
        (Outcome::Refused, false) => "!r",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cell = |from: &str, expected, seen| Cell {
            from: from.to_owned(),
            to: "shop/web".to_owned(),
            address: "10.244.1.2".parse().unwrap(),
            port: 8080,
            protocol: "tcp",
            expected,
            seen,
        };
        let cells = vec![
            cell("shop/client", Outcome::Open, Outcome::Open),
            cell("node:node1", Outcome::Closed, Outcome::Refused),
        ];
        Report { cells, wrong: 1 }
    }

    #[test]
    fn scripts_read_stable_keys() {
        let text = serde_json::to_string(&report()).unwrap();
        let first = r#"{"cells":[{"from":"shop/client","to":"shop/web","address":"10.244.1.2","port":8080,"#;
        let second = r#""protocol":"tcp","expected":"open","seen":"open"},"#;
        assert!(text.starts_with(&format!("{first}{second}")), "{text}");
        assert!(
            text.ends_with(r#""expected":"closed","seen":"refused"}],"wrong":1}"#),
            "{text}"
        );
    }

    #[test]
    fn people_read_a_matrix() {
        let text = "  1 = shop/client
  2 = node:node1
                               1   2   (o open, - closed, r refused, ! wrong)
shop/web 10.244.1.2:8080/tcp   o  !r
wrong: node:node1 to shop/web 10.244.1.2:8080/tcp: expected closed, seen refused
2 cells, 1 wrong";
        assert_eq!(report().to_string(), text);
    }
}

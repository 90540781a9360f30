//! The ports that the host's own stack picks from: masquerading must keep off them (F10).

use std::fs;

/// Where the kernel has the range, for each network namespace.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Why masquerading can't have its ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalPortsError {
    /// The host picks from them, too.
    #[error(
        "snat_ports: {}-{} overlaps net.ipv4.ip_local_port_range, {}-{}: set `snat_ports` to other ports, or narrow that range by sysctl",
        snat.0, snat.1, local.0, local.1
    )]
    Overlap {
        /// The first and last port for masquerading.
        snat: (u16, u16),
        /// The first and last of the host's.
        local: (u16, u16),
    },
    /// The host's range can't be read.
    #[error("{LOCAL_PORTS}: {0}: run podway with /proc mounted")]
    Unreadable(String),
}

/// Checks that the host picks none of the ports of `snat` for its own connections.
pub(super) fn check(snat: (u16, u16)) -> Result<(), LocalPortsError> {
    let unreadable = |problem: &dyn ToString| LocalPortsError::Unreadable(problem.to_string());
    let text = fs::read_to_string(LOCAL_PORTS).map_err(|error| unreadable(&error.kind()))?;
    let local = range(&text).ok_or_else(|| unreadable(&format!("{text:?} is no range")))?;
    apart(snat, local)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

fn apart(snat: (u16, u16), local: (u16, u16)) -> Result<(), LocalPortsError> {
    match snat.1 < local.0 || local.1 < snat.0 {
        true => Ok(()),
        false => Err(LocalPortsError::Overlap { snat, local }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f10_masquerading_keeps_off_the_hosts_own_ports() {
        let local = range("32768\t60999\n").expect("as the kernel writes it");
        assert_eq!(local, (32_768, 60_999));
        assert_eq!(range("many"), None);
        assert_eq!(apart((61_000, 65_535), local), Ok(()));
        assert_eq!(apart((20_000, 29_999), local), Ok(()));
        let error = apart((60_999, 65_535), local).expect_err("one port is both");
        assert_eq!(
            error.to_string(),
            "snat_ports: 60999-65535 overlaps net.ipv4.ip_local_port_range, 32768-60999: set `snat_ports` to other ports, or narrow that range by sysctl"
        );
    }
}

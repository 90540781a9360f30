//! The rules that kube-proxy writes, in either of its modes, for the services that are measured.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::cluster::{BACKEND_PORT, REMOTE_SERVICE, SERVICE_PORT, Scale, after, endpoint};

/// Which services there are, on one port, all with as many endpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    /// `udp` or `tcp`.
    pub(crate) protocol: &'static str,
    /// The address of the first service; the others follow.
    pub(crate) address: Ipv4Addr,
    /// The address of an endpoint, by its number.
    pub(crate) endpoint: fn(u32) -> Ipv4Addr,
}

impl Shape {
    /// The services whose endpoints are on another node.
    pub(crate) fn of(scale: Scale) -> Shape {
        Shape {
            services: scale.services,
            endpoints: scale.endpoints,
            protocol: "udp",
            address: REMOTE_SERVICE,
            endpoint,
        }
    }

    /// The table of the mode `nftables`.
    pub(crate) fn nftables(&self) -> String {
        let Shape {
            endpoints,
            protocol,
            ..
        } = self;
        let mut services = String::new();
        let mut chains = String::new();
        for service in 0..self.services {
            let address = after(self.address, service);
            let comma = if service == 0 { "" } else { ", " };
            write!(
                services,
                "{comma}{address} . {protocol} . {SERVICE_PORT} : goto service-{service}"
            )
            .expect("a string takes all");
            let ends = service * endpoints..(service + 1) * endpoints;
            let members: Vec<_> = ends
                .clone()
                .map(|end| format!("{} : goto endpoint-{end}", end % endpoints))
                .collect();
            writeln!(
                chains,
                "chain service-{service} {{
                    ip daddr {address} {protocol} dport {SERVICE_PORT} ip saddr != 10.0.0.0/8 jump mark-for-masquerade
                    numgen random mod {endpoints} vmap {{ {} }}
                }}",
                members.join(", ")
            )
            .expect("a string takes all");
            for end in ends {
                let address = (self.endpoint)(end);
                writeln!(
                    chains,
                    "chain endpoint-{end} {{
                        ip saddr {address} jump mark-for-masquerade
                        meta l4proto {protocol} dnat to {address}:{BACKEND_PORT}
                    }}"
                )
                .expect("a string takes all");
            }
        }
        format!(
            "table ip kube-proxy {{
                set cluster-ips {{ type ipv4_addr; }}
                map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
                map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
                chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
                {chains}
                map service-ips {{
                    type ipv4_addr . inet_proto . inet_service : verdict
                    elements = {{ {services} }}
                }}
                chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
                chain masquerading {{
                    meta mark and 0x4000 == 0 return
                    meta mark set meta mark xor 0x4000
                    masquerade fully-random
                }}
                chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
                chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
                chain cluster-ips-check {{ ip daddr @cluster-ips reject; }}
                chain filter-prerouting {{
                    type filter hook prerouting priority -110; policy accept
                    ct state new jump firewall-check
                }}
                chain filter-forward {{
                    type filter hook forward priority -110; policy accept
                    ct state new jump service-endpoints-check
                    ct state new jump cluster-ips-check
                }}
                chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
                chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading; }}
            }}\n"
        )
    }

    /// What the mode `iptables` restores.
    pub(crate) fn iptables(&self) -> String {
        let Shape {
            endpoints,
            protocol,
            ..
        } = self;
        let (mut chains, mut services, mut rules) = (String::new(), String::new(), String::new());
        for service in 0..self.services {
            let address = after(self.address, service);
            let name = format!("bench/remote-{service}");
            let matched =
                format!("-d {address}/32 -p {protocol} -m {protocol} --dport {SERVICE_PORT}");
            let comment = format!("-m comment --comment \"{name} cluster IP\"");
            writeln!(chains, ":KUBE-SVC-{service} - [0:0]").expect("a string takes all");
            writeln!(
                services,
                "-A KUBE-SERVICES {comment} {matched} -j KUBE-SVC-{service}"
            )
            .expect("a string takes all");
            writeln!(
                rules,
                "-A KUBE-SVC-{service} ! -s 10.0.0.0/8 {comment} {matched} -j KUBE-MARK-MASQ"
            )
            .expect("a string takes all");
            for place in 0..*endpoints {
                let number = service * endpoints + place;
                let end = format!("{}:{BACKEND_PORT}", (self.endpoint)(number));
                let left = endpoints - place;
                // Each takes its share of what those before it left.
                let chance = match left {
                    1 => String::new(),
                    _ => format!(
                        " -m statistic --mode random --probability {:.11}",
                        1.0 / f64::from(left)
                    ),
                };
                writeln!(chains, ":KUBE-SEP-{number} - [0:0]").expect("a string takes all");
                writeln!(
                    rules,
                    "-A KUBE-SVC-{service} -m comment --comment \"{name} -> {end}\"{chance} -j KUBE-SEP-{number}
-A KUBE-SEP-{number} -s {}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ
-A KUBE-SEP-{number} -p {protocol} -m comment --comment \"{name}\" -m {protocol} -j DNAT --to-destination {end}",
                    (self.endpoint)(number)
                )
                .expect("a string takes all");
            }
        }
        format!(
            "*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
{chains}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
{services}-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
{rules}COMMIT
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::FRESH;

    #[test]
    fn every_endpoint_has_its_share_of_what_is_left() {
        let text = Shape::of(FRESH).iptables();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("-j DNAT"), 1_000);
        assert_eq!(count("--probability"), 900);
        assert_eq!(count("--probability 0.50000000000 "), 100);
        assert_eq!(count("-A KUBE-SERVICES -m comment --comment \"bench/"), 100);
        assert!(text.lines().all(|line| !line.starts_with(' ')), "{text}");
        assert_eq!(
            Shape::of(FRESH).nftables().matches("dnat to").count(),
            1_000
        );
    }
}

//! Open vSwitch as OVN uses it: userspace datapath on AF_XDP ports, conntrack DNAT by select groups, and VXLAN.

use std::fmt::Write as _;

use super::bed::{Bed, PREFIX, ip};
use super::case::{Case, PEER_VTEP_MAC, VTEP_MAC};
use super::{SOURCE_CORE, forwarder_core};
use crate::cluster::{
    BACKEND_PORT, CLIENT_MAC, GATEWAY_MAC, NODE, PEER, PEER_MAC, REMOTE_SERVICE, SERVICE_PORT,
    Scale, TUNNEL_PORT, UPLINK_MAC, VNI, after, endpoint,
};
use crate::switch::Switch;

/// OpenFlow ports of the pod's device and of the tunnel.
const POD: u32 = 1;
const TUNNEL: u32 = 2;

/// Has a switch forward between `in` and `wire` for as long as the value lives.
pub(crate) fn start(_bed: &Bed, case: &Case) -> anyhow::Result<Switch> {
    let cores = (0..case.workers).map(|worker| 1 << forwarder_core(worker));
    let switch = Switch::start(&format!("{PREFIX}node"), cores.sum(), SOURCE_CORE)?;
    switch.configure("add-br pods -- set bridge pods datapath_type=netdev fail-mode=secure")?;
    switch.configure(&format!(
        "add-br under -- set bridge under datapath_type=netdev other-config:hwaddr=\"{UPLINK_MAC}\""
    ))?;
    switch.add_device("pods", "in", POD, case.workers)?;
    switch.add_device("under", "wire", 1, case.workers)?;
    ip(
        "node",
        &format!("address add {NODE}/24 dev under\nlink set under up\n"),
    )?;
    switch.configure(&format!(
        "add-port pods vx -- set interface vx type=vxlan options:remote_ip={PEER} options:local_ip={NODE} options:key={VNI} options:dst_port={TUNNEL_PORT} ofport_request={TUNNEL}"
    ))?;
    switch.tell(&format!("tnl/neigh/set under {PEER} {PEER_MAC}"))?;
    let (groups, flows) = openflow(case.scale());
    switch.program_flows("pods", &groups, &flows)?;
    Ok(switch)
}

/// Groups and flows: what conntrack has translated goes on, what still has a service's address has an endpoint chosen.
///
/// A flow that nobody answers stays new to conntrack, so its state can't tell the two apart.
fn openflow(scale: Scale) -> (String, String) {
    let (mut groups, mut flows) = (String::new(), String::new());
    for service in 0..scale.services {
        let group = service + 1;
        let ends = service * scale.endpoints..(service + 1) * scale.endpoints;
        let buckets: String = ends
            .map(|end| {
                let end = endpoint(end);
                format!(",bucket=ct(commit,table=2,zone=1,nat(dst={end}:{BACKEND_PORT}))")
            })
            .collect();
        writeln!(groups, "group_id={group},type=select{buckets}").expect("a string takes all");
        let address = after(REMOTE_SERVICE, service);
        writeln!(
            flows,
            "table=1,priority=10,ct_state=+trk+new,udp,nw_dst={address},tp_dst={SERVICE_PORT},actions=group:{group}"
        )
        .expect("a string takes all");
    }
    flows += &format!(
        "table=0,priority=10,in_port={POD},ip,actions=ct(table=1,zone=1,nat)
         table=1,priority=5,ct_state=+trk,ip,actions=resubmit(,2)
         table=2,priority=10,ip,actions=dec_ttl,set_field:{VTEP_MAC}->eth_src,set_field:{PEER_VTEP_MAC}->eth_dst,output:{TUNNEL}
         table=0,priority=10,in_port={TUNNEL},ip,actions=ct(table=3,zone=1,nat)
         table=3,priority=10,ct_state=+trk,ip,actions=dec_ttl,set_field:{GATEWAY_MAC}->eth_src,set_field:{CLIENT_MAC}->eth_dst,output:{POD}\n"
    );
    (groups, flows)
}

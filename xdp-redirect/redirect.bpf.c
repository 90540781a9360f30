// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hands pod and service traffic to AF_XDP sockets, and leaves the rest to the host.
 *
 * It decides by device first: all that a pod sends is ours, and dropped when nobody listens, so that policy
 * never fails open; all that the host sends into its veth is ours, and passed when nobody listens; of what the
 * wire brings, ours are tunnels, local ranges, node ports, answers to masqueraded flows and what pods of direct peers
 * send to the node, unless behind a VLAN tag. Packets are only looked at, never changed. Fragments after the first carry no ports: they are ours if their address is, else
 * the host's, whose reassembly can't complete without the first. What the node sends to itself is own.h's.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "redirect.h"

#define MAX_VLAN_TAGS 8 /* as deep as the kernel stacks devices */
#define MAX_EXTENSION_HEADERS 8 /* as many as the engine follows */

const volatile __u32 queues = 1; /* sockets a port; set before loading */
const volatile enum reason reasons = REASONS; /* nobody reads it: by it the loader's build comes to know the enum */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u8);
} local4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u8);
} local6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix4);
	__type(value, __u8);
} direct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix6);
	__type(value, __u8);
} direct6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u8);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct node_port);
	__type(value, __u8);
} node_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct portless);
	__type(value, __u8);
} portless SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} host_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		++*counter;
}

/* Hands the packet to its queue's socket; without one `fallback` is its fate, and `closed` the counter. */
static __always_inline int hand_up(struct xdp_md *ctx, const struct port *port, __u32 reason, __u32 closed,
				   int fallback)
{
	__u32 queue = ctx->rx_queue_index;
	int action = fallback;

	/* A queue beyond ours must not reach the next port's socket. */
	if (queue < queues)
		action = bpf_redirect_map(&xsks, port->index * queues + queue, fallback);
	count(action == XDP_REDIRECT ? reason : closed);
	return action;
}

static __always_inline int for_us(struct xdp_md *ctx, const struct port *port, __u32 reason)
{
	return hand_up(ctx, port, reason, REASON_UPLINK_CLOSED, XDP_DROP);
}

static __always_inline int for_host(__u32 reason)
{
	count(reason);
	return XDP_PASS;
}

static __always_inline int in_snat_range(const struct settings *set, __u16 port)
{
	return set->snat_first && port >= set->snat_first && port <= set->snat_last;
}

/* A port of the masquerading range at which the host has a socket, and no flow of ours: reached without us (R3). */
static __always_inline int is_hosts(__u8 protocol, __u16 port)
{
	__u32 word = (protocol == IPPROTO_UDP ? PORT_WORDS : 0) + port / 64;
	const __u64 *ports_of_host;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	ports_of_host = bpf_map_lookup_elem(&host_ports, &word);
	return ports_of_host && *ports_of_host >> port % 64 & 1;
}

/* What a datagram with these ports, sent to a node address, is to us; REASON_UPLINK_PASS if nothing. */
static __always_inline __u32 claim(const struct settings *set, __u8 protocol, __u16 destination)
{
	struct node_port key = { .port = destination, .protocol = protocol };

	if (protocol == IPPROTO_UDP && set->tunnel_port && destination == set->tunnel_port)
		return REASON_TUNNEL;
	if (in_snat_range(set, destination) && !is_hosts(protocol, destination))
		return REASON_SNAT;
	if (bpf_map_lookup_elem(&node_ports, &key))
		return REASON_NODE_PORT;
	return REASON_UPLINK_PASS;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* What a peer sends by a protocol without ports is ours only if we speak to it so: the host may have tunnels of its own. */
static __always_inline int is_portless(const struct address *peer, __u8 protocol)
{
	struct portless key = { .protocol = protocol };

	if (has_ports(protocol) || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return 0;
	__builtin_memcpy(key.peer, peer->bytes, 16);
	return bpf_map_lookup_elem(&portless, &key) != 0;
}

/*
 * An ICMP error quotes the packet that we sent: it is ours if that one's source port is. So is what says that a packet
 * of the tunnel, whose source ports are any, was too big: it is about nobody's socket here.
 */
static __always_inline __u32 claim_quoted(struct xdp_md *ctx, const struct settings *set, __u32 at, __u8 family,
					  int too_big)
{
	struct address peer = { .bytes = { [10] = 0xff, [11] = 0xff } };
	__u8 version_and_length, protocol;
	__be16 quoted[2]; /* source and destination port */
	__u32 ports;

	if (family == 4) {
		if (bpf_xdp_load_bytes(ctx, at, &version_and_length, 1) ||
		    bpf_xdp_load_bytes(ctx, at + 9, &protocol, 1) ||
		    bpf_xdp_load_bytes(ctx, at + offsetof(struct iphdr, daddr), peer.bytes + 12, 4))
			return REASON_UPLINK_UNREAD;
		ports = at + (version_and_length & 15) * 4;
	} else {
		if (bpf_xdp_load_bytes(ctx, at + 6, &protocol, 1) ||
		    bpf_xdp_load_bytes(ctx, at + offsetof(struct ipv6hdr, daddr), peer.bytes, 16))
			return REASON_UPLINK_UNREAD;
		ports = at + sizeof(struct ipv6hdr);
	}
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		ports += 4; /* the echo's identifier */
	else if (!has_ports(protocol))
		return is_portless(&peer, protocol) ? REASON_SNAT : REASON_UPLINK_PASS;
	if (bpf_xdp_load_bytes(ctx, ports, quoted, sizeof(quoted)))
		return REASON_UPLINK_UNREAD;
	if (too_big && protocol == IPPROTO_UDP && set->tunnel_port && bpf_ntohs(quoted[1]) == set->tunnel_port)
		return REASON_TUNNEL_ERROR;
	/* What is from the tunnel's port is no tunnel's: those are to it. */
	return claim(set, protocol == IPPROTO_UDP && bpf_ntohs(quoted[0]) == set->tunnel_port ? 0 : protocol,
		     bpf_ntohs(quoted[0]));
}

/* ICMP to a node address: errors by what they quote, echo replies by their identifier. */
static __always_inline __u32 claim_icmp(struct xdp_md *ctx, const struct settings *set, __u32 at, __u8 family)
{
	__be16 identifier;
	__u8 header[2], type;

	if (bpf_xdp_load_bytes(ctx, at, header, sizeof(header)))
		return REASON_UPLINK_UNREAD;
	type = header[0];
	if (family == 4 ? type == 3 || type == 11 || type == 12 : type >= 1 && type <= 4)
		return claim_quoted(ctx, set, at + 8, family, family == 4 ? type == 3 && header[1] == 4 : type == 2);
	if (type != (family == 4 ? 0 : 129))
		return REASON_UPLINK_PASS;
	if (bpf_xdp_load_bytes(ctx, at + 4, &identifier, sizeof(identifier)))
		return REASON_UPLINK_UNREAD;
	return in_snat_range(set, bpf_ntohs(identifier)) ? REASON_SNAT : REASON_UPLINK_PASS;
}

/* What a packet to a node address is to us, by what follows its network header at `at`. */
static __always_inline __u32 claim_transport(struct xdp_md *ctx, __u32 at, __u8 protocol, __u8 family)
{
	__u32 zero = 0;
	const struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	__be16 destination;

	if (!set)
		return REASON_UPLINK_PASS;
	if (protocol == (family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return claim_icmp(ctx, set, at, family);
	if (!has_ports(protocol))
		return REASON_UPLINK_PASS;
	if (bpf_xdp_load_bytes(ctx, at + 2, &destination, sizeof(destination)))
		return REASON_UPLINK_UNREAD;
	return claim(set, protocol, bpf_ntohs(destination));
}

static __always_inline __u32 classify4(struct xdp_md *ctx, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + at;
	struct prefix4 prefix = { .length = 32 };
	struct address address = { .bytes = { [10] = 0xff, [11] = 0xff } };

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return REASON_UPLINK_UNREAD;
	__builtin_memcpy(prefix.address, &ip->daddr, 4);
	if (bpf_map_lookup_elem(&local4, &prefix))
		return REASON_LOCAL;
	__builtin_memcpy(address.bytes + 12, &ip->daddr, 4);
	if (!bpf_map_lookup_elem(&addresses, &address))
		return REASON_UPLINK_PASS;
	__builtin_memcpy(prefix.address, &ip->saddr, 4);
	if (bpf_map_lookup_elem(&direct4, &prefix))
		return REASON_DIRECT;
	__builtin_memcpy(address.bytes + 12, &ip->saddr, 4);
	if (is_portless(&address, ip->protocol))
		return REASON_SNAT;
	if (ip->frag_off & bpf_htons(0x1fff))
		return REASON_UPLINK_PASS;
	return claim_transport(ctx, at + ip->ihl * 4, ip->protocol, 4);
}

static __always_inline __u32 classify6(struct xdp_md *ctx, __u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + at;
	struct prefix6 prefix = { .length = 128 };
	struct address address;
	__u8 next;
	int i;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return REASON_UPLINK_UNREAD;
	__builtin_memcpy(prefix.address, &ip->daddr, 16);
	if (bpf_map_lookup_elem(&local6, &prefix))
		return REASON_LOCAL;
	__builtin_memcpy(address.bytes, &ip->daddr, 16);
	if (!bpf_map_lookup_elem(&addresses, &address))
		return REASON_UPLINK_PASS;
	__builtin_memcpy(prefix.address, &ip->saddr, 16);
	if (bpf_map_lookup_elem(&direct6, &prefix))
		return REASON_DIRECT;
	__builtin_memcpy(address.bytes, &ip->saddr, 16);
	next = ip->nexthdr;
	at += sizeof(*ip);
	for (i = 0; i <= MAX_EXTENSION_HEADERS; i++) {
		__u8 header[4];

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			return is_portless(&address, next) ? REASON_SNAT : claim_transport(ctx, at, next, 6);
		if (bpf_xdp_load_bytes(ctx, at, header, sizeof(header)))
			return REASON_UPLINK_UNREAD;
		if (next == IPPROTO_FRAGMENT) {
			if (header[2] || header[3] & 0xf8)
				return is_portless(&address, header[0]) ? REASON_SNAT : REASON_UPLINK_PASS;
			at += 8;
		} else if (next == IPPROTO_AH) {
			at += (header[1] + 2) * 4; /* RFC 4302, 2.2: in words of 32 bits */
		} else {
			at += (header[1] + 1) * 8; /* RFC 8200, 4.2 */
		}
		next = header[0];
	}
	return REASON_UPLINK_UNREAD;
}

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline int is_local(struct xdp_md *ctx, __u32 at, __be16 type)
{
	if (type == bpf_htons(ETH_P_IP)) {
		struct prefix4 prefix = { .length = 32 };

		return !bpf_xdp_load_bytes(ctx, at + offsetof(struct iphdr, daddr), prefix.address, 4) &&
		       bpf_map_lookup_elem(&local4, &prefix);
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct prefix6 prefix = { .length = 128 };

		return !bpf_xdp_load_bytes(ctx, at + offsetof(struct ipv6hdr, daddr), prefix.address, 16) &&
		       bpf_map_lookup_elem(&local6, &prefix);
	}
	return 0;
}

/*
 * Tagged frames are for the host's VLAN devices. But the host would forward those for the cluster's addresses to
 * the dataplane, as its own; and it takes any number of tags with the number 0 off.
 */
static __always_inline __u32 classify_tagged(struct xdp_md *ctx)
{
	__u32 at = sizeof(struct ethhdr);
	int i;

	for (i = 0; i < MAX_VLAN_TAGS; i++) {
		__be16 type;

		/* A tag is followed by the type of what it is before. */
		if (bpf_xdp_load_bytes(ctx, at + 2, &type, sizeof(type)))
			return REASON_UPLINK_UNREAD;
		at += 4;
		if (!is_tag(type))
			return is_local(ctx, at, type) ? REASON_UPLINK_TAGGED : REASON_UPLINK_PASS;
	}
	return REASON_UPLINK_TAGGED;
}

static __always_inline __u32 classify(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;

	if ((void *)(ethernet + 1) > end)
		return REASON_UPLINK_UNREAD;
	if (is_tag(ethernet->h_proto))
		return classify_tagged(ctx);
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return classify4(ctx, sizeof(*ethernet));
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		return classify6(ctx, sizeof(*ethernet));
	return REASON_UPLINK_PASS;
}

SEC("xdp.frags")
int podway_redirect(struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex, reason;
	const struct port *port = bpf_map_lookup_elem(&ports, &ifindex);

	if (!port)
		return for_host(REASON_UNKNOWN_DEVICE);
	if (port->kind == PORT_POD)
		return hand_up(ctx, port, REASON_POD, REASON_POD_CLOSED, XDP_DROP);
	if (port->kind == PORT_HOST)
		return hand_up(ctx, port, REASON_HOST, REASON_HOST_CLOSED, XDP_PASS);
	reason = classify(ctx);
	if (reason == REASON_UPLINK_PASS || reason == REASON_UPLINK_UNREAD)
		return for_host(reason);
	if (reason == REASON_UPLINK_TAGGED) {
		count(reason);
		return XDP_DROP;
	}
	return for_us(ctx, port, reason);
}

#include "own.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

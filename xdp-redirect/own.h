/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a node's own processes send to the node's own addresses stays on `lo`, where no XDP program sees it. Of that,
 * what is for a port that a service or pod has there leaves by the host's end of our pair instead, and so comes to the
 * dataplane like everything else that the host sends it (S26). All other packets go on as they are.
 */
#ifndef PODWAY_OWN_H
#define PODWAY_OWN_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct own_port);
	__type(value, __u8);
} own_ports SEC(".maps");

/* The target of a packet and its protocol; the offset of what follows its network header, or 0 if it has no ports. */
static __always_inline __u32 own_target(struct __sk_buff *skb, struct own_port *key)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) ||
		    ip.frag_off & bpf_htons(0x1fff))
			return 0;
		key->address.bytes[10] = 0xff;
		key->address.bytes[11] = 0xff;
		__builtin_memcpy(key->address.bytes + 12, &ip.daddr, 4);
		key->protocol = ip.protocol;
		return ip.ihl * 4;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
			return 0;
		__builtin_memcpy(key->address.bytes, &ip.daddr, 16);
		/* The stack puts no extension headers before what its own sockets send, unless a program asks for them. */
		key->protocol = ip.nexthdr;
		return sizeof(ip);
	}
	return 0;
}

SEC("tc")
int podway_own(struct __sk_buff *skb)
{
	struct own_port key = {};
	__u32 zero = 0, at = own_target(skb, &key);
	const struct settings *set = bpf_map_lookup_elem(&settings, &zero);
	__be16 port;

	if (!at || !set || !set->host_ifindex)
		return TC_ACT_UNSPEC;
	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP && key.protocol != IPPROTO_SCTP)
		return TC_ACT_UNSPEC;
	if (bpf_skb_load_bytes_relative(skb, at + 2, &port, sizeof(port), BPF_HDR_START_NET))
		return TC_ACT_UNSPEC;
	key.port = bpf_ntohs(port);
	if (!bpf_map_lookup_elem(&own_ports, &key))
		return TC_ACT_UNSPEC;
	return bpf_redirect(set->host_ifindex, 0);
}

#endif

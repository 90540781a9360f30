/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The benchmark's traffic source, and the kernel's own forwarder as its ceiling. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define HEADERS (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))
#define TUNNEL (HEADERS + 8) /* what VXLAN puts in front (RFC 7348) */

/* What to send; written by wire/source.rs, which packs it field by field. */
struct traffic {
	__u32 ifindex;
	__u32 flows;
	__u32 stride;  /* from one flow to the next: prime to their number, so that each has its turn */
	__u32 ports;   /* flows of one address */
	__u32 address; /* target of flow 0, or source of its replies, host order */
	__u32 ip_sum;  /* one's complement sums of what no flow changes, host order */
	__u32 udp_sum;
	__u32 interval_ns; /* from one packet to the next, 0: none */
	__u32 limit;       /* packets in all, 0: none */
	__u16 port;    /* source port of flow 0, or target port of its replies, host order */
	__u8 headers[TUNNEL + HEADERS]; /* without a tunnel, the second part is not used */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} wire SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sunk SEC(".maps");

static __u32 flow;

static __always_inline __be16 checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return bpf_htons(~sum & 0xffff);
}

static __u64 next_ns;
static __u32 sent;

enum way { OUT, BACK };

/* Writes the whole header: frames come back from the forwarder as it left them. */
static __always_inline int send(struct xdp_md *ctx, const enum way way)
{
	const __u32 inner = way == BACK ? TUNNEL : 0;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, address, port, varied, now;
	struct traffic *it = bpf_map_lookup_elem(&traffic, &zero);
	struct iphdr *ip = data + inner + sizeof(struct ethhdr);
	struct udphdr *udp = (void *)(ip + 1);
	__be16 sum;

	if (!it || !it->ports || (void *)(udp + 1) > end)
		return XDP_DROP;
	if (it->limit && sent >= it->limit)
		return XDP_DROP;
	if (it->interval_ns) {
		__u64 now_ns = bpf_ktime_get_ns();

		if (now_ns < next_ns)
			return XDP_DROP;
		/* Who was kept from sending for long does not make up for it. */
		next_ns = (now_ns - next_ns > 100000 ? now_ns : next_ns) + it->interval_ns;
	}
	++sent;
	now = flow;
	flow = now + it->stride >= it->flows ? now + it->stride - it->flows : now + it->stride;
	address = it->address + now / it->ports;
	port = it->port + now % it->ports;
	varied = (address >> 16) + (address & 0xffff);
	__builtin_memcpy(data, it->headers, inner + HEADERS);
	*(way == BACK ? &ip->saddr : &ip->daddr) = bpf_htonl(address);
	ip->check = checksum(it->ip_sum + varied);
	*(way == BACK ? &udp->dest : &udp->source) = bpf_htons(port);
	sum = checksum(it->udp_sum + varied + port);
	udp->check = sum ? sum : 0xffff; /* RFC 768: zero would say that there is none */
	return bpf_redirect(it->ifindex, 0);
}

/* From a client to services. */
SEC("xdp")
int bench_source(struct xdp_md *ctx)
{
	return send(ctx, OUT);
}

/* From endpoints to that client, in the tunnel. */
SEC("xdp")
int bench_replies(struct xdp_md *ctx)
{
	return send(ctx, BACK);
}

/* What the kernel can do without userspace: from one device to another, nothing looked at. */
SEC("xdp")
int bench_ceiling(struct xdp_md *ctx)
{
	return bpf_redirect_map(&wire, 0, XDP_DROP);
}

/* Counts and drops what comes by redirection: such packets would be copied into sk_buffs for anybody else. */
SEC("xdp")
int bench_sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&sunk, &zero);

	if (count)
		++*count;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

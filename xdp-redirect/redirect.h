/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the XDP program and its loader share: keys, values and reasons. */
#ifndef PODWAY_REDIRECT_H
#define PODWAY_REDIRECT_H

/* What a device is; the loader writes it before it attaches the program. */
enum port_kind {
	PORT_UPLINK = 1,
	PORT_HOST = 2,
	PORT_POD = 3,
};

/* Value of `ports`, by ifindex. */
struct port {
	enum port_kind kind;
	__u16 index; /* place in `xsks`: index * queues + queue */
	__u16 reserved;
};

/* Value of `settings`, which has one entry. */
struct settings {
	__u16 tunnel_port; /* host order; 0: this node has no tunnels */
	__u16 snat_first;  /* host order, inclusive; 0: no range */
	__u16 snat_last;   /* host order, inclusive */
	__u16 reserved;
	__u32 host_ifindex; /* the host's end of the pair; 0: there is none */
};

/* Keys of the longest-prefix maps `local4`, `local6`, `direct4` and `direct6`; addresses in network order. */
struct prefix4 {
	__u32 length;
	__u8 address[4];
};

struct prefix6 {
	__u32 length;
	__u8 address[16];
};

/* Key of `addresses`: IPv4 as ::ffff:a.b.c.d. */
struct address {
	__u8 bytes[16];
};

/* Key of `node_ports`. */
struct node_port {
	__u16 port;    /* host order */
	__u8 protocol; /* IANA number */
	__u8 reserved;
};

/* Key of `own_ports`: a port of a service or pod at an address of the node. */
struct own_port {
	struct address address;
	__u16 port;    /* host order */
	__u8 protocol; /* IANA number */
	__u8 reserved;
};

/* Words of `host_ports` for each of TCP and UDP, a bit a port: UDP's come behind TCP's. */
#define PORT_WORDS 1024

/* Key of `portless`: who is spoken to from here, under a node address, by a protocol without ports. */
struct portless {
	__u8 peer[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 protocol; /* IANA number */
	__u8 reserved[3];
};

/* What became of a packet: one counter each. The loader has a name for each of them, which its build checks. */
enum reason {
	REASON_POD,             /* from a pod, to the dataplane */
	REASON_POD_CLOSED,      /* from a pod, dropped: nobody listens */
	REASON_HOST,            /* from the host, to the dataplane */
	REASON_HOST_CLOSED,     /* from the host, passed: nobody listens */
	REASON_TUNNEL,          /* from the wire to our tunnel port */
	REASON_TUNNEL_ERROR,    /* from the wire, says that a packet of our tunnel was too big for its path */
	REASON_LOCAL,           /* from the wire to a pod, service or balancer address */
	REASON_DIRECT,          /* from the wire to a node address, by a pod of a node that sends without the tunnel */
	REASON_NODE_PORT,       /* from the wire to a node port */
	REASON_SNAT,            /* from the wire, the answer to a masqueraded flow */
	REASON_UPLINK_CLOSED,   /* from the wire and ours, dropped: nobody listens */
	REASON_UPLINK_PASS,     /* from the wire, the host's own */
	REASON_UPLINK_UNREAD,   /* from the wire, headers cut short or too many; the host's to judge */
	REASON_UPLINK_TAGGED,   /* from the wire behind a VLAN tag, for an address of the cluster: dropped */
	REASON_UNKNOWN_DEVICE,  /* attached to a device that no port names */
	REASONS,
};

#endif

"""Tells everybody on eth0 every 0.2 s that ADDRESS is at this machine, as keepalived and kube-vip do (RFC 5227, RFC 4861)."""
import socket, struct, sys, time

address = sys.argv[1]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mac = wire.getsockname()[4]
if ":" in address:
    claim = struct.pack("!BBHI", 136, 0, 0, 1 << 29) + socket.inet_pton(socket.AF_INET6, address) + b"\2\1" + mac
    it = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    it.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    to = ("ff02::1", 0, 0, socket.if_nametoindex("eth0"))
else:
    own = socket.inet_aton(address)
    claim = b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + own
    it, to = wire, ("eth0", 0)
print("claims", flush=True)
while True:
    it.sendto(claim, to)
    time.sleep(0.2)

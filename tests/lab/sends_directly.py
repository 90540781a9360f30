"""Sends ten datagrams, as they are, out of eth0: TARGET_MAC SOURCE TARGET [SOURCE_MAC]; without SOURCE_MAC under eth0's own."""
import socket
import struct
import sys

mac = lambda text: bytes.fromhex(text.replace(":", ""))
target_mac, source, target = sys.argv[1:4]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0x0800))
source_mac = mac(sys.argv[4]) if len(sys.argv) > 4 else wire.getsockname()[4]


def sum16(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


# A datagram to the port of nobody, without a checksum of its own.
payload = struct.pack("!HHHH", 40000, 9, 16, 0) + b"directly"
head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, 17, 0)
addresses = socket.inet_aton(source) + socket.inet_aton(target)
checksum = struct.pack("!H", sum16(head + addresses))
frame = mac(target_mac) + source_mac + b"\x08\x00" + head[:10] + checksum + addresses + payload
for _ in range(10):
    wire.send(frame)

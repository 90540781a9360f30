"""Asks HOST PORT udp|tcp COUNT times for A and AAAA from one socket, both at once; any answer that is missing is an error."""
import socket, struct, sys

host, port, transport, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
target = socket.getaddrinfo(host, port, type=kind)[0]


def question(number, record):
    name = b"".join(bytes([len(part)]) + part for part in (b"shop", b"test")) + b"\0"
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", record, 1)


def whole(stream, size):
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            sys.exit("the stream ended")
        data += part
    return data


for round_ in range(count):
    asked = {(2 * round_ + place) % 65536: record for place, record in enumerate((1, 28))}
    with socket.socket(target[0], kind) as it:
        it.settimeout(3)
        it.connect(target[4])
        for number, record in asked.items():
            packet = question(number, record)
            it.send(packet if transport == "udp" else struct.pack("!H", len(packet)) + packet)
        for _ in range(2):
            if transport == "udp":
                answer = it.recv(512)
            else:
                answer = whole(it, struct.unpack("!H", whole(it, 2))[0])
            number, flags, _, answers = struct.unpack("!HHHH", answer[:8])
            if number not in asked or flags & 15 or answers < 1:
                sys.exit(f"round {round_}: a wrong answer: {answer.hex()}")
            del asked[number]

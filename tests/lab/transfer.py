"""Moves BYTES each way over TCP, and compares what arrived with what was sent, by SHA-256.

serve PORT | ask HOST PORT BYTES
"""
import hashlib, os, socket, sys

BLOCK = 1 << 20


def send(stream, count):
    block, sum = os.urandom(BLOCK), hashlib.sha256()
    while count > 0:
        # No two blocks are equal, so that one in the place of another is seen.
        part = (count.to_bytes(8, "big") + block[8:])[: min(count, BLOCK)]
        stream.sendall(part)
        sum.update(part)
        count -= len(part)
    return sum.hexdigest()


def receive(stream, count):
    buffer, sum = bytearray(BLOCK), hashlib.sha256()
    while count > 0:
        got = stream.recv_into(buffer, min(count, BLOCK))
        if got == 0:
            sys.exit(f"ended {count} bytes early")
        sum.update(memoryview(buffer)[:got])
        count -= got
    return sum.hexdigest()


def word(stream):
    return stream.recv(64, socket.MSG_WAITALL).decode()


def serve(port):
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            stream, _ = listener.accept()
            with stream:
                count = int(word(stream))
                stream.sendall(receive(stream, count).encode())
                stream.sendall(send(stream, count).encode())


def ask(host, port, count):
    with socket.create_connection((host, port), timeout=120) as stream:
        stream.sendall(f"{count:064}".encode())
        sent = send(stream, count)
        arrived = word(stream)
        if arrived != sent:
            sys.exit(f"what arrived at {host} is not what was sent: {arrived} {sent}")
        got = receive(stream, count)
        meant = word(stream)
        if got != meant:
            sys.exit(f"what came from {host} is not what it sent: {got} {meant}")
        retransmitted = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:104]
        print(count, "bytes each way,", int.from_bytes(retransmitted, "little"), "retransmitted")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

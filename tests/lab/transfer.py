"""Moves BYTES each way over TCP, and compares what arrived with what was sent, by SHA-256.

serve PORT | ask HOST PORT BYTES STREAMS
"""
import hashlib, os, socket, sys, threading, time

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
            raise EOFError(f"ended {count} bytes early")
        sum.update(memoryview(buffer)[:got])
        count -= got
    return sum.hexdigest()


def word(stream):
    # A socket with a timeout gives what there is, MSG_WAITALL or not.
    said = b""
    while len(said) < 64 and (more := stream.recv(64 - len(said))):
        said += more
    return said.decode()


def retransmitted(stream):
    return int.from_bytes(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:104], "little")


def answer(stream):
    with stream:
        count = int(word(stream))
        stream.sendall(receive(stream, count).encode())
        stream.sendall(send(stream, count).encode())
        stream.sendall(f"{retransmitted(stream):064}".encode())


def serve(port):
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64) as listener:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=answer, args=[stream], daemon=True).start()


def ask(host, port, count, done):
    with socket.create_connection((host, port), timeout=120) as stream:
        stream.sendall(f"{count:064}".encode())
        sent = send(stream, count)
        arrived = word(stream)
        if arrived != sent:
            raise ValueError(f"what arrived at {host} is not what was sent: {arrived} {sent}")
        got = receive(stream, count)
        meant = word(stream)
        if got != meant:
            raise ValueError(f"what came from {host} is not what it sent: {got} {meant}")
        done.append((retransmitted(stream), int(word(stream))))


def ask_all(host, port, count, streams):
    done, start = [], time.monotonic()
    asking = [threading.Thread(target=ask, args=[host, port, count // streams, done]) for _ in range(streams)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    if len(done) < streams:
        sys.exit(f"{streams - len(done)} of {streams} streams failed")
    there, back = (sum(counts) for counts in zip(*done))
    seconds = time.monotonic() - start
    print(f"{count} bytes each way, streams: {streams}, in {seconds:.1f} s, retransmitted: {there} there, {back} back")


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask_all(sys.argv[2], *map(int, sys.argv[3:6]))

# One connection for as long as it lives: what is sent comes back, and a file says how often it did.
import os, socket, sys, time

host, port, transport, path = sys.argv[1:5]
kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[transport]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = socket.socket(family, kind)
s.settimeout(5)
s.connect((host, int(port)))
# It goes on sending without an answer: the server's own retransmissions come ever more seldom.
s.settimeout(0.2)
if transport == "tcp":
    # TCP_USER_TIMEOUT: a long silence doesn't end it.
    s.setsockopt(socket.IPPROTO_TCP, 18, 600_000)
    try:
        # TCP_RTO_MAX_MS: after a silence try again each second, not ever more seldom (Linux 6.15).
        s.setsockopt(socket.IPPROTO_TCP, 44, 1000)
    except OSError:
        pass
count = 0
while True:
    try:
        s.send(b"x")
        s.recv(16)
        count += 1
        # In one step: a reader never sees an empty file, which would count as no answer yet.
        with open(path + ".new", "w") as file:
            file.write(str(count))
        os.replace(path + ".new", path)
    except TimeoutError:
        pass
    time.sleep(0.02)

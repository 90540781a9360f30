"""Answers datagrams to ADDRESS PORT with NAME, whether or not the machine has the address yet (IP_FREEBIND)."""
import socket, sys

address, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as it:
    it.setsockopt(socket.IPPROTO_IP, 15, 1)
    it.bind((address, port))
    print("listens", flush=True)
    while True:
        _, peer = it.recvfrom(64)
        try:
            it.sendto(name.encode(), peer)
        except OSError:
            pass

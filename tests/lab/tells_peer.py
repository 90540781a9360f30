"""Tells each TCP client on PORT the address that it came from, and ends the connection."""
import socket, sys

with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("listens", flush=True)
    while True:
        client, peer = server.accept()
        with client:
            client.sendall(peer[0].removeprefix("::ffff:").encode())

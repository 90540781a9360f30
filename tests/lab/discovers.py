"""Sends datagrams that may not be cut to an echo server at HOST 7, and ends once its stack knows that MTU bytes fit."""
import errno, socket, sys

host, mtu = sys.argv[1], int(sys.argv[2])
six = ":" in host
family = socket.AF_INET6 if six else socket.AF_INET
# ip(7), ipv6(7): MTU_DISCOVER and its DO, MTU
level, discover, known = (socket.IPPROTO_IPV6, 23, 24) if six else (socket.IPPROTO_IP, 10, 14)
DO = 2

with socket.socket(family, socket.SOCK_DGRAM) as it:
    it.settimeout(3)
    it.setsockopt(level, discover, DO)
    it.connect((host, 7))
    for _ in range(10):
        try:
            it.send(bytes(1450))
            it.recv(4000)
            sys.exit("it came through whole")
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        if it.getsockopt(level, known) == mtu:
            break
    else:
        sys.exit(f"learnt {it.getsockopt(level, known)}")
    most = mtu - (48 if six else 28)
    it.send(bytes(most))
    assert len(it.recv(4000)) == most
    print("learnt", mtu)

"""Sends datagrams that are too big for the way to an echo server at HOST 7, and says what it learns: MTU at most, or 1450."""
import errno, socket, struct, sys

host = sys.argv[1]
most = int(sys.argv[2]) if len(sys.argv) > 2 else 1450
six = ":" in host
family = socket.AF_INET6 if six else socket.AF_INET
level, discover, receive_errors, mtu = (socket.IPPROTO_IPV6, 23, 25, 24) if six else (socket.IPPROTO_IP, 10, 11, 14)
# ip(7): what programs get that ask for nothing; DF and no look at the path's MTU; no DF and the device's MTU
WANT, PROBE, INTERFACE = 1, 3, 4


def connected(mode):
    it = socket.socket(family, socket.SOCK_DGRAM)
    it.settimeout(3)
    it.setsockopt(level, discover, mode)
    it.setsockopt(level, receive_errors, 1)
    it.connect((host, 7))
    return it


with connected(PROBE) as it:
    it.send(bytes(3000))
    try:
        it.recv(4000)
        sys.exit("a datagram that may not be cut came through")
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            sys.exit(f"not told that it is too big: {error!r}")
    # What the message says, which the stack keeps.
    _, ((_, _, error),), _, _ = it.recvmsg(4000, 512, socket.MSG_ERRQUEUE)
    learnt, = struct.unpack_from("8xI", error)
    if it.getsockopt(level, mtu) != learnt:
        sys.exit(f"not kept: an MTU of {learnt}")
    if not 1280 <= learnt <= most:
        sys.exit(f"learnt an MTU of {learnt}")
    print("learnt", learnt)
    it.send(bytes(learnt - 48))
    assert len(it.recv(4000)) == learnt - 48

if not six:
    body = bytes(range(250)) * 12
    for mode in (WANT, INTERFACE):
        with connected(mode) as it:
            it.send(body)
            try:
                back = it.recv(4000)
            except TimeoutError:
                # The server's stack was told of the way back with its first answer (R6), and cuts the next itself.
                it.send(body)
                back = it.recv(4000)
            assert back == body, "came back damaged"
    print("cut and put together")

"""Echoes numbered lines over one TCP connection: `serve PORT`, or `talk HOST PORT` until stdin closes.

`talk` prints how many lines it had back, each checked byte for byte, and how long the longest wait was; it fails on a
reset, an end, or a byte that is wrong."""
import select, socket, sys, time


def serve(port):
    it = socket.socket(socket.AF_INET6)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    it.bind(("::", port))
    it.listen()
    print("listens", flush=True)
    peer, _ = it.accept()
    while data := peer.recv(65536):
        peer.sendall(data)


def talk(host, port):
    with socket.create_connection((host, port), timeout=10) as it:
        it.settimeout(30)
        number, longest = 0, 0.0
        print("talks", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            line = b"%d\n" % number * 100
            start, back = time.monotonic(), b""
            it.sendall(line)
            while len(back) < len(line):
                got = it.recv(65536)
                if not got:
                    sys.exit("the other side ended it")
                back += got
            if back != line:
                sys.exit(f"line {number} came back otherwise")
            longest = max(longest, time.monotonic() - start)
            number += 1
            time.sleep(0.01)
    print(number, round(longest, 3))


{"serve": lambda: serve(int(sys.argv[2])), "talk": lambda: talk(sys.argv[2], int(sys.argv[3]))}[sys.argv[1]]()

"""Sends a numbered datagram to HOST PORT every 10 ms until stdin closes; prints how many, and the first ten that did not come back."""
import select, socket, sys, time

host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as it:
    it.connect((host, port))
    it.setblocking(False)
    sent, missing, end = 0, set(), None
    print("asks", flush=True)
    while end is None or missing and time.monotonic() < end:
        if end is None and select.select([sys.stdin], [], [], 0)[0]:
            end = time.monotonic() + 2
        if end is None:
            it.send(b"%d" % sent)
            missing.add(sent)
            sent += 1
        time.sleep(0.01)
        try:
            while True:
                missing.discard(int(it.recv(64)))
        except BlockingIOError:
            pass
print(sent, *sorted(missing)[:10])

# Counts the datagrams of two ports by source, and keeps the counts in a file.
import json, os, selectors, socket, sys

counts = {"9998": {}, "9999": {}}
selector = selectors.DefaultSelector()
for port in counts:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.bind(("0.0.0.0", int(port)))
    s.setblocking(False)
    selector.register(s, selectors.EVENT_READ, port)
changed = True
while True:
    if changed:
        with open(sys.argv[1] + ".new", "w") as file:
            json.dump(counts, file)
        os.replace(sys.argv[1] + ".new", sys.argv[1])
    changed = False
    for key, _ in selector.select(0.1):
        try:
            for _ in range(1000):
                _, (source, _) = key.fileobj.recvfrom(64)
                own = counts[key.data]
                own[source] = own.get(source, 0) + 1
                changed = True
        except BlockingIOError:
            pass

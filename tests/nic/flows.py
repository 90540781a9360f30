"""Sends a datagram of each of COUNT flows to an echo server, and says how many were never answered: flows.py HOST PORT COUNT."""
import select, socket, sys, time

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
waiting = {}
for number in range(count):
    flow = socket.socket(family, socket.SOCK_DGRAM)
    flow.connect((host, port))
    waiting[flow.fileno()] = flow
for attempt in range(4):
    for number, flow in enumerate(waiting.values()):
        flow.send(b"flow")
        # A burst of all would be a test of rings.
        if number % 8 == 7:
            time.sleep(0.01)
    until = time.monotonic() + 3
    while waiting and (left := until - time.monotonic()) > 0:
        for ready in select.select(list(waiting), [], [], left)[0]:
            try:
                waiting.pop(ready).recv(16)
            except OSError:
                pass
print(len(waiting))

"""Sends a numbered datagram to HOST 7 from port 40123 every 20 ms, COUNT in all, and prints the numbers that came back."""
import socket, sys, time

host, count = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
answered = []
with socket.socket(family, socket.SOCK_DGRAM) as it:
    it.bind(("", 40123))
    it.setblocking(False)
    for number in range(count):
        try:
            it.sendto(str(number).encode(), (host, 7))
            while True:
                answered.append(int(it.recv(64)))
        except OSError:
            pass
        time.sleep(0.02)
print(*answered)

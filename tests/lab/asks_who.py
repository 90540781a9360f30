"""Asks ADDRESS PORT from one socket every 20 ms until stdin closes; prints who answers whenever that is somebody else."""
import select, socket, sys, time

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as it:
    it.connect((address, port))
    it.setblocking(False)
    last = None
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            it.send(b"who")
            time.sleep(0.02)
            who = it.recv(64).decode()
            if who != last:
                print(who, flush=True)
                last = who
        except OSError:
            pass

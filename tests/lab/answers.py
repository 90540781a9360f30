"""Answers HTTP/1.1 requests with 10 000 bytes each, and counts them: answers.py PORT; /count says how many there were."""
import socket, sys, threading

BODY = bytes(range(250)) * 40
lock, count = threading.Lock(), 0


def respond(stream, body):
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def serve(stream):
    global count
    with stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        come = b""
        while True:
            while b"\r\n\r\n" not in come:
                more = stream.recv(65536)
                if not more:
                    return
                come += more
            request, come = come.split(b"\r\n\r\n", 1)
            if request.startswith(b"GET /count "):
                with lock:
                    told = count
                respond(stream, b"%d" % told)
            else:
                with lock:
                    count += 1
                respond(stream, BODY)


def answer(stream):
    try:
        serve(stream)
    except ConnectionError:
        pass  # the client went away in the middle, as load generators do


with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256) as listener:
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=[stream], daemon=True).start()

# Pods that send from the moment they exist: each start is a new device, a sender that never rests, and then the agent.
import json, socket, struct, subprocess, sys, threading, time

agent, starts, pods, first, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
MAC = bytes.fromhex("020000007701")
GATEWAY = bytes.fromhex("020000000001")


def ask(request):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(agent)
        s.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(s.makefile().readline())
    if "error" in answer:
        sys.exit(f"{request}: {answer}")


def packet(source, port):
    payload = b"first"
    udp = struct.pack("!HHHH", 5000, port, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, socket.inet_aton(target))
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    ip = ip[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + ip[12:]
    return GATEWAY + MAC + b"\x08\x00" + ip + udp


def flood(device, packets, stop, tried, sent):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((device, 0))
        while not stop.is_set():
            tried[0] += 1
            for one in packets:
                try:
                    s.send(one)
                    sent[0] += 1
                except OSError:
                    # The device's queue is full, or not up yet.
                    pass
            time.sleep(0.0002)


def until(holds):
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.001)


def carries(device):
    shown = subprocess.run(["ip", "-j", "link", "show", device], check=True, capture_output=True)
    return json.loads(shown.stdout)[0]["operstate"] == "UP"


early = 0
for start in range(starts):
    number = start % pods
    own = struct.pack("!I", struct.unpack("!I", socket.inet_aton(first))[0] + number)
    host, peer = f"pwwin{number}", f"pwpod{number}"
    link = ["ip", "link"]
    subprocess.run(link + ["add", host, "mtu", "9000", "type", "veth", "peer", "name", peer], check=True)
    subprocess.run(link + ["set", peer, "up"], check=True)
    stop, tried, sent = threading.Event(), [0], [0]
    sender = threading.Thread(target=flood, args=(peer, [packet(own, 9999), packet(own, 9998)], stop, tried, sent))
    sender.start()
    mac = ":".join(f"{byte:02x}" for byte in MAC)
    # Half of them have it up before the agent comes, as a CNI plugin of another kind might.
    if start % 2:
        subprocess.run(link + ["set", host, "up"], check=True)
    until(lambda: tried[0] > 1)
    early += tried[0] > 1
    ask({"attach": {"pod": f"x/window-{number}", "interface": host, "mac": mac, "mtu": 9000}})
    # It is in force: what is sent from now on arrives, if it may; a busy kernel lets a new link drop for a while.
    until(lambda: carries(peer))
    before = sent[0]
    until(lambda: sent[0] > before + 40)
    ask({"detach": {"pod": f"x/window-{number}"}})
    stop.set()
    sender.join()
    subprocess.run(link + ["del", host], check=True)
print(json.dumps({"starts": starts, "sent_before_the_agent": early}))

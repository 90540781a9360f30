#!/usr/bin/env python3
"""Stands in for `podway` in the lab's tests: an agent that lets the kernel forward, and knows neither services nor
policies. TABLE is replaced by the test: nodes with their address, gateways and pods, as JSON."""
import json, os, socket, subprocess, sys, tomllib

TABLE = json.loads(r'''@TABLE@''')


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def forward():
    for family in ("ipv4", "ipv6"):
        with open(f"/proc/sys/net/{family}/conf/all/forwarding", "w") as setting:
            setting.write("1")


def attach(node, request):
    interface = request["interface"]
    ip("link", "set", interface, "up")
    for gateway in node["gateways"]:
        ip("address", "add", gateway, "dev", interface, *(["nodad"] if ":" in gateway else []))
    for address in node["pods"][request["pod"]]:
        own = next(own for own in node["ranges"].values() if (":" in own) == (":" in address))
        # A server on the node answers a datagram from the address that the route says.
        ip("route", "add", address, "dev", interface, "src", own)


def network(node, config):
    return {"pod_ranges": list(node["ranges"]), "queues": config["workers"], "pod_mtu": config["pod_mtu"],
            "tunnel_mtu": 1450, "gateway_mac": "02:00:00:00:00:01", "problem": None}


def run(config):
    with open(config, "rb") as file:
        config = tomllib.load(file)
    if TABLE.get("refuse"):
        print(TABLE["refuse"], flush=True)
        sys.exit(3)
    node = TABLE["nodes"][config["node"]]
    forward()
    for name, peer in TABLE["nodes"].items():
        if name != config["node"]:
            for pod_range, via in peer["ranges"].items():
                ip("route", "add", pod_range, "via", via)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(config["socket"])
    listener.listen()
    while True:
        stream, _ = listener.accept()
        request = json.loads(stream.makefile().readline())
        answer = {}
        if request == "network":
            answer = network(node, config)
        elif "attach" in request:
            attach(node, request["attach"])
        stream.sendall(json.dumps({"ok": answer}).encode() + b"\n")
        stream.close()


def udp_echo(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", port))
    while True:
        server.sendto(*server.recvfrom(65536))


if sys.argv[1] == "run":
    run(sys.argv[3])
else:
    udp_echo(int(sys.argv[sys.argv.index("--port") + 1]))

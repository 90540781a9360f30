"""What an emulated machine does: brings a lab up on its NICs, and goes through what happens to NICs, step by step."""
import glob, json, os, pathlib, re, subprocess, sys, time, traceback

from cells import CELLS

WORDS = dict(word.split("=", 1) for word in pathlib.Path("/proc/cmdline").read_text().split() if "=" in word)
TREE = pathlib.Path(WORDS["podway.tree"])
PODWAY = WORDS["podway.binary"]
CELL = CELLS[WORDS["podway.cell"]]
LAB = pathlib.Path("/run/podway-lab")
NODES = ["node1", "node2"]
FLOWS = 64
MODULES = ["veth", "bridge", "sch_ingress", "cls_bpf", "inet_diag", "tcp_diag", "udp_diag", "nf_conntrack_netlink"]
# The largest one that a driver may have with XDP is tried first; all are larger than what the lab begins with.
MTUS = [9000, 5000, 4000, 3000]
PATIENCE = 60

steps = []
agents = {}


class Failed(Exception):
    pass


def run(*command, check=True, timeout=240):
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done


def inside(node, *command, **options):
    return run("ip", "netns", "exec", f"podway-lab-node-{node}", *command, **options)


def show(node, topic):
    return json.loads(run(PODWAY, "show", topic, "-o", "json", "--socket", LAB / f"{node}.sock").stdout)


def eventually(what, holds, patience=PATIENCE):
    """Waits until `holds` returns something true, and returns it."""
    until = time.monotonic() + patience
    problem = None
    while True:
        try:
            if found := holds():
                return found
            problem = None
        except (Failed, KeyError, json.JSONDecodeError) as error:
            problem = error
        if time.monotonic() > until:
            raise Failed(f"not within {patience} s: {what}" + (f" ({problem})" if problem else ""))
        time.sleep(0.5)


def step(name, work, *arguments):
    began = time.monotonic()
    try:
        text, outcome = work(*arguments) or "", "works"
        if text.startswith("refused"):
            outcome = "refused"
    except (Failed, subprocess.TimeoutExpired) as error:
        text, outcome = str(error), "failed"
    except Exception:
        text, outcome = traceback.format_exc(), "failed"
    steps.append({"name": name, "outcome": outcome, "text": text, "seconds": round(time.monotonic() - began)})
    print(f"{outcome}: {name}: {text} ({time.monotonic() - began:.0f} s)", flush=True)
    if outcome == "failed":
        tell(name)
    return outcome != "failed"


def tell(name):
    """Keeps what the nodes were like when a step failed."""
    out = pathlib.Path(f"/out/{name.replace(' ', '-')}.txt")
    parts = []
    for node in NODES:
        for command in [["ip", "-s", "-d", "link"], ["ip", "addr"], ["ip", "neigh"], ["ethtool", "-x", "eth0"]]:
            parts.append(inside(node, *command, check=False).stdout)
        for topic in ["ports", "counters", "status"]:
            parts.append(run(PODWAY, "show", topic, "--socket", LAB / f"{node}.sock", check=False).stdout)
    out.write_text("\n".join(parts))


# The lab and its uplinks.


def nics(node):
    """The names of a node's NICs on the machine, by the last byte of their addresses: even ones are node1's."""
    found = {}
    for path in glob.glob("/sys/class/net/*/address"):
        address = pathlib.Path(path).read_text().strip()
        if address.startswith("52:54:00:00:00:"):
            found[int(address[-2:], 16)] = path.split("/")[4]
    return [found[number] for number in sorted(found) if number % 2 == NODES.index(node)]


def bring_up():
    # The kernel's own calls for modules look in the first root, where none are.
    run("modprobe", "-a", *MODULES, CELL["driver"])
    eventually("the driver has its devices", lambda: all(len(nics(node)) == CELL.get("nics", 1) for node in NODES))
    uplinks = [argument for node in NODES for argument in ["--uplink", f"{node}={nics(node)[0]}"]]
    spare = {node: nics(node)[1:] for node in NODES}
    up = run(PODWAY, "lab", "up", TREE / "tests/manifests/plain", "--workers", CELL["workers"], "--timeout", 300, *uplinks, timeout=600)
    for node in NODES:
        if shape := SHAPES.get(CELL.get("shape")):
            reshape(node, shape, spare[node])
    in_force()
    return up.stderr.strip().splitlines()[-1][:60]


def reshape(node, shape, spare):
    """Makes something of a node's NIC that is its uplink from now on."""
    end_agent(node)
    addresses = json.loads(inside(node, "ip", "-j", "addr", "show", "dev", "eth0").stdout)[0]["addr_info"]
    addresses = [f"{it['local']}/{it['prefixlen']}" for it in addresses if it["scope"] == "global"]
    for device in spare:
        run("ip", "link", "set", device, "netns", f"podway-lab-node-{node}")
    inside(node, "ip", "addr", "flush", "dev", "eth0")
    uplink = shape(node, spare)
    for address in addresses:
        inside(node, "ip", "addr", "add", address, "dev", uplink, "nodad")
    config = LAB / f"{node}.toml"
    config.write_text(config.read_text().replace('"eth0"', f'"{uplink}"'))
    start_agent(node)


def bond(node, spare):
    run("modprobe", "bonding")
    inside(node, "ip", "link", "add", "bond0", "type", "bond", "mode", "active-backup", "miimon", "100")
    for device in ["eth0", *spare]:
        inside(node, "ip", "link", "set", device, "down")
        inside(node, "ip", "link", "set", device, "master", "bond0")
    inside(node, "ip", "link", "set", "bond0", "up")
    return "bond0"


def vlan(node, spare):
    run("modprobe", "8021q")
    inside(node, "ip", "link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5")
    inside(node, "ip", "link", "set", "eth0.5", "up")
    return "eth0.5"


SHAPES = {"bond": bond, "vlan": vlan}


def end_agent(node):
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if f"--config\0{LAB}/{node}.toml" in pathlib.Path(path).read_text():
                os.kill(int(path.split("/")[2]), 9)
        except (FileNotFoundError, ProcessLookupError):
            pass


def start_agent(node):
    log = (LAB / f"{node}.log").open("a")
    command = ["ip", "netns", "exec", f"podway-lab-node-{node}", PODWAY, "run", "--config", f"{LAB}/{node}.toml"]
    agents[node] = subprocess.Popen(command, stdout=log, stderr=log)


def is_in_force(node):
    status = show(node, "status")
    return status["in_force"] and all(peer["next_hop"] for peer in status["peers"])


def in_force():
    for node in NODES:
        eventually(f"{node} is in force", lambda: is_in_force(node))


def uplink_of(node):
    return next(port for port in show(node, "ports") if port["name"] == "uplink")


def problems(node):
    return show(node, "status")["node_problems"]


# What is to hold.


def binding():
    said = [uplink_of(node) for node in NODES]
    texts = [it.get("binding") or f"{it['mode']}" for it in said]
    if any(text != CELL["binding"] for text in texts):
        raise Failed(f"{texts} instead of {CELL['binding']}: {[it.get('why') for it in said]}")
    return f"{texts[0]}; {said[0].get('why') or 'nothing better'}; problems: {problems('node1')}"


def cells():
    report = json.loads(run(PODWAY, "lab", "check", "-o", "json", check=False, timeout=400).stdout)
    if report["wrong"]:
        wrong = [f"{it['from']} to {it['address']}:{it['port']}" for it in report["cells"] if it["seen"] != it["expected"]]
        raise Failed(f"{report['wrong']} of {len(report['cells'])} cells are wrong: {wrong[:4]}")
    return f"0 of {len(report['cells'])} cells wrong"


def address_of(pod):
    out = run(PODWAY, "lab", "exec", pod, "--", "ip", "-j", "-4", "addr", "show", "dev", "eth0").stdout
    return json.loads(out)[0]["addr_info"][0]["local"]


def flows():
    """As many flows as RSS needs to choose each of its queues, there and back; and each of its buckets has a worker."""
    for node in NODES:
        eventually(f"each bucket of {node} has a worker", lambda: not unowned_buckets(node))
    command = [sys.executable, TREE / "tests/nic/flows.py", address_of("default/parrot"), "7777", str(FLOWS)]
    lost = int(run(PODWAY, "lab", "exec", "default/caller", "--", *command).stdout)
    if lost:
        raise Failed(f"{lost} of {FLOWS} flows are never answered; problems: {[problems(node) for node in NODES]}")
    return f"{FLOWS} flows answered"


def unowned_buckets(node):
    """The values of the hash that lead to a queue without a worker; a VLAN device takes what all of its NIC's queues bring."""
    if CELL.get("shape") == "vlan":
        return []
    said = inside(node, "ethtool", "-x", "eth0", check=False)
    table = re.findall(r"^\s*\d+:((?:\s+\d+)+)$", said.stdout, re.MULTILINE)
    queues = [int(queue) for line in table for queue in line.split()]
    return [bucket for bucket, queue in enumerate(queues) if queue >= CELL["workers"]]


def bulk():
    script = TREE / "tests/lab/transfer.py"
    server = subprocess.Popen([PODWAY, "lab", "exec", "default/side", "--", sys.executable, script, "serve", "5001"])
    try:
        ask = [PODWAY, "lab", "exec", "default/front", "--", sys.executable, script, "ask", address_of("default/side"), "5001", str(8 << 20), "2"]
        eventually("the transfer's server listens", lambda: run(*ask, timeout=400), patience=30)
    finally:
        server.kill()
    return "16 MiB each way"


def accounts():
    """No frame is on its way when nothing is, and every packet that came in went out or was counted as dropped."""
    for node in NODES:
        eventually("no frame is outstanding", lambda: show(node, "counters")["edge"]["frames-outstanding"] == 0)
        eventually("what came in went out or was dropped", lambda: is_even(show(node, "counters")["engine"]))
    return "even"


def is_even(engine):
    dropped = sum(count for name, count in engine.items() if name.startswith("drop/"))
    return engine["received"] + engine["made"] == engine["transmitted"] + dropped + engine["waits"]


# What happens to NICs.


def killed():
    end_agent("node1")
    start_agent("node1")
    in_force()
    return flows()


def flapped():
    uplink = uplink_of("node1")["interface"]
    # Else the kernel takes the node's own IPv6 addresses away, as of any link that goes down.
    inside("node1", "sysctl", "-q", f"net.ipv6.conf.{uplink.replace('.', '/')}.keep_addr_on_down=1")
    inside("node1", "ip", "link", "set", uplink, "down")
    time.sleep(1)
    inside("node1", "ip", "link", "set", uplink, "up")
    in_force()
    return eventually("flows are answered", flows)


def larger_mtu():
    """A change that a driver refuses is none; what it takes must not end in silence."""
    uplink = uplink_of("node1")["interface"]
    refused = []
    for mtu in MTUS:
        changed = [inside(node, "ip", "link", "set", uplink, "mtu", mtu, check=False) for node in NODES]
        if all(it.returncode == 0 for it in changed):
            break
        refused.append(str(mtu))
    time.sleep(2)
    in_force()
    bulk()
    said = f"{mtu} is {uplink_of('node1').get('binding')}"
    for node in NODES:
        inside(node, "ip", "link", "set", uplink, "mtu", "1500", check=False)
    in_force()
    return said + (f"; the driver refuses {', '.join(refused)}" if refused else "")


def more_channels():
    """Somebody gives the NIC more queues than there are workers, or all of those that it has."""
    uplink = "eth0"
    done = []
    for command in [["-L", uplink, "combined", "2"], ["-X", uplink, "default"], ["-X", uplink, "equal", "2"]]:
        changed = inside("node1", "ethtool", *command, check=False)
        done.append(f"ethtool {' '.join(command)}: {changed.stderr.strip() or 'done'}")
        time.sleep(8)
        in_force()
        eventually("flows are answered", flows)
    return "; ".join(done)


def main():
    sys.path.insert(0, str(TREE / "tests/nic"))
    reached = step("up", bring_up)
    if reached:
        step("binding", binding)
        step("cells", cells)
        step("every bucket", flows)
        step("bulk", bulk)
        step("kill -9", killed)
        step("link flap", flapped)
        step("larger MTU", larger_mtu)
        step("channels and RSS", more_channels)
        step("cells after all that", cells)
        step("books", accounts)
    for node in NODES:
        log = LAB / f"{node}.log"
        if log.exists():
            pathlib.Path(f"/out/{node}.log").write_text(log.read_text())
    step("down", lambda: run(PODWAY, "lab", "down", timeout=300) and "")
    pathlib.Path("/out/report.json").write_text(json.dumps({"steps": steps}))


main()

"""Runs podway on emulated NICs: run.py [CELL…], as root, after `scripts/setup --nic` and a build.

A machine is QEMU's, emulated to the last instruction, so that it runs where no KVM is. Its root is this machine's, read
by 9p under an overlay in memory: no image, and nothing that it does stays. Both nodes of the lab in it have NICs of
their own, wired together in QEMU, or by taps and a bridge in a network namespace that ends with this program.
"""
import json, os, pathlib, subprocess, sys, tempfile, time

from cells import CELLS

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNEL = ROOT / "target/nic/kernel"
BINARY = pathlib.Path(os.environ.get("PODWAY_NIC_BINARY", ROOT / "target/debug/podway"))
# How long a cell may take: emulation on busy cores is slow, and a machine that hangs is ended.
PATIENCE = int(os.environ.get("PODWAY_NIC_PATIENCE", "1500"))
# What reads the root; a kernel may have some of it built in. The rest comes from there.
EARLY = ["9pnet_virtio", "9p", "overlay"]


def release():
    found = sorted((KERNEL / "usr/lib/modules").glob("*/vmlinuz"))
    if not found:
        sys.exit("tests/nic: no kernel to emulate: run scripts/setup --nic")
    return found[-1].parent.name


def modules_before_root(modules):
    """The files of EARLY's modules, each after those that it needs."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[pathlib.Path(file).name.split(".")[0]] = [file, *reversed(others.split())]
    ordered = []
    for name in EARLY:
        file, *others = needs.get(name, [None])
        ordered += [it for it in [*reversed(others[::-1]), file] if it and it not in ordered]
    return ordered


def make_initramfs(directory, version):
    """What mounts the root and starts guest.py there."""
    modules = KERNEL / "usr/lib/modules" / version
    tree = directory / "initramfs"
    for name in ["bin", "modules", "proc", "sys", "dev", "low", "top", "new"]:
        (tree / name).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(pathlib.Path("/bin/busybox").read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    loads = []
    for file in modules_before_root(modules):
        plain = pathlib.Path(file).name.removesuffix(".xz")
        unpack = ["xz", "--decompress", "--stdout", modules / file] if file.endswith(".xz") else ["cat", modules / file]
        (tree / "modules" / plain).write_bytes(subprocess.run(unpack, check=True, capture_output=True).stdout)
        loads.append(f"$b insmod /modules/{plain}")
    init = (ROOT / "tests/nic/init").read_text().replace("@LOADS@", "\n".join(loads)).replace("@VERSION@", version)
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    packed = directory / "initramfs.cpio"
    names = "\n".join(str(it.relative_to(tree)) for it in sorted(tree.rglob("*")))
    with packed.open("wb") as out:
        subprocess.run(["busybox", "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=out, check=True, stderr=subprocess.DEVNULL)
    return packed


def wire(number, queues):
    """QEMU's arguments for the network side of a NIC, and the tap that it needs."""
    if queues is None:
        # All first NICs of nodes are joined, and all second ones.
        return f"hubport,id=net{number},hubid={number // 2}"
    tap = f"nic{number}"
    many = ["multi_queue"] if queues > 1 else []
    run("ip", "tuntap", "add", "dev", tap, "mode", "tap", *many)
    run("ip", "link", "set", tap, "mtu", "9000", "master", "nics", "up")
    return f"tap,id=net{number},ifname={tap},script=no,downscript=no,queues={queues}"


def run(*command):
    subprocess.run(command, check=True)


def machine(cell, directory, packed, version):
    """Starts the machine, and returns what guest.py reports."""
    queues = cell.get("queues")
    if queues:
        run("ip", "link", "add", "nics", "type", "bridge", "mcast_snooping", "0")
        run("ip", "link", "set", "nics", "up")
    nics = []
    for number in range(2 * cell.get("nics", 1)):
        nics += ["-netdev", wire(number, queues)]
        # A slot of its own for each: virtual functions of one NIC would be in another's place.
        nics += ["-device", f"pcie-root-port,id=slot{number},chassis={number}"]
        at = "" if cell["device"] == "e1000" else f",bus=slot{number}"
        nics += ["-device", f"{cell['device']},netdev=net{number},mac=52:54:00:00:00:{number:02x}{at}"]
    kernel = KERNEL / "usr/lib/modules" / version
    words = f"console=ttyS0 loglevel=6 panic=-1 no_timer_check lpj=4000000 net.ifnames=0 podway.tree={ROOT} podway.modules={kernel} podway.cell={cell['name']} podway.binary={BINARY}"
    command = [
        "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "3072",
        "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio",
        "-kernel", kernel / "vmlinuz", "-initrd", packed, "-append", words,
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={directory},mount_tag=out,security_model=none",
        *nics,
    ]  # fmt: skip
    report = directory / "report.json"
    report.unlink(missing_ok=True)
    console = directory / "console.log"
    with console.open("wb") as out:
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return {"steps": [], "problem": f"not done after {PATIENCE} s"}
    if not report.exists():
        return {"steps": [], "problem": "the machine ended without a report"}
    return json.loads(report.read_text())


def carry_out(name):
    version = release()
    began = time.monotonic()
    keep = os.environ.get("PODWAY_NIC_LOGS")
    with tempfile.TemporaryDirectory(prefix="podway-nic-") as temporary:
        directory = pathlib.Path(keep or temporary) / name
        directory.mkdir(parents=True, exist_ok=True)
        packed = make_initramfs(pathlib.Path(temporary), version)
        report = machine({**CELLS[name], "name": name}, directory, packed, version)
        print(f"{name} ({time.monotonic() - began:.0f} s)")
        for step in report["steps"]:
            print(f"  {step['outcome']:8} {step['name']}: {step['text']}")
        failed = [step for step in report["steps"] if step["outcome"] == "failed"]
        if report.get("problem") or failed:
            print(f"  failed   {report.get('problem') or f'{len(failed)} steps'}; the console's end:")
            tail = (directory / "console.log").read_text(errors="replace").splitlines()[-40:]
            print("\n".join("    " + line for line in tail))
            return False
        return True


def main():
    names = sys.argv[1:]
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        sys.exit(f"tests/nic: no cell {unknown[0]}: there are {' '.join(CELLS)}")
    if os.geteuid() != 0:
        sys.exit("tests/nic: machines read the whole root and make taps: run as root")
    if not BINARY.exists():
        sys.exit("tests/nic: build podway first: cargo build -p podway")
    if os.environ.get("PODWAY_NIC_CELL") != "1":
        # A namespace of its own for each cell, so that nothing stays of its taps.
        ended = []
        for name in names or CELLS:
            again = ["unshare", "--net", sys.executable, __file__, name]
            ended.append(subprocess.run(again, env={**os.environ, "PODWAY_NIC_CELL": "1"}).returncode)
        failed = sum(code != 0 for code in ended)
        print(f"nic: {len(ended) - failed} passed, {failed} failed")
        sys.exit(1 if failed else 0)
    sys.exit(0 if carry_out(names[0]) else 1)


main()

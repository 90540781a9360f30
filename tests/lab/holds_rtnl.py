# Holds the kernel's one lock for links (rtnl), as a crowd of pods does: until its input ends, for so many seconds at most.
# An ethtool request has its answer copied out under the lock; the page that it goes to is missing, and who misses it waits
# for us (userfaultfd). The lock is free again when this process ends, however it does.
import ctypes, fcntl, mmap, os, select, socket, struct, sys, threading

USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_REGISTER = 0xAA00, 0xC018AA3F, 0xC020AA00
UFFD_API, MISSING = 0xAA, 1
SIOCETHTOOL, ETHTOOL_GLINK = 0x8946, 0x0A

device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
faults = fcntl.ioctl(device, USERFAULTFD_IOC_NEW, os.O_NONBLOCK | os.O_CLOEXEC)
fcntl.ioctl(faults, UFFDIO_API, struct.pack("QQQ", UFFD_API, 0, 0))
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack("QQQQ", start + page, page, MISSING, 0))
# The command is the end of the first page, the answer the start of the other.
memory[page - 4 : page] = struct.pack("I", ETHTOOL_GLINK)
request = struct.pack("16sQ16x", b"lo", start + page - 4)
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ioctl = ctypes.CDLL(None).ioctl
threading.Thread(target=lambda: ioctl(asker.fileno(), SIOCETHTOOL, request), daemon=True).start()
waits, _, _ = select.select([faults], [], [], 10)
print("held" if waits else "not held", flush=True)
if waits:
    select.select([sys.stdin], [], [], float(sys.argv[1]))
os._exit(0)

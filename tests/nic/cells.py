"""What NICs are emulated, and what an agent is to make of each: a row of docs/nics.md for each cell.

`device` is QEMU's, two of a node for a bond; `queues` are those of a tap, None stands for a hub inside QEMU, which has
none. `shape` is what the node's uplink is made into of the NIC, `binding` what `podway show ports` has to say of it.
"""

CELLS = {
    "igb": {
        "device": "igb",
        "driver": "igb",
        "workers": 1,
        "binding": "native zero-copy single",
    },
    "igb-two-workers": {
        "device": "igb",
        "driver": "igb",
        "workers": 2,
        "binding": "native zero-copy single",
    },
    "virtio": {
        "device": "virtio-net-pci,mq=on,vectors=8",
        "driver": "virtio_net",
        "queues": 2,
        "workers": 1,
        # Its zero-copy needs the DMA interface of the kernel, which QEMU leaves out unless it is told.
        "binding": "native copy",
    },
    "virtio-two-workers": {
        "device": "virtio-net-pci,mq=on,vectors=8,rss=on,hash=on,iommu_platform=on,disable-legacy=on",
        "driver": "virtio_net",
        "queues": 2,
        "workers": 2,
        "binding": "native zero-copy single",
    },
    "virtio-lro": {
        "device": "virtio-net-pci,ctrl_guest_offloads=off",
        "driver": "virtio_net",
        "queues": 1,
        "workers": 1,
        "binding": "generic copy",
    },
    "e1000": {
        "device": "e1000",
        "driver": "e1000",
        "workers": 1,
        "binding": "generic copy",
    },
    "bond": {
        "device": "igb",
        "driver": "igb",
        "nics": 2,
        "workers": 1,
        "shape": "bond",
        "binding": "generic copy",
    },
    "vlan": {
        "device": "igb",
        "driver": "igb",
        "workers": 1,
        "shape": "vlan",
        "binding": "generic copy",
    },
}

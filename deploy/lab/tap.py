# SPDX-License-Identifier: Apache-2.0
"""tap.py NODE WORKLOAD MAC: a workload behind a tap, as a virtual machine is.

The node's side is a tap that a process reads and writes; the process is the machine's
network card, and the workload's namespace the machine's system: its eth0 is a tap too,
of the same process. It ends when either is removed.
"""
import fcntl
import os
import select
import struct
import sys

import sockets
import topology as topo

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
# What the systems at both ends leave to each other: checksums, and to cut a long packet (TCP,
# and since Linux 6.2 UDP). A frame comes with virtio's header, which says what is left. So
# it is for workloads with an odd number; the others' cards are plain.
OFFLOADS = (0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x01 | 0x02 | 0x04)
FRAME_MAX = 65536 + 128


def tap(namespace, name, workload):
    with sockets.namespace(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(),
                                               IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        number = int(topo.WORKLOAD.match(workload)[2])
        for offloads in OFFLOADS if number % 2 else ():
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
                break
            except OSError:
                pass  # without those of UDP then
        return fd


def carry(a, b):
    """Frames both ways, until one of the devices is gone."""
    poll = select.poll()
    poll.register(a, select.POLLIN)
    poll.register(b, select.POLLIN)
    while True:
        for fd, what in poll.poll():
            if what & select.POLLERR:
                return
            try:
                frame = os.read(fd, FRAME_MAX)
                os.write(b if fd == a else a, frame)
            except BlockingIOError:
                pass
            except OSError as error:
                # EIO: that side is down, and the frame lost, as on any wire.
                if error.errno != 5:
                    return


def main(node, workload, mac):
    outer, inner = tap(node, workload, workload), tap(workload, "eth0", workload)
    topo.ip_batch([f"link set eth0 address {mac}"], workload)
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    carry(outer, inner)


if __name__ == "__main__":
    main(*sys.argv[1:])

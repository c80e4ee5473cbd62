# SPDX-License-Identifier: Apache-2.0
"""Machines of the lab: QEMU, its taps in the lab's underlay, and their end."""
import os
import shutil
import subprocess
import time

import image
import kernels
import machines
import programs
import topology as topo
from topology import LabError

PROGRAM = f"qemu-system-{os.uname().machine}"
MEMORY_MB = 512
BOOT_S = 300
# Where /dev/kvm is there but a guest hangs in it: nothing on the console for so long.
KVM_PROBE_S = 4
ARGUMENTS = ("console=ttyS0 panic=-1 quiet loglevel=4 tsc=unstable clocksource=acpi_pm no_timer_check "
             "mitigations=off random.trust_cpu=on net.ifnames=0")


def accelerators():
    wanted = os.environ.get("MCMESH_VMLAB_ACCEL")
    if wanted:
        return [wanted]
    remembered = kernels.CACHE / "accelerator"
    if remembered.exists():
        return [remembered.read_text().strip()]
    return ["kvm", "tcg"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["tcg"]


def _card(node, name, mac, mtu):
    tap = f"{name[0]}-{node}"
    number = int(node[1:])
    return ["-netdev", f"tap,id={name},ifname={tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev={name},mac={mac}:{number:02x},host_mtu={mtu},"
                       "romfile="]


def command(node, kernel, accelerator, taps, mtu, directory):
    _, linux, _ = kernel
    accel = "tcg,thread=multi" if accelerator == "tcg" else accelerator
    return [PROGRAM, "-name", node, "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-accel", accel, "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MB),
            "-kernel", str(linux), "-initrd", str(image.initramfs(kernel)),
            "-append", f"{ARGUMENTS} mcmesh.node={node} mcmesh.taps={','.join(taps)}",
            "-serial", f"file:{directory / 'console.log'}",
            "-device", "virtio-rng-pci",
            *_card(node, "uplink", machines.MAC_UPLINK, mtu),
            *_card(node, "mgmt", machines.MAC_MANAGEMENT, 1500)]


def _network(nodes, mtu):
    topo.ip_batch([f"link add {machines.BRIDGE} type bridge mcast_snooping 0 forward_delay 0",
                   f"addr add {machines.HOST_ADDRESS}/24 dev {machines.BRIDGE}",
                   f"link set {machines.BRIDGE} up"], "underlay")
    for node in nodes:
        topo.ip_batch([f"tuntap add u-{node} mode tap vnet_hdr",
                       f"link set u-{node} mtu {mtu} master {topo.BRIDGE} up",
                       f"tuntap add m-{node} mode tap vnet_hdr",
                       f"link set m-{node} master {machines.BRIDGE} up"], "underlay")


def start(node, kernel, accelerator, taps, mtu):
    directory = machines.DIRECTORY / node
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    line = topo.enter("underlay", *command(node, kernel, accelerator, taps, mtu, directory))
    with open(directory / "qemu.log", "ab") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)
    machines.remember(directory, process.pid)
    return process


def console(node):
    try:
        return (machines.DIRECTORY / node / "console.log").read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _why(node):
    log = (machines.DIRECTORY / node / "qemu.log").read_text(errors="replace")
    return "\n".join((log + console(node)).splitlines()[-15:])


def _begin(node, kernel, taps, mtu):
    """The first machine, with the accelerator that works."""
    for accelerator in accelerators():
        process = start(node, kernel, accelerator, taps, mtu)
        if accelerator == "tcg":
            break
        end = time.monotonic() + KVM_PROBE_S
        while time.monotonic() < end and process.poll() is None and not console(node):
            time.sleep(0.05)  # poll interval
        if console(node):
            break
        machines.stop(node)
    kernels.CACHE.mkdir(parents=True, exist_ok=True)
    (kernels.CACHE / "accelerator").write_text(accelerator + "\n")
    return accelerator


def _serves(node):
    if not machines.pid_of(node):
        raise LabError(f"machine {node} ended:\n{_why(node)}")
    if f"machine {node} serves" not in console(node):
        return False
    try:
        machines.connect(node, 2).close()
        return True
    except OSError:
        return False


def up(nodes, kernel, taps, mtu):
    """Boots them; returns the accelerator."""
    _network(nodes, mtu)
    accelerator = _begin(nodes[0], kernel, taps, mtu)
    for node in nodes[1:]:
        start(node, kernel, accelerator, taps, mtu)
    for node in nodes:
        programs.wait_until(lambda: f"machine {node} serves:\n{_why(node)}",
                            lambda: _serves(node), BOOT_S)
    return accelerator

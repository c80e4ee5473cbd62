# SPDX-License-Identifier: Apache-2.0
"""Service discovery with python3-zeroconf: `mdns.py publish|find ADDRESS NAME`."""
import socket
import sys
import time

import zeroconf

TYPE = "_mcmesh-test._tcp.local."
PORT = 4711


def main(verb, address, name):
    # An address of each family would make it join the group twice.
    mesh = zeroconf.Zeroconf(interfaces=[address], ip_version=zeroconf.IPVersion.V4Only)
    if verb == "publish":
        mesh.register_service(zeroconf.ServiceInfo(
            TYPE, f"{name}.{TYPE}", PORT, addresses=[socket.inet_aton(address)]))
        print("published", flush=True)
        sys.stdin.read()
    else:
        began = time.monotonic()
        found = mesh.get_service_info(TYPE, f"{name}.{TYPE}", timeout=2000)
        took_ms = (time.monotonic() - began) * 1000
        print(f"{found.parsed_addresses()[0]} {found.port} {took_ms:.0f}" if found else "nothing")
    mesh.close()


main(*sys.argv[1:])

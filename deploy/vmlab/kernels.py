# SPDX-License-Identifier: Apache-2.0
"""Debian's kernels, unpacked and not installed, in build/vmlab/kernels.

A kernel is named by what follows `linux-image-` in the meta package: cloud-amd64,
amd64, rt-amd64, 6.12-cloud-amd64, …. Which version that is, apt says.
"""
import pathlib
import platform
import re
import shutil
import subprocess

from topology import LabError

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "build/vmlab"
DOWNLOAD_S = 300
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCH = MACHINES.get(platform.machine(), platform.machine())
SHORT = {"debian": "cloud", "cloud": "cloud", "generic": "", "rt": "rt"}


class NoKernel(LabError):
    """It cannot be had here: a reason to skip."""


def full_name(name):
    """cloud → cloud-amd64; 6.12-rt → 6.12-rt-amd64; debian: the one to begin with."""
    if name.endswith(f"-{ARCH}") or name == ARCH:
        return name
    series, _, flavour = name.rpartition("-")
    flavour = SHORT.get(flavour, flavour)
    if re.match(r"^\d", flavour):
        series, flavour = flavour, ""
    return "-".join(part for part in (series, flavour, ARCH) if part)


def apt(*args):
    done = subprocess.run(args, text=True, capture_output=True, timeout=DOWNLOAD_S)
    if done.returncode:
        raise NoKernel(f"{' '.join(args)}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def offered():
    """Every meta package of a kernel that apt knows, cloud ones first."""
    metas = re.findall(rf"^linux-image-((?:\d+\.\d+-)?(?:cloud-|rt-)?{ARCH})\s",
                       apt("apt-cache", "search", "^linux-image-"), re.M)
    return sorted(set(metas), key=lambda m: (m[:1].isdigit(), "cloud" not in m, m))


def package_of(name):
    """The package with the kernel itself, that the meta package depends on."""
    text = apt("apt-cache", "depends", f"linux-image-{full_name(name)}")
    match = re.search(r"Depends: (linux-image-\d\S+)", text)
    if not match:
        raise NoKernel(f"no package linux-image-{full_name(name)}: "
                       f"there are {', '.join(offered()) or 'none'}")
    return match[1]


def unpacked(package):
    """(version, kernel image, folder of modules), or None."""
    where = CACHE / "kernels" / package
    version = package[len("linux-image-"):]
    image, modules = where / f"boot/vmlinuz-{version}", where / f"lib/modules/{version}"
    if not modules.is_dir():
        modules = where / f"usr/lib/modules/{version}"
    return (version, image, modules) if image.exists() and modules.is_dir() else None


def cached(name):
    """What was fetched before, for a machine without apt's lists; or None."""
    pattern = rf"linux-image-[\d.]+(?:-\d+)?(?:\+deb\d+)?-{full_name(name)}"
    for old in sorted((CACHE / "kernels").glob("linux-image-*"), reverse=True):
        if re.fullmatch(pattern, old.name) and unpacked(old.name):
            return unpacked(old.name)
    return None


def fetch(name):
    """(version, kernel image, folder of modules), fetched when they are not there. apt
    checks the signatures."""
    try:
        package = package_of(name)
    except NoKernel:
        if cached(name):
            return cached(name)
        raise
    found = unpacked(package)
    if found:
        return found
    where, half = CACHE / "kernels" / package, CACHE / "kernels" / f"{package}.part"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    done = subprocess.run(["apt-get", "-q", "-o", "Acquire::Retries=3", "download", package], cwd=half, text=True,
                          capture_output=True, timeout=DOWNLOAD_S)
    packages = list(half.glob("*.deb"))
    if done.returncode or not packages:
        raise NoKernel(f"{package} cannot be fetched: {done.stderr.strip()[-300:]}")
    apt("dpkg", "-x", str(packages[0]), str(half))
    packages[0].unlink()
    shutil.rmtree(where, ignore_errors=True)
    half.rename(where)
    return unpacked(package)

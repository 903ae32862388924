"""Fetches the C sources that are compiled into the engine, and unpacks what the build needs.

    fetch_sources.py DIR                   downloads all archives pinned in third_party.txt to DIR
    fetch_sources.py DIR NAME MEMBER...    unpacks members of one archive there, and prints where

The archives come through `pip download`, so that whatever the user told pip about indexes,
proxies and certificates holds here too. With RECIS_SOURCES_DIR set they are taken from that
directory instead and nothing touches the network. Needs nothing but the standard library and pip.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

PINS = Path(__file__).with_name("third_party.txt")

# pip insists on the metadata of what it downloads and asks the archive's build backend for it.
# Theirs would run setup.py, which wants compilers and patch(1). The metadata is in PKG-INFO
# already, so this stands in for the backend that both archives name: setuptools.
METADATA_BACKEND = """\
import email, pathlib

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_text(encoding="utf-8")
    head = email.message_from_string(text)
    info = pathlib.Path(directory, f"{head['Name']}-{head['Version']}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text(text, encoding="utf-8")
    return info.name
"""

HELP_OFFLINE = """\
recis is built from source and compiles in {archive}, which could not be had. One of these helps:
  * Let pip reach a package index. pip's configuration files and PIP_* variables are honoured;
    options given to an outer `pip install` command are not passed down to here.
  * On a machine that reaches one, run `python engine/fetch_sources.py DIR`, bring DIR here and
    set RECIS_SOURCES_DIR=DIR.
  * Build against the system's library: -DRECIS_SYSTEM_{NAME}=ON for CMake,
    --config-settings=cmake.define.RECIS_SYSTEM_{NAME}=ON for pip.
"""


class Pin(NamedTuple):
    """One line of third_party.txt."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"


def read_pins() -> dict[str, Pin]:
    line = re.compile(r"^([\w-]+)==([\w.]+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)
    return {found[0]: Pin(*found) for found in line.findall(PINS.read_text())}


def obtain(pin: Pin, directory: Path) -> Path:
    """Returns the archive's path, its checksum verified, downloading it if there is need to."""
    given = os.environ.get("RECIS_SOURCES_DIR")
    archive = Path(given or directory).absolute() / pin.archive
    if not archive.exists():
        if given:
            sys.exit(f"RECIS_SOURCES_DIR: there is no {archive}\n\n{help_offline(pin)}")
        download(pin, directory)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != pin.sha256:
        sys.exit(
            f"{archive}: sha256 is {found}, {PINS.name} says {pin.sha256}. "
            f"Remove the file and run the build again."
        )
    return archive


def download(pin: Pin, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # pip writes into a directory of its own, so that an interrupted run leaves no half archive.
    with tempfile.TemporaryDirectory(dir=directory) as tmp:
        backend = Path(tmp, "backend", "setuptools")
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(METADATA_BACKEND)
        requirements = Path(tmp, "requirements.txt")
        requirements.write_text(pin.requirement)
        path = [str(backend.parent), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
        command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        command += ["--require-hashes", "--requirement", str(requirements), "--dest", tmp]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # our own stdout is the answer
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"\n`{' '.join(command)}` failed.\n\n{help_offline(pin)}")
        os.replace(Path(tmp, pin.archive), directory / pin.archive)


def help_offline(pin: Pin) -> str:
    return HELP_OFFLINE.format(archive=pin.archive, NAME=pin.name.upper())


def unpack(archive: Path, members: list[str], into: Path) -> None:
    """Writes each member's bytes under `into`, all of them or none.

    Names come from our own build files, never from the archive, so none can lead out of `into`.
    """
    root = archive.name.removesuffix(".tar.gz")
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(into, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in members:
            source = tar.extractfile(f"{root}/{member}")
            if source is None:
                sys.exit(f"{archive}: {member} is not a plain file")
            target = partial / member
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
    os.replace(partial, into)


def main(directory: str, name: str | None = None, *members: str) -> None:
    pins = read_pins()
    if name is None:
        for pin in pins.values():
            print(obtain(pin, Path(directory)))
        return
    pin = pins[name]
    into = Path(directory, f"{pin.name}-{pin.version}")
    if not all((into / member).is_file() for member in members):
        unpack(obtain(pin, Path(directory)), list(members), into)
    print(into.as_posix())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])

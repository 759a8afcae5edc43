"""Package clients: where a package's file is looked for, what fetches it, and what is said when nothing does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Downloads:
    """Finds the file of a package where it lies already, or fetches it with the package client.

    Args:
        places: folders in which a package's file may lie.
        work: folder for what is fetched, emptied by whoever made it.
        keep: folder that gets a copy of what is fetched; None keeps none.

    Example:
        >>> Downloads.for_folder(Path("data/emoji"), work=Path("data/work")).places[-1]
        PosixPath('data')
    """

    places: tuple[Path, ...]
    work: Path
    keep: Path | None = None

    @classmethod
    def for_folder(cls, out: Path, *, work: Path) -> Downloads:
        """Look in ``$KINFOLK_DOWNLOADS`` and in the folder that holds `out`; keep what is fetched in the former."""
        given = os.environ.get("KINFOLK_DOWNLOADS")
        keep = Path(given) if given else None
        return cls(places=(*([keep] if keep else []), out.parent), work=work, keep=keep)

    def npm(self, package: str, version: str) -> Path:
        """Return the tarball of an npm package; any version with the same first number serves where one lies already.

        Raises:
            RuntimeError: when it lies nowhere and cannot be fetched.
        """
        stem = package.removeprefix("@").replace("/", "-")
        pattern = f"{stem}-{version.partition('.')[0]}.*.tgz"
        by_hand = (
            f"Or fetch `npm pack {package}@{version}` elsewhere and put {stem}-{version}.tgz into {self._advised()}."
        )
        found = self._lying(pattern)
        if found is not None:
            return found
        need_clients(package, ["npm"], by_hand)
        command = ["npm", "pack", f"{package}@{version}", "--loglevel=error", "--no-update-notifier"]
        run_client(command, self.work, failure=f"the npm package {package} could not be fetched", advice=by_hand)
        return self._fetched(pattern)

    def debian(self, package: str, *, by_hand: str | None = None) -> Path:
        """Return a folder with the content of a Debian package, unpacked and not installed.

        Args:
            package: its name.
            by_hand: what to do without the clients, a sentence or two for the message.

        Raises:
            RuntimeError: when a client is missing, or the package lies nowhere and cannot be fetched.
        """
        pattern = f"{package}_*.deb"
        by_hand = by_hand or f"Or fetch `apt-get download {package}` elsewhere and put the .deb into {self._advised()}."
        found = self._lying(pattern)
        need_clients(package, ["dpkg-deb"] if found else ["apt-get", "dpkg-deb"], by_hand)
        # apt drops to a user of its own to download, who must be allowed to write here
        self.work.chmod(0o755)
        if found is None:
            command = ["apt-get", "download", "-o", "APT::Sandbox::User=", package]
            failure = f"the Debian package {package} could not be fetched"
            run_client(command, self.work, failure=failure, advice=f"Try `apt-get update` first. {by_hand}")
            found = self._fetched(pattern)
        unpacked = self.work / f"{package}-unpacked"
        command = ["dpkg-deb", "-x", str(found.resolve()), unpacked.name]
        run_client(command, self.work, failure=f"{found.name} could not be unpacked", advice=by_hand)
        return unpacked

    def _lying(self, pattern: str) -> Path | None:
        for place in self.places:
            found = sorted(place.glob(pattern), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
            if found:
                return found[-1]  # the newest version
        return None

    def _fetched(self, pattern: str) -> Path:
        path = next(self.work.glob(pattern))
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            partial = self.keep / f"{path.name}.partial"
            shutil.copyfile(path, partial)
            os.replace(partial, self.keep / path.name)
        return path

    def _advised(self) -> str:
        return " or ".join([*([] if self.keep else ["$KINFOLK_DOWNLOADS"]), *map(str, self.places)])


def tar_members(tarball: Path, *, under: str) -> Iterator[tuple[str, bytes]]:
    """Read the plain files of an npm tarball one after the other; nothing is unpacked to disk.

    Args:
        tarball: the package's file.
        under: prefixes of the names to read, separated by spaces, without the leading ``package/``.

    Yields:
        A name without the leading ``package/``, and its content.

    Raises:
        RuntimeError: for a file that is damaged or no tarball.
    """
    prefixes = tuple(under.split())
    try:
        with tarfile.open(tarball, "r|gz") as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if member.isfile() and name.startswith(prefixes):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield name, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise RuntimeError(f"{tarball} is damaged or no tarball ({error}); delete it and fetch it again") from error


def need_clients(what: str, clients: list[str], by_hand: str) -> None:
    """Check that programs are there.

    Raises:
        RuntimeError: naming those that are not.
    """
    missing = [client for client in clients if shutil.which(client) is None]
    if missing:
        raise RuntimeError(f"fetching {what} needs {' and '.join(missing)}, which this machine has not. {by_hand}")


def run_client(command: list[str], work: Path, *, failure: str, advice: str) -> None:
    """Run a program in a folder.

    Raises:
        RuntimeError: when it fails, with its last line and the advice.
    """
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"{failure} (`{' '.join(command)}`: {last}). {advice}")

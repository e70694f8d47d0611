"""Images of container registries: one contract on a strict registry of our own and on docker-registry, and bad luck on ours."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from metald.config import Images
from metald.errors import ImageError
from metald.images import sources
from metald.images.cache import CachedImage, ImageCache
from metald.images.registry import is_container, parse
from metald.images.request import image_request
from tests.support.disk_images import qcow2 as evil_qcow2
from tests.support.registry import INDEX, MANIFEST, DockerRegistry, Registry, StrictRegistry, descriptor, digest_of, index, manifest

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RETRY_DELAY", 0.01)


@pytest.fixture
async def strict() -> AsyncIterator[StrictRegistry]:
    async with StrictRegistry().running() as made:
        yield made


@pytest.fixture(params=["strict", "docker"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "docker" and shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    made = StrictRegistry() if request.param == "strict" else DockerRegistry(tmp_path / "registry")
    async with made.running():
        yield made


def disk(seed: int = 0, size: int = 2 * MIB) -> bytes:
    return (bytes(510) + b"\x55\xaa" + bytes([seed]) * 4096).ljust(size, b"\0")


def cache_for(registry: Registry, folder: Path, **settings: Any) -> ImageCache:
    return ImageCache(Images(**{"plain_registries": [registry.host], "download_timeout": 5.0, **settings}), folder)


async def fetch(registry: Registry, folder: Path, reference: str, *, arch: str = "", settings: Any = None, **info: Any) -> CachedImage:
    told = {"image_source": registry.url(reference), "image_pull_secret": registry.login, **info}
    request = image_request({key: value for key, value in told.items() if value}, "n1", architecture=arch)
    return await cache_for(registry, folder, **(settings or {})).fetch(request)


OCI_CONFIG, DOCKER_CONFIG = "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"
ARCHIVE, DOCKER_ARCHIVE = "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
AMD64 = {"architecture": "amd64", "os": "linux"}


@pytest.mark.parametrize(
    ("config", "layers", "more", "expected"),
    [
        pytest.param(OCI_CONFIG, [ARCHIVE], {}, True, id="one layer"),
        pytest.param(OCI_CONFIG, [ARCHIVE, "application/vnd.oci.image.layer.v1.tar+zstd"], {}, True, id="OCI"),
        pytest.param(DOCKER_CONFIG, [DOCKER_ARCHIVE, DOCKER_ARCHIVE], {}, True, id="Docker"),
        pytest.param(OCI_CONFIG, ["application/vnd.oci.image.layer.nondistributable.v1.tar"], {}, True, id="layers of somebody else"),
        pytest.param("application/vnd.oci.empty.v1+json", ["application/octet-stream"], {}, False, id="ORAS"),
        pytest.param("application/vnd.unknown.config.v1+json", ["application/octet-stream"], {}, False, id="ORAS before 1.0"),
        pytest.param(OCI_CONFIG, [ARCHIVE], {"artifactType": "application/x-raw-disk"}, False, id="an artifact by its own word"),
        pytest.param(OCI_CONFIG, ["application/x-qemu-disk"], {}, False, id="a disk under a container's configuration"),
        pytest.param(None, [ARCHIVE], {}, False, id="no configuration"),
    ],
)
def test_containers_and_disks(config: str | None, layers: list[str], more: dict[str, Any], expected: bool) -> None:
    made = {"config": config and {"mediaType": config}, "layers": [{"mediaType": each} for each in layers], **more}
    assert is_container(made) is expected


class TestContract:
    """What every registry gives."""

    async def test_by_tag_and_by_digest(self, registry: Registry, tmp_path: Path) -> None:
        made = await registry.put_image("12", disk())
        for reference in ("12", digest_of(made)):
            assert (await fetch(registry, tmp_path, reference)).path.read_bytes() == disk()

    async def test_the_latest_is_taken_when_nothing_is_said(self, registry: Registry, tmp_path: Path) -> None:
        await registry.put_image("latest", disk(3))
        request = image_request({"image_source": f"oci://{registry.host}/{registry.name}", "image_pull_secret": registry.login}, "n1")
        assert (await cache_for(registry, tmp_path).fetch(request)).path.read_bytes() == disk(3)

    async def test_the_index_has_one_for_each_platform(self, registry: Registry, tmp_path: Path) -> None:
        images = {"amd64": disk(1), "arm64": disk(2)}
        single = {name: manifest(descriptor(data, "application/octet-stream")) for name, data in images.items()}
        listed = [descriptor(one, MANIFEST, platform={"architecture": name, "os": "linux"}) for name, one in single.items()]
        await registry.put(list(images.values()), {**{digest_of(one): one for one in single.values()}, "multi": index(*listed)})
        for spelling, name in (("x86_64", "amd64"), ("amd64", "amd64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("", "amd64")):
            assert (await fetch(registry, tmp_path, "multi", arch=spelling)).path.read_bytes() == images[name]
        with pytest.raises(ImageError, match=r"no disk image for ppc64le; it has amd64; arm64\. Check properties/cpu_arch"):
            await fetch(registry, tmp_path, "multi", arch="ppc64le")

    async def test_of_several_kinds_of_disk_the_smallest_to_fetch(self, registry: Registry, tmp_path: Path) -> None:
        raw, small = tmp_path / "a.raw", tmp_path / "a.qcow2"
        raw.write_bytes(disk(5))
        await asyncio.to_thread(subprocess.run, ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, small], check=True)
        blobs = {"raw": disk(6), "qemu": small.read_bytes(), "hyperv": disk(7)}
        single = {kind: manifest(descriptor(data, "application/octet-stream")) for kind, data in blobs.items()}
        listed = [
            descriptor(one, MANIFEST, platform={"architecture": "x86_64", "os": "linux"}, annotations={"disktype": kind})
            for kind, one in single.items()
        ]
        await registry.put(list(blobs.values()), {**{digest_of(one): one for one in single.values()}, "machine-os": index(*listed)})
        kept = await fetch(registry, tmp_path, "machine-os", arch="x86_64")
        assert (kept.format, kept.path.read_bytes()) == ("qcow2", disk(5))

    async def test_a_container_is_told_from_a_disk(self, registry: Registry, tmp_path: Path) -> None:
        config, layer = descriptor(CONFIG, OCI_CONFIG), descriptor(b"root", ARCHIVE)
        container, artifact = manifest(layer, config=config), manifest(descriptor(disk(), "application/octet-stream"))
        listed = [
            descriptor(container, MANIFEST, platform=AMD64),
            descriptor(artifact, MANIFEST, platform=AMD64, annotations={"disktype": "raw"}),
        ]
        stored = {"container": container, "artifact": artifact, "both": index(*listed), "bootc": index(listed[0])}
        await registry.put([CONFIG, b"root", disk()], {digest_of(container): container, digest_of(artifact): artifact, **stored})
        cache = cache_for(registry, tmp_path)
        for tag, expected in (("container", True), ("artifact", False), ("both", False), ("bootc", True), (digest_of(container), True)):
            request = image_request({"image_source": registry.url(tag), "image_pull_secret": registry.login}, "n1", architecture="x86_64")
            assert await cache.holds_container(request) is expected, tag
        with pytest.raises(ImageError, match="Check the name and the tag"):
            await cache.holds_container(image_request({"image_source": registry.url("no"), "image_pull_secret": registry.login}, "n1"))

    @pytest.mark.parametrize("program", ["gzip", "zstd"])
    async def test_packed_layers(self, registry: Registry, tmp_path: Path, program: str) -> None:
        done = await asyncio.to_thread(subprocess.run, [program, "-c"], input=disk(8), capture_output=True, check=True)
        await registry.put_image("packed", done.stdout, f"application/{program}")
        kept = await fetch(registry, tmp_path, "packed")
        assert (kept.format, kept.path.read_bytes()) == (program, disk(8))

    async def test_a_login_is_needed(self, registry: Registry, tmp_path: Path) -> None:
        await registry.put_image("12", disk())
        with pytest.raises(ImageError, match="image_pull_secret"):
            await fetch(registry, tmp_path, "12", image_pull_secret=None)
        with pytest.raises(ImageError, match=r"refused|401"):
            await fetch(registry, tmp_path, "12", image_pull_secret="robot:wrong")

    async def test_the_login_of_a_file(self, registry: Registry, tmp_path: Path) -> None:
        await registry.put_image("12", disk())
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {registry.host: {"auth": base64.b64encode(registry.login.encode()).decode()}}}))
        kept = await fetch(registry, tmp_path, "12", image_pull_secret=None, settings={"registry_auth_file": str(file)})
        assert kept.size == 2 * MIB

    async def test_what_is_not_there(self, registry: Registry, tmp_path: Path) -> None:
        await registry.put_image("12", disk())
        with pytest.raises(ImageError, match=r"answered 404 Not Found for 13\. Check the name and the tag"):
            await fetch(registry, tmp_path, "13")


async def test_all_who_wait_cost_one_question_and_one_download(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    cache = cache_for(strict, tmp_path)
    request = image_request({"image_source": strict.url("12"), "image_pull_secret": strict.login}, "n1")
    found = await asyncio.gather(*(cache.fetch(request, holder=f"n{number}") for number in range(50)))
    assert len({one.sha512 for one in found}) == 1
    assert strict.asked == {"manifest": 2, "token": 1, "blob": 1, "content": 1}


async def test_a_token_that_ran_out_is_renewed(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    strict.trouble.forgets = 1
    assert (await fetch(strict, tmp_path, "12")).size == 2 * MIB
    assert (strict.asked["token"], strict.asked["blob"]) == (2, 2)


async def test_a_blob_that_is_never_let_out(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    strict.trouble.forgets = 99
    with pytest.raises(ImageError, match="401"):
        await fetch(strict, tmp_path, "12")
    assert strict.asked["blob"] == 2


async def test_a_registry_without_logins(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    strict.public = True
    assert (await fetch(strict, tmp_path, "12", image_pull_secret=None)).size == 2 * MIB
    assert not strict.asked["token"]


async def test_what_fails_for_a_moment_is_asked_again(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    strict.trouble.failures = 2
    assert (await fetch(strict, tmp_path, "12")).size == 2 * MIB


async def test_a_digest_that_is_expected_beside(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    right = digest_of(disk())
    assert (await fetch(strict, tmp_path, "12", image_checksum=right)).size == 2 * MIB
    with pytest.raises(ImageError, match=f"has the digest {right}, and sha256:000"):
        await fetch(strict, tmp_path, "12", image_checksum="0" * 64)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"manifest": manifest(descriptor(b"x", "text/plain"))}, "sent another manifest"),
        ({"blob": b"other bytes"}, "wrong checksum"),
        ({"challenge": 'Bearer realm="ftp://host/token"'}, "unknown or unsafe way"),
        ({"challenge": "Negotiate"}, "unknown or unsafe way"),
        ({"token": {"nothing": 1}}, "sent no token"),
        ({"token": {"token": "with\nnew line"}}, "sent no token"),
        ({"token": ["x"]}, "sent no token"),
        ({"failures": 99}, "503"),
    ],
)
async def test_a_registry_that_misbehaves(strict: StrictRegistry, tmp_path: Path, trouble: dict[str, Any], words: str) -> None:
    made = await strict.put_image("12", disk())
    for name, value in trouble.items():
        setattr(strict.trouble, name, value)
    with pytest.raises(ImageError, match=words):
        await fetch(strict, tmp_path, digest_of(made))


LAYER = descriptor(disk(), "application/octet-stream")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"<html>", "no JSON object"),
        (b"[1]", "no JSON object"),
        (json.dumps({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}).encode(), "unknown kind"),
        (manifest(), r"has 0 layers: it is a container"),
        (manifest(LAYER, LAYER), r"has 2 layers: it is a container and no disk image.*bootc"),
        (json.dumps({"mediaType": MANIFEST, "layers": "x"}).encode(), "has 0 layers"),
        (manifest({"digest": "md5:" + "0" * 32, "size": 1}), "does not say what its layer is"),
        (manifest({"digest": "sha256:../../etc/passwd", "size": 1}), "does not say what its layer is"),
        (manifest({"digest": digest_of(b""), "size": -5}), "does not say what its layer is"),
        (json.dumps({"mediaType": MANIFEST, "layers": [7]}).encode(), "does not say what its layer is"),
        (index(), "it has none"),
        (json.dumps({"mediaType": INDEX, "manifests": [{"digest": "sha256:zz"}, 7]}).encode(), "it has none"),
        (json.dumps({"mediaType": INDEX, "manifests": None}).encode(), "it has none"),
        (b" " * (5 << 20), "more than 4194304 bytes"),
    ],
)
async def test_manifests_that_make_no_sense(strict: StrictRegistry, tmp_path: Path, sent: bytes, words: str) -> None:
    await strict.put([disk()], {"12": manifest(LAYER)})
    strict.trouble.manifest = sent
    with pytest.raises(ImageError, match=words):
        await fetch(strict, tmp_path, "12")


async def test_an_index_of_indexes_ends(strict: StrictRegistry, tmp_path: Path) -> None:
    inner = index(descriptor(b"x", INDEX))
    await strict.put([], {"12": index(descriptor(inner, INDEX)), digest_of(inner): inner})
    with pytest.raises(ImageError, match="leads to another index"):
        await fetch(strict, tmp_path, "12")


async def test_what_a_layer_holds_is_looked_at(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("evil", evil_qcow2(backing=b"/etc/shadow"))
    with pytest.raises(ImageError, match="it has a backing file"):
        await fetch(strict, tmp_path, "evil")
    await strict.put_image("tar", bytes(257) + b"ustar\x0000" + os.urandom(600), "application/vnd.oci.image.layer.v1.tar")
    with pytest.raises(ImageError, match="is tar, which cannot be deployed"):
        await fetch(strict, tmp_path, "tar")


async def test_tls_is_asked_for_where_no_setting_says_otherwise(strict: StrictRegistry, tmp_path: Path) -> None:
    await strict.put_image("12", disk())
    with pytest.raises(ImageError, match=r"cannot be fetched: .*ssl"):
        await fetch(strict, tmp_path, "12", settings={"plain_registries": []})


@pytest.mark.parametrize(
    "url",
    [
        "oci://host/",
        "oci://host/UPPER",
        "oci://host/a//b",
        "oci://host/../etc",
        "oci://user:word@host/a",
        "oci://host/a:tag with space",
        "oci://host/a:" + "t" * 200,
        "oci://host/a@sha256:abc",
        "oci://host/a@md5:" + "0" * 32,
        "oci://host/a?x=y",
        "http://host/a",
    ],
)
def test_references_that_are_none(url: str) -> None:
    with pytest.raises(ImageError, match="is no image of a registry"):
        parse(url)


def test_references() -> None:
    digest = "sha256:" + "a" * 64
    assert parse("oci://h:5000/a/b-c:1.2").reference == "1.2"
    assert parse(f"oci://h/a:tag@{digest}").digest == digest
    assert parse("oci://[::1]:5000/a").host == "[::1]:5000"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"auths": {"h": {"auth": "!"}}}', '{"auths": 7}'])
async def test_a_file_of_logins_that_cannot_be_read(strict: StrictRegistry, tmp_path: Path, text: str) -> None:
    (tmp_path / "auth.json").write_text(text.replace('"h"', json.dumps(strict.host)))
    with pytest.raises(ImageError, match=r"Check images\.registry_auth_file"):
        await fetch(strict, tmp_path, "12", image_pull_secret=None, settings={"registry_auth_file": str(tmp_path / "auth.json")})

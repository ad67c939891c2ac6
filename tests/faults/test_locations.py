"""Locations on S3 ride out what passes, name what lasts, and take nothing half for whole."""

from __future__ import annotations

import math

import pytest
from pyarrow.fs import FileSelector

from skinvae.errors import BundleError, InputError, SourceChanged, UsageError
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.retries import take_retries
from skinvae.storage.versions import ObjectInfo
from tests.fault_proxy import Traffic
from tests.faults_to_inject import (
    BROKEN_OFF,
    CONFLICT,
    CONFLICT_NOW,
    DENIED,
    EXISTS_NOW,
    EXPIRED,
    INTERNAL_ERROR,
    RESET_AFTER,
    RESET_BEFORE,
    SHORTENED,
    SLOW_DOWN,
    At,
    Fault,
    NoFaults,
    RandomFaults,
    Request,
)
from tests.unit.storage.test_bundle import write as write_small_bundle

PASSING = [SLOW_DOWN, INTERNAL_ERROR, RESET_BEFORE, RESET_AFTER]
DATA = bytes(range(256)) * 64
ids = {"ids": lambda one: getattr(one, "name", None)}


def info_of(location: Location) -> ObjectInfo:
    info = location.info()
    assert info is not None
    return info


def test_every_access_bears_what_a_whole_job_must(traffic: Traffic, folder: Location) -> None:
    """30 % refused, 5 % reset, 1 % truncated, some late, on every request: nothing fails, nothing is half."""
    traffic.faults = RandomFaults(0, slow_down=0.3, resets=0.1, truncated=0.1, latency=0.02, latency_seconds=0.5)
    take_retries()
    names = [f"{index:02}" for index in range(10)]
    for name in names:
        (folder / name).write_bytes(name.encode() + DATA)
        (folder / "once" / name).create_bytes(DATA)
        assert not (folder / "once" / name).create_bytes(b"other")
    for name in names:
        whole = name.encode() + DATA
        info = info_of(folder / name)
        assert (folder / name).read_bytes() == (folder / name).read_version(info.version) == whole
        assert (folder / name).read_head(10) == whole[:10]
        assert (folder / name).open_range_reader(info).read(5, 900) == whole[5:900]
        assert (folder / "once" / name).read_bytes() == DATA
    assert [entry.name for entry in folder.list_objects()] == sorted([*names, *(f"once/{name}" for name in names)])
    assert not (folder / "gone").exists()
    folder.delete()
    assert folder.list_objects() == []
    done = traffic.count_faults()
    assert {"slow down", "reset before", "reset after", "broken off", "shortened", "latency"} <= set(done)
    # aiohttp's own second attempts are not ours.
    resets = sum(count for name, count in done.items() if "reset" in name)
    failures = sum(count for name, count in done.items() if name != "latency")
    assert failures - resets <= take_retries() <= failures


@pytest.mark.parametrize("fault", [BROKEN_OFF, SHORTENED], **ids)
def test_a_body_that_ends_early_is_asked_for_again(
    traffic: Traffic, folder: Location, impatient: int, fault: Fault
) -> None:
    (folder / "a").write_bytes(DATA)
    info = info_of(folder / "a")
    reads = {
        "whole": (folder / "a").read_bytes,
        "version": lambda: (folder / "a").read_version(info.version),
        "head": lambda: (folder / "a").read_head(info.num_bytes),
        "range": lambda: (folder / "a").open_range_reader(info).read(0, info.num_bytes),
    }
    for read in reads.values():
        traffic.faults = At("^GET", fault)
        assert read() == DATA
        traffic.faults = At("^GET", fault, times=math.inf)
        with pytest.raises(InputError, match=r"^cannot read 's3://tests/.*/a': ") as caught:
            read()
        assert not isinstance(caught.value, SourceChanged)
    assert traffic.count_faults() == {fault.name: len(reads) * (1 + impatient)}


@pytest.mark.parametrize("fault", [*PASSING, CONFLICT, CONFLICT_NOW, EXISTS_NOW], **ids)
def test_a_create_takes_effect_once_whatever_becomes_of_its_answer(
    traffic: Traffic, folder: Location, fault: Fault
) -> None:
    traffic.faults = At("^PUT", fault)
    created = (folder / "a").create_bytes(b"ours")
    assert (folder / "a").read_bytes() == b"ours"
    # A lost answer cannot be told from another writer's success.
    assert created is not (fault in {RESET_AFTER, CONFLICT_NOW, EXISTS_NOW})
    assert not (folder / "a").create_bytes(b"theirs")
    assert (folder / "a").read_bytes() == b"ours"


@pytest.mark.parametrize("pattern", ["POST .*large", "PUT .*large"])
@pytest.mark.parametrize("fault", PASSING, **ids)
def test_a_multipart_create_takes_effect_once(
    traffic: Traffic, folder: Location, fault: Fault, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(folder.filesystem), "_pipe_file", small_chunks(type(folder.filesystem)))
    large = DATA * 1024
    for nth in (1, 2):
        target = folder / f"large{nth}"
        traffic.faults = At(pattern, fault, nth=nth)
        target.create_bytes(large)
        traffic.faults = NoFaults()
        assert target.read_bytes() == large
        assert not target.create_bytes(b"theirs")
        traffic.faults = At(pattern, fault, nth=nth)
        target.write_bytes(large[::-1])
        assert target.read_bytes() == large[::-1]


def test_a_bundle_whose_last_answer_is_lost_is_written(traffic: Traffic, folder: Location) -> None:
    traffic.faults = At("^PUT .*/config.json", RESET_AFTER)
    write_small_bundle(folder / "model")
    assert traffic.count_faults() == {"reset after": 1}
    with pytest.raises(BundleError, match="holds a model bundle already"):
        write_small_bundle(folder / "model")


@pytest.mark.parametrize(("fault", "says"), [(DENIED, ""), (EXPIRED, r" \(ExpiredToken\)")], **ids)
def test_denials_fail_at_once_with_place_and_action(
    traffic: Traffic, folder: Location, fault: Fault, says: str
) -> None:
    (folder / "a").write_bytes(DATA)
    info = info_of(folder / "a")
    traffic.exchanges.clear()
    traffic.faults = At("", fault, times=math.inf)
    accesses = {
        "read": [(folder / "a").read_bytes, lambda: (folder / "a").open_range_reader(info).read(0, 9)],
        "write": [lambda: (folder / "a").write_bytes(b""), lambda: (folder / "a").create_bytes(b"")],
        "list": [(folder / "a").list_objects],
    }
    for action, calls in accesses.items():
        for call in calls:
            with pytest.raises(
                InputError, match=rf"^cannot {action} '{folder}/a': access denied{says}; check the perm"
            ):
                call()
    with pytest.raises(InputError, match=rf"^cannot look up '{folder}/a': access denied( \(400, as|;)"):
        (folder / "a").info()
    # botocore itself asks once more where a HEAD is answered by 400: it might be the region.
    assert len(traffic.exchanges) <= 6 + 1
    assert {one.fault for one in traffic.exchanges} == {fault.name}


def test_a_lasting_failure_ends_with_place_and_reason(traffic: Traffic, folder: Location, impatient: int) -> None:
    for fault, reason in ((SLOW_DOWN, "SlowDown, injected"), (RESET_BEFORE, "Could not connect")):
        traffic.faults = At("^PUT", fault, times=math.inf)
        with pytest.raises(InputError, match=rf"^cannot write '{folder}/a': {reason}"):
            (folder / "a").write_bytes(b"")


def test_an_archive_replaced_between_two_reads_is_noticed(traffic: Traffic, folder: Location) -> None:
    target = folder / "a"
    target.write_bytes(DATA)
    reader = target.open_range_reader(info_of(target))
    direct = Location.parse(target.uri)

    def replace(request: Request) -> None:
        traffic.faults = NoFaults()
        direct.write_bytes(DATA[::-1])

    assert reader.read(0, 9) == DATA[:9]
    traffic.faults = At("^GET", Fault("replaced", before=replace))
    with pytest.raises(SourceChanged, match=r"a' was replaced while it was read; run the command again$"):
        reader.read(9, 99)


def test_arrow_bears_it_too(traffic: Traffic, folder: Location) -> None:
    filesystem, path = folder.arrow_filesystem()
    traffic.faults = RandomFaults(3, slow_down=0.3, resets=0.05, truncated=0.2)
    for index in range(6):
        with filesystem.open_output_stream(f"{path}/{index}") as stream:
            stream.write(DATA)
        with filesystem.open_input_stream(f"{path}/{index}") as stream:
            assert stream.read() == DATA
    assert len(filesystem.get_file_info(FileSelector(path))) == 6


def small_chunks(kind: type) -> object:
    """s3fs' own way to write, in pieces of 5 MiB, the smallest that S3 takes, instead of 50."""
    write = kind._pipe_file  # type: ignore[attr-defined]

    async def pipe_file(self: object, path: str, data: bytes, **options: object) -> object:
        return await write(self, path, data, chunksize=5 << 20, **options)

    return pipe_file


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:very-secret@bucket/key",
        "s3://very-secret@bucket",
        "https://very-secret@host/bucket/key",
        "https://bucket.s3.amazonaws.com/a.zip?X-Amz-Credential=very-secret&X-Amz-Signature=very-secret",
        "s3://bucket/a.zip?AWSAccessKeyId=very-secret&Signature=very-secret",
    ],
)
def test_uris_with_credentials_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError, match=r"^a URI (holds credentials|is presigned)") as caught:
        Location.parse(uri)
    assert "secret" not in str(caught.value)


def test_a_key_for_encryption_needs_its_kind() -> None:
    with pytest.raises(ValueError, match=r"storage\.sse_kms_key_id needs storage\.sse=aws:kms"):
        StorageSettings(sse="AES256", sse_kms_key_id="key")

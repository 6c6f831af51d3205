"""Which weights are served under a name: the catalogue's, else the realm's own releases, and adapters beside them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.app.finished_runs import LABEL, FinishedRun, adapter_run, gguf_bytes, logged, model_run
from tests.seal import machines

from allod.app.artefacts.release_log import ReleaseLog
from allod.app.gateway import engine_seal
from allod.app.gateway.engine import replica_options
from allod.app.gateway.weights import A_RELEASE, check_memory, prepare_all, prepare_weights
from allod.app.home import Home, load_settings
from allod.app.training.release import NewRelease, release
from allod.core.errors import Invalid, Unavailable, VerificationError
from allod.model.store import silent
from allod.prove.releases.release import Releases
from allod.seal.devices import choosing
from allod.seal.devices.survey import survey_devices
from allod.seal.launch import SealOptions
from allod.settings.files import load_catalogue
from allod.settings.tree import Settings


class Begun:
    """Stands for a process that was started."""

    def __init__(self, options: SealOptions) -> None:
        self.options = options

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"realm.name": "realm.example", "realm.jurisdiction": "GB"}, home=tmp_path / "home")


def released(settings: Settings, run: FinishedRun) -> NewRelease:
    return release(settings, logged(settings, run).folder, now_ms=5_000, report=silent)


def serving(settings: Settings, name: str) -> Settings:
    return replace(settings, model=replace(settings.model, name=name))


def test_a_release_is_served_by_its_name(settings: Settings, tmp_path: Path) -> None:
    """From the store, with what its passport says: publisher, licence, label, and that it does not inform."""
    secret = {**LABEL, "tier": "SECRET", "markings": ["PERSONAL DATA"]}
    made = released(settings, model_run(tmp_path / "run", label=secret))
    weights = prepare_weights(serving(settings, "tiny"), silent)
    assert weights is not None
    assert weights.path == made.folder / "weights.gguf"
    served = weights.served
    assert (served.name, served.digest, served.owner, served.country) == ("tiny", made.digest, "realm.example", "GB")
    assert (served.licence, served.informative) == ("LicenseRef-public-domain AND MIT", False)
    assert (served.tier, served.markings, weights.adapters) == ("SECRET", ("PERSONAL DATA",), ())


def test_the_log_of_a_release_holds_its_mark(settings: Settings, tmp_path: Path) -> None:
    """By which a start sees, without what reads a log, whether there is one to read."""
    segment = Home(settings.home).artefacts / "segment"
    run = logged(settings, model_run(tmp_path / "run"))
    assert A_RELEASE not in segment.read_bytes()
    release(settings, run.folder, now_ms=5_000, report=silent)
    assert A_RELEASE in segment.read_bytes()


def test_adapters_are_served_beside_their_base(settings: Settings, tmp_path: Path) -> None:
    """Those for this very file, the newest of each name; asking for one by name means its base with it."""
    base = released(settings, model_run(tmp_path / "run"))
    style = released(settings, adapter_run(tmp_path / "adapter", base=base.digest))
    released(settings, adapter_run(tmp_path / "elsewhere", "elsewhere"))
    for name in ("tiny", "style"):
        weights = prepare_weights(serving(settings, name), silent)
        assert weights is not None
        assert weights.served.name == "tiny"
        (adapter,) = weights.adapters
        assert adapter.path == style.folder / "adapter.gguf"
        assert (adapter.served.name, adapter.served.base, adapter.served.digest) == ("style", "tiny", style.digest)


def test_a_name_that_nothing_has_is_refused(settings: Settings, tmp_path: Path) -> None:
    """With the names there are."""
    released(settings, model_run(tmp_path / "run"))
    with pytest.raises(Invalid) as caught:
        prepare_weights(serving(settings, "nothing"), silent)
    assert caught.value.code == "model_unknown"
    assert "smollm2-135m" in str(caught.value.hint)
    assert "tiny" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["tiny", "style"])
def test_nothing_runs_unsigned(settings: Settings, tmp_path: Path, name: str) -> None:
    """A model or an adapter that was changed keeps the whole from being served."""
    base = released(settings, model_run(tmp_path / "run"))
    style = released(settings, adapter_run(tmp_path / "adapter", base=base.digest))
    changed = (base if name == "tiny" else style).folder / "summary.md"
    changed.chmod(0o600)
    changed.write_text("")
    with pytest.raises(VerificationError):
        prepare_weights(serving(settings, "tiny"), silent)


def test_a_file_that_only_lies_in_the_store_has_no_name(settings: Settings, tmp_path: Path) -> None:
    """What the log does not name is not there."""
    other = load_settings({"realm.name": "other.example"}, home=tmp_path / "other")
    made = released(other, model_run(tmp_path / "run"))
    shutil.copytree(made.folder, Home(settings.home).store / made.folder.name)
    with pytest.raises(Invalid) as caught:
        prepare_weights(serving(settings, "tiny"), silent)
    assert caught.value.code == "model_unknown"


def test_another_realms_release_is_not_signed_here(settings: Settings, tmp_path: Path) -> None:
    """A folder that another realm signed does not stand in for ours."""
    other = load_settings({"realm.name": "other.example"}, home=tmp_path / "other")
    theirs = released(other, model_run(tmp_path / "run"))
    ours = released(settings, model_run(tmp_path / "again" / "run"))
    assert ours.digest == theirs.digest
    shutil.rmtree(ours.folder)
    shutil.copytree(theirs.folder, ours.folder)
    with pytest.raises(VerificationError) as caught:
        prepare_weights(serving(settings, "tiny"), silent)
    assert caught.value.name == "signature"


@pytest.mark.parametrize("kind", ["own file", "release"])
def test_a_header_is_read_once(settings: Settings, tmp_path: Path, kind: str) -> None:
    """The engine's options are made from what the gate has read: the file may be gone by then."""
    if kind == "own file":
        file = tmp_path / "own.gguf"
        file.write_bytes(gguf_bytes({"general.architecture": "llama"}))
        weights = prepare_weights(serving(settings, str(file)), silent)
    else:
        released(settings, model_run(tmp_path / "run"))
        weights = prepare_weights(serving(settings, "tiny"), silent)
    assert weights is not None
    weights.path.unlink()
    assert replica_options(settings, weights, tmp_path).info.context_tokens == 256


def test_what_is_started_ahead_is_what_the_catalogues_model_needs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is the one that the file, once it is read, asks for. None in a new home, or for one's own."""
    monkeypatch.setattr(engine_seal, "Ahead", Begun)
    first = load_catalogue()[0]
    file = Home(settings.home).store / first.sha256 / "weights.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(gguf_bytes({"general.architecture": "llama"}))
    named = serving(settings, first.name)
    with engine_seal.start_ahead(named) as ahead:
        assert ahead is None
    (settings.home / "engine.log").touch()
    with engine_seal.start_ahead(serving(settings, str(file))) as ahead:
        assert ahead is None
    with engine_seal.start_ahead(named) as ahead:
        weights = prepare_weights(named, silent)
        assert ahead is not None
        assert weights is not None
        assert ahead.options.socket_dir is not None
        assert replica_options(named, weights, ahead.options.socket_dir).seal == ahead.options


def test_an_engine_with_devices_is_in_an_island_that_has_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the settings name and no others; where none can be used, it is not started at all."""
    found = survey_devices(machines.h200_times_8(tmp_path / "machine"))
    monkeypatch.setattr(choosing, "survey_devices", lambda: found)
    named = replace(settings, model=replace(settings.model, devices=("3",)))
    seal = engine_seal.engine_seal(named, tmp_path)
    assert (seal.profile, {node.name for node in seal.devices.nodes}) == (
        "island-gpu",
        {"nvidiactl", "nvidia-uvm", "nvidia3"},
    )
    assert engine_seal.engine_seal(settings, tmp_path).profile == "sealed"
    monkeypatch.setattr(choosing, "survey_devices", lambda: found._replace(nodes=frozenset()))
    with pytest.raises(Unavailable) as caught:
        engine_seal.engine_seal(named, tmp_path)
    assert caught.value.code == "seal_device"


@pytest.mark.parametrize(("layers", "has_accelerators"), [(0, False), (12, True), (-1, True)])
def test_layers_on_accelerators_are_told_to_whoever_watches_the_engine(
    settings: Settings, tmp_path: Path, layers: int, has_accelerators: bool
) -> None:
    """It may sleep while they compute; and a batch of theirs is larger."""
    file = tmp_path / "own.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": "llama"}))
    own = serving(settings, str(file))
    weights = prepare_weights(own, silent)
    assert weights is not None
    options = replica_options(replace(own, model=replace(own.model, gpu_layers=layers)), weights, tmp_path)
    assert options.has_accelerators is has_accelerators
    config: Any = options.config
    assert config["batch_tokens"] == (256 if has_accelerators else 64)


def test_an_adapter_is_no_model_by_itself(settings: Settings, tmp_path: Path) -> None:
    """Named as a file it is refused at the gate."""
    file = tmp_path / "adapter.gguf"
    file.write_bytes(gguf_bytes({"general.architecture": "llama", "general.type": "adapter"}, is_model=False))
    with pytest.raises(Invalid, match="no model by itself"):
        prepare_weights(serving(settings, str(file)), silent)


def test_several_models_are_prepared_in_their_order(settings: Settings, tmp_path: Path) -> None:
    """The first stands for the gateway; none is named twice, nor as good as twice, and none beside the first is
    chosen by itself."""
    files = [tmp_path / f"{name}.gguf" for name in ("one", "two")]
    for file in files:
        file.write_bytes(gguf_bytes({"general.architecture": "llama", "general.name": file.stem}))
    names = [str(file) for file in files]
    prepared = prepare_all(several(settings, *names), silent)
    assert [weights.served.name for weights in prepared if weights] == ["one", "two"]
    with pytest.raises(Invalid) as caught:
        prepare_all(several(settings, names[0], names[0]), silent)
    assert caught.value.code == "model_name"
    alike = tmp_path / "again" / "ONE.gguf"
    alike.parent.mkdir()
    shutil.copy(files[1], alike)
    with pytest.raises(Invalid, match="named twice") as caught:
        prepare_all(several(settings, names[0], str(alike)), silent)
    assert caught.value.code == "model_name"
    with pytest.raises(Invalid) as caught:
        load_settings({"model.name": names[0], "model.others": ("auto",)}, home=settings.home)
    assert caught.value.param == "model.others"


def test_what_names_models_is_read_once_for_all_of_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The realm's releases, which may be many, and the catalogue."""
    base = released(settings, model_run(tmp_path / "run"))
    released(settings, adapter_run(tmp_path / "adapter", base=base.digest))
    own = tmp_path / "own.gguf"
    own.write_bytes(gguf_bytes({"general.architecture": "llama"}))
    num_reads, read = 0, ReleaseLog.releases

    def count(log: ReleaseLog) -> Releases | None:
        nonlocal num_reads
        num_reads += 1
        return read(log)

    monkeypatch.setattr(ReleaseLog, "releases", count)
    assert len(prepare_all(several(settings, "tiny", str(own)), silent)) == 2
    assert num_reads == 1
    assert load_catalogue() is load_catalogue()


def test_models_that_do_not_fit_together_are_refused_before_a_start(tmp_path: Path) -> None:
    """By what the kernel says is available; where it says nothing, nothing is refused."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000 kB\nMemAvailable:    1000 kB\n")
    check_memory(1000 << 10, meminfo)
    with pytest.raises(Unavailable) as caught:
        check_memory((1000 << 10) + 1, meminfo)
    assert caught.value.code == "memory_short"
    check_memory(1 << 60, tmp_path / "nothing")


def several(settings: Settings, first: str, *others: str) -> Settings:
    return replace(settings, model=replace(settings.model, name=first, others=others))

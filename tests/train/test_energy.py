"""Energy is metered, modelled or unavailable, and says which."""

from __future__ import annotations

from pathlib import Path

from allod.train.energy import EnergyMeter, energy


def counter(folder: Path, name: str, value: int, limit: int = 1_000_000) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{value}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{limit}\n")


def test_counters_are_summed_across_a_wrap(tmp_path: Path) -> None:
    """Two packages; one of them starts again at zero in between. Sub-domains are within a package: not counted."""
    counter(tmp_path, "intel-rapl:0", 900_000)
    counter(tmp_path, "intel-rapl:1", 0)
    counter(tmp_path, "intel-rapl:0:0", 5)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 99_999)
    counter(tmp_path, "intel-rapl:1", 50_000)
    counter(tmp_path, "intel-rapl:0:0", 500_000)
    assert meter.millijoules() == (200_000 + 50_000) // 1000


def test_a_counter_that_goes_away_leaves_no_figure(tmp_path: Path) -> None:
    """Half a sum would be a figure that nobody measured."""
    counter(tmp_path, "intel-rapl:0", 10)
    meter = EnergyMeter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.millijoules() is None


def test_the_label_says_how_a_figure_was_come_by(tmp_path: Path) -> None:
    """Metered before modelled; without either there is no figure at all."""
    assert EnergyMeter(tmp_path).millijoules() is None
    assert energy(12, seconds=1, node_watts=500, nodes=2)["label"] == "METERED"
    modelled = energy(None, seconds=2, node_watts=500, nodes=2)
    assert (modelled["label"], modelled["millijoules"]) == ("MODELLED", 2_000_000)
    assert energy(None, seconds=2, node_watts=0, nodes=2) == {
        "millijoules": None,
        "label": "UNAVAILABLE",
        "method": None,
    }

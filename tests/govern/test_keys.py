"""API keys: made once, read by their owner only, compared without telling how nearly right a guess was."""

from __future__ import annotations

import os
import stat
from hmac import compare_digest
from pathlib import Path

import pytest

from allod.core.errors import Denied, Invalid
from allod.govern import keys
from allod.govern.keys import KeyRing, Tenant, read_or_make_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "local.key"


def test_a_key_is_made_once(path: Path) -> None:
    """The second start reads what the first wrote."""
    made = read_or_make_key(path)
    assert read_or_make_key(path) == made
    assert path.read_text() == made + "\n"


def test_no_two_realms_share_a_key(tmp_path: Path) -> None:
    """Keys are random, and long enough not to be guessed: 32 bytes."""
    made = {read_or_make_key(tmp_path / f"{number}.key") for number in range(20)}
    assert len(made) == 20
    assert all(len(key.removeprefix("allod-")) == 43 for key in made)


def test_only_the_owner_can_read_a_new_key(path: Path) -> None:
    """Mode 0600 from the first moment, even where the umask would allow more."""
    before = os.umask(0)
    try:
        read_or_make_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o700 | 0o001])
def test_a_key_that_others_can_touch_is_refused(path: Path, mode: int) -> None:
    """A key that was readable may have been read; the hint says how to close it."""
    read_or_make_key(path)
    path.chmod(mode)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"
    assert "chmod 600" in (caught.value.hint or "")


def test_a_symbolic_link_is_no_key(path: Path) -> None:
    """Not to a key that is in order, and not to a place where one would be made."""
    elsewhere = path.with_name("elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"
    assert not elsewhere.exists()
    read_or_make_key(elsewhere)
    with pytest.raises(Invalid):
        read_or_make_key(path)


def test_a_directory_is_no_key(path: Path) -> None:
    """Whatever is not a regular file is refused with the same code."""
    path.mkdir(0o700)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_permissions"


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"allod-\n", b"allod-short\n", b"sk-" + b"a" * 43, b"\xff" * 50, b"\x00" * 50]
)
def test_what_is_too_weak_to_be_a_key_is_refused(path: Path, data: bytes) -> None:
    """An empty file, as a crash between making and writing leaves it, must never become an empty key; noise neither."""
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(Invalid) as caught:
        read_or_make_key(path)
    assert caught.value.code == "key_malformed"


def test_a_key_opens_for_its_own_tenant() -> None:
    """Each key leads to the tenant that it was given to."""
    one, two = Tenant("one"), Tenant("two")
    ring = KeyRing({"allod-1": one, "allod-2": two})
    assert ring.tenant_of("allod-1") is one
    assert ring.tenant_of("allod-2") is two


@pytest.mark.parametrize("key", ["", "allod", "allod-1 ", "ALLOD-1", "allod-12", "\x00", "é"])
def test_every_other_key_is_denied(key: str) -> None:
    """Missing, wrong, cut, longer, in other letters: all the same refusal."""
    with pytest.raises(Denied) as caught:
        KeyRing({"allod-1": Tenant("one")}).tenant_of(key)
    assert caught.value.code == "invalid_api_key"


def test_a_ring_without_keys_opens_to_nobody() -> None:
    """No tenants means no access, not open access."""
    with pytest.raises(Denied):
        KeyRing({}).tenant_of("")


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever key is presented, all are compared, and by `hmac.compare_digest` on digests of equal length."""
    lengths: list[tuple[int, int]] = []

    def counting(left: bytes, right: bytes) -> bool:
        lengths.append((len(left), len(right)))
        return compare_digest(left, right)

    monkeypatch.setattr(keys, "compare_digest", counting)
    ring = KeyRing({f"allod-{number}": Tenant(str(number)) for number in range(3)})
    ring.tenant_of("allod-0")
    assert lengths == [(32, 32)] * 3


def test_keys_are_not_kept(path: Path) -> None:
    """A dump of the ring shows digests, never the key."""
    ring = KeyRing({"allod-secret": Tenant("one")})
    assert "allod-secret" not in repr(vars(ring))

"""Settings: one file, one reader; what is unknown, of the wrong type or out of range stops the start with its code."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path

import pytest

import allod
from allod.core.errors import Invalid
from allod.govern.metering.prices import ModelPrices, Prices
from allod.settings.environment import default_home
from allod.settings.files import load_catalogue, load_nation
from allod.settings.tree import Settings, load


def written(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "allod.toml").write_text(text)
    return home


def refusal(home: Path, **overrides: object) -> Invalid:
    with pytest.raises(Invalid) as caught:
        load({name.replace("__", "."): value for name, value in overrides.items()}, home=home)
    return caught.value


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    """A realm needs no file: loopback, port 8400, sealed, the model chosen by measuring."""
    settings = load(home=tmp_path)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8400)
    assert settings.model.name == "auto"
    assert settings.unsafe_no_seal is False


def test_loading_makes_nothing(tmp_path: Path) -> None:
    """Settings are read; directories are made by whoever needs them."""
    load(home=tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_the_file_changes_what_it_names_and_no_more(tmp_path: Path) -> None:
    """One line of a section leaves its neighbours as they were."""
    settings = load(home=written(tmp_path, '[server]\nport = 9000\n[realm]\nname = "dyfed"\nsite = "north-1.b"\n'))
    assert settings.server.port == 9000
    assert settings.server.num_waiting == load(home=tmp_path / "absent").server.num_waiting
    assert settings.origin == "dyfed/receipts/north-1.b"


def test_a_shard_names_the_log_and_no_place(tmp_path: Path) -> None:
    """Two gateways of one site have a log each, and neither says that it is elsewhere; unsaid, the site names it."""
    home = written(tmp_path, '[realm]\nname = "dyfed"\nsite = "north"\nshard = "north-2"\n')
    settings = load(home=home)
    assert (settings.origin, settings.realm.site) == ("dyfed/receipts/north-2", "north")
    assert load({"realm.shard": ""}, home=home).origin == "dyfed/receipts/north"


def test_words_of_the_command_line_win(tmp_path: Path) -> None:
    """Said there, it counts; not said (None), the file counts."""
    home = written(tmp_path, "[server]\nport = 9000\n")
    assert load({"server.port": 9001}, home=home).server.port == 9001
    assert load({"server.port": None}, home=home).server.port == 9000


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("[server]\nprot = 1\n", "prot"),
        ("[sever]\nport = 1\n", "sever"),
        ("port = 1\n", "port"),
        ("[server.tls]\ncert = 'x'\n", "tls"),
        ("[model]\nName = 'x'\n", "Name"),
        ("[tenants]\npassword = 'x'\n", "password"),
        ("[prices]\nmicros_per_1k_tokens = 5\n", "micros_per_1k_tokens"),
        ("[prices.models.m]\nmicros_per_1k_tokens = 5\n", "micros_per_1k_tokens"),
        ("[prices.models.m]\ncurrency = 'EUR'\n", "currency"),
    ],
)
def test_an_unknown_key_is_an_error_and_is_named(tmp_path: Path, text: str, param: str) -> None:
    """Never dropped: a misspelt setting that is ignored is a setting that its owner believes in."""
    error = refusal(written(tmp_path, text))
    assert (error.code, error.param) == ("settings_unknown", param)
    assert "known here" in (error.hint or "")


@pytest.mark.parametrize("text", ["unsafe_no_seal = true\n", "home = '/'\n", "[unsafe_no_seal]\n"])
def test_a_file_cannot_switch_the_seal_off(tmp_path: Path, text: str) -> None:
    """That is said aloud on the command line, or not at all; and a file does not move the home that it lies in."""
    assert refusal(written(tmp_path, text)).code == "settings_unknown"


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("[server]\nport = '8400'\n", "port"),
        ("[server]\nport = true\n", "port"),
        ("[server]\nport = 8400.0\n", "port"),
        ("[server]\nport = [8400]\n", "port"),
        ("[realm]\nname = 7\n", "name"),
        ("[realm]\nname = 1979-05-27\n", "name"),
        ("server = 5\n", "server"),
        ("[prices]\nmicros_per_engine_second = 0.5\n", "micros_per_engine_second"),
        ("[prices]\nmodels = 5\n", "models"),
        ("[prices.models]\nm = 5\n", "m"),
        ("[prices.models.m]\nmicros_per_engine_second = 0.5\n", "micros_per_engine_second"),
        ("[tenants]\nmax_wait_s = '60'\n", "max_wait_s"),
        ("[[server]]\nport = 1\n", "server"),
        ("[server.port]\nvalue = 1\n", "port"),
    ],
)
def test_a_wrong_type_is_an_error(tmp_path: Path, text: str, param: str) -> None:
    """Nothing is converted: text is no number, and true is not 1."""
    error = refusal(written(tmp_path, text))
    assert (error.code, error.param) == ("settings_type", param)


def test_what_a_models_prices_take_from_all_is_named_where_it_stands(tmp_path: Path) -> None:
    """Also where a model's table is read first: it says nothing wrong itself."""
    models = "models.m.micros_per_1k_prompt_tokens = 0"
    error = refusal(written(tmp_path, f"[prices]\n{models}\nmicros_per_engine_second = 0.5\n"))
    assert error.message.endswith("allod.toml: prices: micros_per_engine_second must be int")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("server", "port", -1),
        ("server", "port", 65_536),
        ("server", "body_limit_bytes", 0),
        ("server", "num_waiting", -1),
        ("model", "slots", 0),
        ("model", "context_tokens", 63),
        ("model", "threads", -1),
        ("model", "ready_timeout_s", 0),
        ("tenants", "max_wait_s", 0),
        ("tenants", "max_wait_s", 86_401),
        ("prices", "micros_per_1k_prompt_tokens", -1),
        ("prices", "micros_per_1k_completion_tokens", 10**12 + 1),
        ("prices", "micros_per_engine_second", -1),
    ],
)
def test_a_number_out_of_range_is_an_error(tmp_path: Path, section: str, name: str, value: int) -> None:
    """From the file or from the command line alike; the setting is named in full."""
    from_file = refusal(written(tmp_path, f"[{section}]\n{name} = {value}\n"))
    assert (from_file.code, from_file.param) == ("settings_range", f"{section}.{name}")
    assert refusal(tmp_path / "absent", **{f"{section}__{name}": value}).code == "settings_range"


def test_a_models_price_out_of_range_is_an_error(tmp_path: Path) -> None:
    """As the realm's own is; the model is named."""
    error = refusal(written(tmp_path, '[prices.models."qwen-0.5b"]\nmicros_per_engine_second = -1\n'))
    assert (error.code, error.param) == ("settings_range", "prices.models.qwen-0.5b.micros_per_engine_second")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "127.0.0.1.example.org", "127.1"])
def test_only_loopback_is_served(tmp_path: Path, host: str) -> None:
    """There is no TLS yet, so there is no route off loopback."""
    error = refusal(written(tmp_path, f'[server]\nhost = "{host}"\n'))
    assert (error.code, error.param) == ("settings_host", "server.host")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_every_name_of_loopback_is_served(tmp_path: Path, host: str) -> None:
    """Both families, and the name."""
    assert load(home=written(tmp_path, f'[server]\nhost = "{host}"\n')).server.host == host


@pytest.mark.parametrize("name", ["a b", "a/b", "a+b", "a\\nb", "ŵ", "../x"])
@pytest.mark.parametrize("part", ["name", "site", "shard"])
def test_a_realm_has_a_plain_name(tmp_path: Path, part: str, name: str) -> None:
    """It becomes part of a signed note's key name and of a path: no spaces, slashes, plus signs or line ends."""
    assert refusal(written(tmp_path, f'[realm]\n{part} = "{name}"\n')).code == "settings_name"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("site", ""),
        ("site", "x" * 65),
        ("shard", "x" * 65),
        ("jurisdiction", ""),
        ("jurisdiction", "a\\nb"),
        ("jurisdiction", "Wales"),
        ("jurisdiction", "gb"),
    ],
)
def test_a_site_that_no_receipt_can_name_stops_the_start(tmp_path: Path, name: str, value: str) -> None:
    """Found out at the first answer it would be too late."""
    error = refusal(written(tmp_path, f'[realm]\n{name} = "{value}"\n'))
    assert (error.code, error.param) == ("settings_name", f"realm.{name}")


@pytest.mark.parametrize("code", ["GB", "GB-WLS", "US-CA"])
def test_a_jurisdiction_is_a_code_of_iso_3166(tmp_path: Path, code: str) -> None:
    """A country, or a part of one."""
    assert load(home=written(tmp_path, f'[realm]\njurisdiction = "{code}"\n')).realm.jurisdiction == code


def test_a_realm_that_says_nothing_of_governing(tmp_path: Path) -> None:
    """The United Kingdom's words, the lowest tier, tenants in a file of its own, and nothing to pay."""
    settings = load(home=tmp_path)
    assert (settings.realm.nation, settings.realm.tier, settings.tenants.database) == ("gb", "", "")
    assert settings.prices == Prices()
    assert settings.prices.micros_of(prompt_tokens=10**6, completion_tokens=10**6, engine_ms=10**6) == 0


def test_every_word_on_governing_can_be_set(tmp_path: Path) -> None:
    """Nation, tier, where tenants are kept, how long they wait, and what they pay."""
    settings = load(
        home=written(
            tmp_path,
            """
            [realm]
            nation = "xz-north"
            tier = "TOP SECRET"
            [tenants]
            database = "postgresql://allod@db.example:5432/allod?sslmode=verify-full"
            max_wait_s = 5
            [prices]
            currency = "EUR"
            micros_per_1k_prompt_tokens = 1
            micros_per_1k_completion_tokens = 2
            micros_per_engine_second = 3
            """,
        )
    )
    assert (settings.realm.nation, settings.realm.tier, settings.tenants.max_wait_s) == ("xz-north", "TOP SECRET", 5)
    assert settings.tenants.database == "postgresql://allod@db.example:5432/allod?sslmode=verify-full"
    assert settings.prices == Prices(1, 2, 3, "EUR")


def test_a_model_has_its_own_prices_and_the_rest_are_as_for_all(tmp_path: Path) -> None:
    """What is not said for it, 0 included, is what the realm says; an adapter without any has its model's."""
    text = """
        [prices]
        micros_per_1k_prompt_tokens = 1
        micros_per_1k_completion_tokens = 2
        [prices.models."qwen-0.5b"]
        micros_per_1k_prompt_tokens = 0
        micros_per_engine_second = 3
        [prices.models.law]
        """
    prices = load(home=written(tmp_path, text)).prices
    own = ModelPrices(0, 2, 3)
    assert prices.models == {"qwen-0.5b": own, "law": ModelPrices(1, 2, 0)}
    assert (prices.prices_of("qwen-0.5b", ""), prices.prices_of("medicine", "qwen-0.5b")) == (own, own)
    assert prices.prices_of("law", "qwen-0.5b") == ModelPrices(1, 2, 0)
    assert prices.prices_of("other", "") is prices.prices_of("medicine", "other") is prices


@pytest.mark.parametrize("nation", ["", "g", "GB", "../gb", "gb/x", "-gb", "x" * 33, "ŵ", "gb\\n"])
def test_a_nation_is_the_plain_name_of_a_profile(tmp_path: Path, nation: str) -> None:
    """It becomes the name of a file: nothing that leads elsewhere."""
    error = refusal(written(tmp_path, f'[realm]\nnation = "{nation}"\n'))
    assert (error.code, error.param) == ("settings_name", "realm.nation")


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://user:secret@db.example/allod",
        "postgres://:secret@db.example/allod",
        "postgresql://user@db.example/allod?password=secret",
        "postgresql://db.example/allod?sslmode=require&password=secret",
        "postgresql://user@db.example/allod?sslpassword=secret",
        "postgresql://a@b@c/allod",
        "mysql://db.example/allod",
        "sqlite:///tenants",
        "host=db.example password=secret",
        "postgresql://db.example/allod x",
        "POSTGRESQL://db.example/allod",
    ],
)
def test_an_address_of_tenants_holds_no_password(tmp_path: Path, database: str) -> None:
    """Settings are read by more eyes than secrets may be; and no other database is taken for a PostgreSQL."""
    error = refusal(written(tmp_path, f'[tenants]\ndatabase = "{database}"\n'))
    assert (error.code, error.param) == ("settings_name", "tenants.database")
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "database", ["", "postgresql:///allod", "postgres://db.example/a", "postgresql://[::1]:5433/a"]
)
def test_an_address_of_tenants_without_a_password(tmp_path: Path, database: str) -> None:
    """A socket, a name, a number; empty is the realm's own file."""
    assert load(home=written(tmp_path, f'[tenants]\ndatabase = "{database}"\n')).tenants.database == database


@pytest.mark.parametrize("currency", ["", "eur", "EURO", "£", "EU"])
def test_a_currency_is_a_code_of_iso_4217(tmp_path: Path, currency: str) -> None:
    """Bills are read by other programs."""
    error = refusal(written(tmp_path, f'[prices]\ncurrency = "{currency}"\n'))
    assert (error.code, error.param) == ("settings_name", "prices.currency")


def test_a_nation_of_the_homes_own_comes_before_ours(tmp_path: Path) -> None:
    """A realm may correct the profile of its nation, or bring one that we have never heard of."""
    shipped = Path(allod.__file__).parent / "nations" / "gb.toml"
    (tmp_path / "nations").mkdir()
    own = shipped.read_text().replace('name = "United Kingdom"', 'name = "Ours"', 1)
    (tmp_path / "nations" / "gb.toml").write_text(own)
    (tmp_path / "nations" / "xz.toml").write_text(own.replace('code = "gb"', 'code = "xz"', 1))
    assert load_nation("gb").name == load_nation("gb", home=tmp_path / "absent").name == "United Kingdom"
    assert load_nation("gb", home=tmp_path).name == "Ours"
    assert load_nation("xz", home=tmp_path).code == "xz"


def test_a_nation_that_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    """With the names of those that there are, and how to bring another."""
    with pytest.raises(Invalid) as caught:
        load_nation("zz", home=tmp_path)
    assert (caught.value.code, caught.value.param) == ("nation_unknown", "realm.nation")
    assert "gb" in (caught.value.hint or "")


def test_a_profile_in_anothers_place_is_refused(tmp_path: Path) -> None:
    """A file that was copied and not renamed inside would make labels of a nation that nobody chose."""
    (tmp_path / "nations").mkdir()
    shipped = Path(allod.__file__).parent / "nations" / "gb.toml"
    (tmp_path / "nations" / "xz.toml").write_text(shipped.read_text())
    with pytest.raises(Invalid) as caught:
        load_nation("xz", home=tmp_path)
    assert caught.value.code == "nation_misnamed"


def test_a_file_nested_without_end_is_malformed(tmp_path: Path) -> None:
    """The parser's stack is its own concern."""
    assert refusal(written(tmp_path, "a = " + "[" * 100_000)).code == "settings_malformed"


@pytest.mark.parametrize("text", ["[server", "port 8400", "[server]\nport = 1\nport = 2\n", "a = {", "\x00"])
def test_a_broken_file_stops_the_start(tmp_path: Path, text: str) -> None:
    """No fallback to defaults; the file is named."""
    error = refusal(written(tmp_path, text))
    assert error.code == "settings_malformed"
    assert "allod.toml" in error.message


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    (tmp_path / "allod.toml").write_bytes('[realm]\nname = "é"\n'.encode("latin-1"))
    assert refusal(tmp_path).code == "settings_malformed"


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    """A directory in its place is not the same as no file."""
    (tmp_path / "allod.toml").mkdir()
    assert refusal(tmp_path).code == "settings_unreadable"


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLOD_HOME counts, and its file is read; an explicit home counts more."""
    monkeypatch.setenv("ALLOD_HOME", str(written(tmp_path / "named", "[server]\nport = 9100\n")))
    assert load().home == tmp_path / "named"
    assert load().server.port == 9100
    assert load(home=tmp_path / "other").server.port == 8400


def test_without_the_environment_the_platform_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty ALLOD_HOME is none; then XDG_DATA_HOME, then the user's own data directory."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("ALLOD_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home() == tmp_path / "allod"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_home() == tmp_path / ".local" / "share" / "allod"


def test_the_home_of_nobody_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~name` of a user that does not exist is a wrong setting, not a directory of that name."""
    monkeypatch.setenv("ALLOD_HOME", "~no-such-user/allod")
    with pytest.raises(Invalid) as caught:
        load()
    assert caught.value.code == "home_unusable"


def test_a_relative_home_is_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the directory later does not move the realm."""
    monkeypatch.chdir(tmp_path)
    assert load(home=Path("here")).home == tmp_path / "here"


def test_settings_do_not_change(tmp_path: Path) -> None:
    """The tree is frozen, so that what was checked is what is used."""
    settings: Settings = load(home=tmp_path)
    with pytest.raises(FrozenInstanceError):
        settings.server.host = "0.0.0.0"  # type: ignore[misc]


def test_the_catalogue_is_consistent() -> None:
    """Names differ; digests are SHA-256; every package is pinned and has its member; no file name leaves its folder."""
    catalogue = load_catalogue()
    assert len({entry.name for entry in catalogue}) == len(catalogue) >= 3
    assert len({entry.sha256 for entry in catalogue}) == len(catalogue)
    for entry in catalogue:
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256), entry.name
        assert len(entry.packages) == len(entry.members) > 0, entry.name
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", package) for package in entry.packages), entry.name
        assert Path(entry.file).name == entry.file
        assert entry.file.endswith(".gguf")
        assert entry.official is None or entry.official.startswith("https://"), entry.name


def test_the_catalogue_goes_from_small_to_large() -> None:
    """`auto` takes the last bearable one, so each entry must cost more than the one before; the first is the unit."""
    catalogue = load_catalogue()
    assert (catalogue[0].prefill_cost, catalogue[0].decode_cost) == (1.0, 1.0)
    for smaller, larger in pairwise(catalogue):
        assert smaller.size_bytes < larger.size_bytes
        assert smaller.prefill_cost < larger.prefill_cost
        assert smaller.decode_cost < larger.decode_cost


def test_a_model_that_is_not_information_says_so() -> None:
    """The smallest model invents answers, and its entry must not claim otherwise."""
    smallest, *others = load_catalogue()
    assert not smallest.informative
    assert all(entry.informative for entry in others)

"""Optional packages that are missing, or there and broken."""

import sys

import pytest

from fusecli import extras
from fusecli.errors import UsageError
from fusecli.extras import need


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package of which importing runs the text; of None it is a mere folder, as pip may leave one."""

    def make(name, text):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    return make


def refusal(name):
    with pytest.raises(UsageError) as caught:
        need(name, "this needs it", "fusecli[it]")
    return str(caught.value)


def test_a_package_that_is_missing_or_left_in_part_is_to_be_installed(package):
    install = "this needs it: pip install 'fusecli[it]'"
    assert refusal("fusecli_has_no_such") == install
    package("left_by_pip", None)
    assert refusal("left_by_pip") == install
    package("lacks_another", "import fusecli_has_no_such")
    lacks = "this needs it, which is installed but lacks fusecli_has_no_such: pip install 'fusecli[it]'"
    assert refusal("lacks_another") == lacks


@pytest.mark.parametrize("kind", ["ImportError", "OSError", "ValueError"])
def test_a_package_that_does_not_load_is_not_called_missing(package, kind):
    package(f"broken_by_{kind}".lower(), f"raise {kind}('libavcodec.so.61: cannot open shared object file')")
    told = "this needs it, which is installed but does not load (libavcodec.so.61: cannot open shared object file)"
    assert refusal(f"broken_by_{kind}".lower()) == told


@pytest.mark.parametrize("error", ["MemoryError()", "ImportError('x.so: failed to map segment from shared object')"])
def test_memory_that_is_short_for_a_package_is_told_elsewhere(package, error):
    name = f"too_large_{error[:6]}".lower()
    package(name, f"raise {error}")
    with pytest.raises((MemoryError, ImportError)):
        need(name, "this needs it", "fusecli[it]")


def test_a_package_that_loads():
    assert need("json", "", "").loads("1") == 1


@pytest.mark.parametrize(("version", "fits"), [
    ("17.0.9", False), ("9", False), ("17.1rc1", True), ("18", True), ("20260101", True),
    ("custom_main_0fdd", True), ("0+unknown", True), (None, True),
])  # fmt: skip
def test_a_package_that_is_too_old_is_to_be_upgraded(package, monkeypatch, version, fits):
    monkeypatch.setattr(extras, "requires", lambda name: ['it>=2; extra == "it"', 'an-old-one>=17.1; extra == "it"'])
    monkeypatch.delitem(sys.modules, "an_old_one", raising=False)
    extras._least.cache_clear()
    package("an_old_one", f"__version__ = {version!r}")
    try:
        if fits:
            assert need("an_old_one", "this needs it", "fusecli[it]").__version__ == version
        else:
            told = f"this needs it 17.1 or newer, not {version}: pip install 'fusecli[it]'"
            assert refusal("an_old_one") == told
    finally:
        extras._least.cache_clear()


def test_damaged_metadata_of_fusecli_refuse_no_package(package, monkeypatch, tmp_path):
    info = tmp_path / "fusecli-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(b"Name: fusecli\nRequires-Dist: \xff")
    extras._least.cache_clear()
    package("of_some_version", "__version__ = '1.0'")
    assert need("of_some_version", "this needs it", "fusecli[it]").__version__ == "1.0"

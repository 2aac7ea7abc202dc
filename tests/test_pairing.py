import errno
import os
import shlex
import shutil
import time
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusecli.errors import UsageError
from fusecli.images.listing import walk
from fusecli.images.pair import Pair
from fusecli.images.pairing import Pairing, find_pairs

ENDINGS = {".png", ".tif", ".jpg", ".nii.gz"}


def make(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    root.mkdir(parents=True, exist_ok=True)
    return str(root)


def pairs(first, second, **options) -> list[Pair]:
    return find_pairs(str(first), str(second), Pairing(**options), endings=ENDINGS, sides=("vis", "ir"))


def names(*args, **options) -> list[str]:
    return [pair.name for pair in pairs(*args, **options)]


def refused(*args, **options) -> str:
    with pytest.raises(UsageError) as caught:
        pairs(*args, **options)
    return str(caught.value)


def test_a_pair_of_links_to_one_file_is_a_pair_among_others(tmp_path):
    """As tools leave them that save space, where both cameras gave the same black frame."""
    vis, ir = make(tmp_path / "vis", "0.png", "1.png"), make(tmp_path / "ir", "1.png")
    os.link(tmp_path / "vis" / "0.png", tmp_path / "ir" / "0.png")
    assert names(vis, ir) == ["0", "1"]


@pytest.mark.parametrize("foreseen", [True, False])  # Windows lets one enter any folder, until it is listed
def test_folders_that_may_not_be_listed_cost_themselves(tmp_path, monkeypatch, caplog, foreseen):
    def listed(folder):
        if str(folder).endswith("lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    scandir = os.scandir
    sides = [make(tmp_path / side, "a.png", "lost+found/b.png") for side in ("vis", "ir")]
    monkeypatch.setattr(os, "access", lambda path, mode: not (foreseen and str(path).endswith("lost+found")))
    monkeypatch.setattr(os, "scandir", listed)
    assert names(*sides, recursive=True) == ["a"]
    for side in sides:
        list(walk(str(side), recursive=True))  # as --watch does again and again
        assert caplog.text.count(f"{side}/lost+found: cannot be listed") == 1


@pytest.mark.parametrize(("number", "told"), [(errno.ENAMETOOLONG, True), (errno.ESTALE, True), (errno.ENOENT, False)])
def test_the_reason_why_a_folder_cannot_be_listed_is_told(tmp_path, monkeypatch, caplog, number, told):
    def failing(path):
        if str(path).endswith("deep"):
            raise OSError(number, os.strerror(number), path)
        return stat(path)

    stat, vis = os.stat, make(tmp_path / "vis", "a.png", "deep/b.png")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("deep"))
    monkeypatch.setattr(os, "stat", failing)
    assert [name for _, name, _ in walk(vis, recursive=True)] == ["a.png"]
    assert caplog.messages == ([f"{vis}/deep: cannot be listed: {os.strerror(number)}"] if told else [])


def test_a_folder_that_is_not_there_is_named_before_an_empty_one(tmp_path):
    assert "ir: no such file or folder" in refused(make(tmp_path / "vis"), tmp_path / "ir")


def test_all_that_is_not_there_is_named(tmp_path):
    both = refused(tmp_path / "camera", tmp_path / "thermal")
    assert both == "\n".join(
        f"{option} {tmp_path / name}: no such file or folder"
        for option, name in (("--vis", "camera"), ("--ir", "thermal"))
    )


def test_folders_pair_by_stem_whatever_the_ending(tmp_path, caplog):
    vis = make(tmp_path / "vis", "b.PNG", "a.jpg", "scan.nii.gz", "Thumbs.db", ".hidden.png", ".a.png.1-0.partial")
    ir = make(tmp_path / "ir", "a.tif", "b.tif", "scan.png", "Thumbs.db")
    found = pairs(vis, ir)
    assert [(pair.name, pair.first.name, pair.second.name) for pair in found] == [
        ("a", "a.jpg", "a.tif"),
        ("b", "b.PNG", "b.tif"),
        ("scan", "scan.nii.gz", "scan.png"),
    ]
    assert not caplog.messages


def test_sub_folders_are_mirrored_only_when_asked(tmp_path):
    vis = make(tmp_path / "vis", "1.png", "day/1.png", "night/x/1.png")
    ir = make(tmp_path / "ir", "1.png", "day/1.png", "night/x/1.png")
    assert names(vis, ir) == ["1"]
    assert names(vis, ir, recursive=True) == ["1", "day/1", "night/x/1"]
    only_below = make(tmp_path / "deep", "day/1.png")
    assert "--recursive" in refused(only_below, only_below)


def test_sub_folders_that_differ_are_named(tmp_path):
    vis = make(tmp_path / "vis", "day/a.png", "day/b.png")
    ir = make(tmp_path / "ir", "0.png", "b.png")
    message = refused(vis, ir, recursive=True)
    assert f"{vis} has 'day/b', {ir} has 'b', for example. The sub-folders must agree, too" in message


def test_links_that_lead_back_end(tmp_path):
    vis, ir = make(tmp_path / "vis", "a/1.png"), make(tmp_path / "ir", "a/1.png")
    (tmp_path / "vis" / "a" / "up").symlink_to(tmp_path / "vis", target_is_directory=True)
    (tmp_path / "vis" / "gone").symlink_to(tmp_path / "nowhere")
    assert names(vis, ir, recursive=True) == ["a/1"]


def test_a_linked_folder_is_followed(tmp_path):
    make(tmp_path / "disk", "1.png")
    vis, ir = make(tmp_path / "vis"), make(tmp_path / "ir", "day/1.png", "night/1.png")
    for name in ("day", "night"):
        (tmp_path / "vis" / name).symlink_to(tmp_path / "disk", target_is_directory=True)
    assert names(vis, ir, recursive=True) == ["day/1", "night/1"]


def test_unmatched_files_are_listed_and_counted(tmp_path, caplog):
    vis = make(tmp_path / "vis", "ok.png", *(f"{index:03}.png" for index in range(25)))
    ir = make(tmp_path / "ir", "ok.png", "alone.tif")
    message = refused(vis, ir)
    assert "--vis: 25 files have no partner" in message
    assert "009.png" in message
    assert "010.png" not in message
    assert "… and 15 more" in message
    assert "--ir: 1 file has no partner" in message
    assert "alone.tif" in message
    assert "--ignore-unmatched" in message
    assert names(vis, ir, ignore_unmatched=True) == ["ok"]
    assert "alone.tif" in caplog.text


@pytest.mark.parametrize("ending", [".gif", ".HEIC", ".jp2", ".exr", ".avif", ".dng", ".raw"])
def test_partners_of_a_kind_that_is_not_read_are_named(tmp_path, caplog, ending):
    vis = make(tmp_path / "vis", "a.png", "b.png", "c.png")
    some = make(tmp_path / "ir", "a.png", f"b{ending}", f"c{ending}", "d.txt")
    expected = f"--ir: there are files of these names that are not read (2 × {ending.lower()}); fusecli reads .jpg"
    assert expected in refused(vis, some)
    assert pairs(vis, some, ignore_unmatched=True)
    assert expected in caplog.text
    none = make(tmp_path / "none", f"a{ending}", f"b{ending}", "preview.png")
    assert expected in refused(vis, none)
    assert "not read" not in refused(vis, make(tmp_path / "few", "a.png", "a.txt", "d.txt"))


def test_pairs_of_pictures_that_are_not_read_are_told_of(tmp_path, caplog):
    for side in ("vis", "ir"):
        make(tmp_path / side, "a.png", "b.gif", "b.xml", "c.gif", "a.gif", "a.xml", "d.xml")
    assert names(tmp_path / "vis", tmp_path / "ir") == ["a"]
    assert caplog.messages == ["2 pairs of a kind that is not read left out, for example b.gif"]


def test_two_files_of_one_name_on_one_side_are_named(tmp_path):
    vis, ir = make(tmp_path / "vis", "a.png", "a.tif"), make(tmp_path / "ir", "a.png")
    message = refused(vis, ir)
    assert "a.png" in message
    assert "a.tif" in message
    assert "--vis" in message
    assert [pair.first.name for pair in pairs(tmp_path / "vis" / "*.tif", ir)] == ["a.tif"]


def test_each_way_to_find_nothing_has_its_message(tmp_path):
    ir = make(tmp_path / "ir", "a.png")
    assert "no such file or folder" in refused(tmp_path / "missing", ir)
    assert "the folder is empty" in refused(make(tmp_path / "empty"), ir)
    message = refused(make(tmp_path / "notes", "a.txt", "b.txt", "README"), ir)
    assert "2 × .txt" in message
    assert "1 × no ending" in message
    assert ".nii.gz .png .tif" in message
    assert "not a supported kind of file" in refused(tmp_path / "notes" / "a.txt", ir)
    assert "no file matches" in refused(tmp_path / "ir" / "*.tif", ir)
    make(tmp_path / "deep" / "1", "ir/a.png")
    assert "the folders that match hold only sub-folders; --recursive takes" in refused(tmp_path / "deep" / "*", ir)
    assert "the folders that match are empty" in refused(tmp_path / "emp*", ir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_without_permission_is_named(tmp_path):
    vis = make(tmp_path / "vis", "a.png")
    Path(vis).chmod(0)
    try:
        assert "Permission denied" in refused(vis, vis)
    finally:
        Path(vis).chmod(0o755)


def test_single_files_pair_whatever_their_names(tmp_path):
    folder = make(tmp_path, "scene.png", "thermal.tif", "ir/scene.tif", "ir/other.tif")
    assert pairs(tmp_path / "scene.png", tmp_path / "thermal.tif") == [
        Pair("scene", tmp_path / "scene.png", tmp_path / "thermal.tif")
    ]
    assert pairs(tmp_path / "scene.png", tmp_path / "ir") == [
        Pair("scene", tmp_path / "scene.png", tmp_path / "ir" / "scene.tif")
    ]
    assert "no file of --vis has a partner" in refused(tmp_path / "thermal.tif", tmp_path / "ir")
    assert "same file" in refused(tmp_path / "scene.png", Path(folder) / "scene.png")


def test_file_names_with_wildcard_characters_are_taken_as_they_are(tmp_path):
    make(tmp_path, "a[1].png", "b[1].png")
    assert names(tmp_path / "a[1].png", tmp_path / "b[1].png") == ["a[1]"]


def test_globs_are_named_by_what_they_leave_open(tmp_path):
    make(tmp_path, *(f"{scene}/{side}/{n}.png" for scene in ("s1", "s2") for side in ("vis", "ir") for n in (1, 2)))
    assert names(tmp_path / "*" / "vis" / "*.png", tmp_path / "*" / "ir" / "*.png") == ["s1/1", "s1/2", "s2/1", "s2/2"]
    assert names(tmp_path / "s1" / "vis" / "*", tmp_path / "s2" / "ir" / "*") == ["1", "2"]
    assert names(tmp_path / "**" / "vis" / "*.png", tmp_path / "**" / "ir" / "*.png") == [
        "s1/1",
        "s1/2",
        "s2/1",
        "s2/2",
    ]


def test_globs_of_folders_mean_the_files_in_them(tmp_path):
    make(tmp_path, *(f"{scene}/{side}/{n}.png" for scene in ("s1", "s2") for side in ("vis", "ir") for n in (1, "b/2")))
    globs = tmp_path / "*" / "vis", tmp_path / "*" / "ir"
    assert names(*globs) == ["s1/1", "s2/1"]
    assert names(*globs, recursive=True) == ["s1/1", "s1/b/2", "s2/1", "s2/b/2"]
    deep = tmp_path / "**" / "vis", tmp_path / "**" / "ir"  # below which the names of both sides are none of the pairs'
    assert names(*deep, recursive=True) == ["s1/1", "s1/b/2", "s2/1", "s2/b/2"]


def test_where_globs_leave_only_folders_open_these_name_the_pairs(tmp_path):
    make(tmp_path, *(f"{scene}/{name}" for scene in ("s1", "s2") for name in ("vis.png", "ir.tif", "mask.png")))
    assert pairs(tmp_path / "*" / "vis.png", tmp_path / "*" / "ir.tif") == [
        Pair(scene, tmp_path / scene / "vis.png", tmp_path / scene / "ir.tif") for scene in ("s1", "s2")
    ]
    make(tmp_path, *(f"{scene}/{side}/0.png" for scene in ("s1", "s2") for side in ("v", "t")))
    assert names(tmp_path / "*" / "v" / "0.png", tmp_path / "*" / "t" / "0.png") == ["s1/0", "s2/0"]


def test_patterns_for_suffixes_and_prefixes(tmp_path):
    flat = make(tmp_path / "flat", "7_ir.tif", "7_rgb.png", "8_ir.tif", "8_rgb.png")
    expected = [Pair(n, Path(flat) / f"{n}_rgb.png", Path(flat) / f"{n}_ir.tif") for n in ("7", "8")]
    assert pairs(flat, flat, pair_by="ir=*_ir,vis=*_rgb") == expected
    assert pairs(flat, flat, pair_by="vis=*_rgb, ir=*_ir") == expected
    vis, ir = make(tmp_path / "vis", "n/7.png"), make(tmp_path / "ir", "n/IR-7.png")
    assert names(vis, ir, pair_by="ir=IR-*", recursive=True) == ["n/7"]
    assert "same file" in refused(flat, flat)
    for wrong in ("ir", "mri=*_a", "ir=_a", "ir=**", "ir=*_a,ir=*_b", ""):
        assert "vis=*_vis,ir=*_ir" in refused(flat, flat, pair_by=wrong)


def test_a_question_mark_in_a_pattern_is_any_character(tmp_path):
    """Drones name both pictures by time, seconds apart, and by number."""
    drone = make(tmp_path / "drone", "DJI_20240101235959_0001_T.JPG", "DJI_20240102000000_0001_W.JPG", "DJI_1_T.JPG")
    by_number = "ir=DJI_??????????????_*_T,vis=DJI_??????????????_*_W"
    assert names(drone, drone, pair_by=by_number, ignore_unmatched=True) == ["0001"]


def test_a_name_outside_the_pattern_is_unmatched(tmp_path):
    vis, ir = make(tmp_path / "vis", "7_rgb.png", "stray.png"), make(tmp_path / "ir", "7_ir.png", "_ir.png")
    message = refused(vis, ir, pair_by="ir=*_ir,vis=*_rgb")
    assert "stray.png" in message
    assert "/_ir.png" in message  # nothing is left under the star
    assert names(vis, ir, pair_by="ir=*_ir,vis=*_rgb", ignore_unmatched=True) == ["7"]


@pytest.mark.parametrize(
    ("vis", "ir", "hint"),
    [
        ("0001_rgb", "0001_thermal", "vis=*_rgb,ir=*_thermal"),
        ("VIS_0001", "IR_0001", "vis=VIS_*,ir=IR_*"),
        ("0001", "0001_ir", "vis=*,ir=*_ir"),
    ],
)
def test_the_pattern_that_would_help_is_offered_and_works(tmp_path, vis, ir, hint):
    a = make(tmp_path / "vis", f"{vis}.png", f"{vis}.png".replace("0001", "0002"))
    b = make(tmp_path / "ir", f"{ir}.png", f"{ir}.png".replace("0001", "0002"))
    assert f"--pair-by '{hint}'" in refused(a, b)
    assert len(pairs(a, b, pair_by=hint)) == 2


def test_no_pattern_is_offered_where_none_would_help(tmp_path):
    for vis, ir in (("dawn", "dusk"), ("day/0001_rgb", "night/0001_ir")):
        sides = make(tmp_path / f"{vis[:3]} vis", f"{vis}.png"), make(tmp_path / f"{vis[:3]} ir", f"{ir}.png")
        message = refused(*sides, recursive=True)
        assert "Did you mean" not in message
        assert repr(vis) in message


def test_no_pattern_is_offered_that_fits_one_pair_of_many_by_chance(tmp_path):
    vis = make(tmp_path / "vis", "video-Hb7-frame-000000-wbb.jpg", "video-Hb7-frame-000030-kLt.jpg")
    ir = make(tmp_path / "ir", "video-iN8-frame-000002-HMq.jpg", "video-iN8-frame-000032-aaQ.jpg")
    assert "Did you mean" not in refused(vis, ir)


@pytest.mark.parametrize(
    ("names_of_two", "hint", "named"),
    [
        (("infrared/{}/a.png", "visible/{}/a.png"), "--vis @/visible --ir @/infrared --recursive", ["1/a", "2/a"]),
        (("all/{}/lwir/a.png", "all/{}/visible/a.png"), "--vis @/all/*/visible --ir @/all/*/lwir", ["1/a", "2/a"]),
        (("{}/vi/a.png", "{}/ir/a.png", "{}/labels/a.png"), "--vis @/*/vi --ir @/*/ir", ["1/a", "2/a"]),
        (("RGB/{}.jpg", "thermal_8_bit/{}.jpg", "t16/{}.tif"), "--vis @/RGB --ir @/thermal_8_bit", ["1", "2"]),
        (("{}/IR.png", "{}/VIS.png", "{}/mask.png"), "--vis @/*/VIS.png --ir @/*/IR.png", ["1", "2"]),
        (("{}_co.png", "{}_ir.png"), "--pair-by vis=*_co,ir=*_ir", ["1", "2"]),
        (("DJI_{}_T.JPG", "DJI_{}_W.JPG"), "--pair-by vis=*_W,ir=*_T", ["DJI_1", "DJI_2"]),
        (("{}_T.JPG", "{}_V.JPG"), "--pair-by vis=*_V,ir=*_T", ["1", "2"]),
        (("n/IR{}.png", "n/VIS{}.png"), "--pair-by vis=VIS*,ir=IR*", ["n/1", "n/2"]),
    ],
)
def test_what_tells_two_sides_of_one_folder_apart_is_offered_and_works(tmp_path, names_of_two, hint, named):
    folder = make(tmp_path / "set", *(name.format(n) for name in names_of_two for n in (1, 2)))
    hint = hint.replace("@", folder)
    message = refused(folder, folder, recursive=True)
    offered = shlex.split(message.partition("did you mean ")[2].removesuffix("?"))
    assert " ".join(offered) == hint, message
    recursive = "--recursive" in offered
    if recursive:
        offered.remove("--recursive")
    options = dict(zip(offered[::2], offered[1::2], strict=True))
    if "--pair-by" in options:
        found = names(folder, folder, pair_by=options["--pair-by"], recursive=True)
    else:
        found = names(options["--vis"], options["--ir"], recursive=recursive)
    assert found == named


def test_a_pattern_that_fits_no_name_gets_the_same_hint(tmp_path):
    folder = make(tmp_path, "1/ir.png", "1/vis.png")
    message = refused(folder, folder, pair_by="vis=vis*,ir=ir*", recursive=True)
    assert f"Did you mean --vis {folder}/1/vis.png --ir {folder}/1/ir.png?" in message


def test_one_glob_for_both_sides_gets_such_a_hint(tmp_path):
    make(tmp_path, *(f"{scene}/{side}.png" for scene in ("1", "2") for side in ("ir", "vis")))
    glob = tmp_path / "*"
    assert f"did you mean --vis '{glob}/vis.png' --ir '{glob}/ir.png'?" in refused(glob, glob)


def test_a_folder_of_each_scene_and_side_gets_no_hint_for_one_of_many(tmp_path):
    """Each of 4,000 was compared with each: 16 s and 2 GB, to offer the folders of a single scene."""
    scenes = [f"{side}_{number:02}/image.png" for side in ("vis", "ir") for number in range(20)]
    folder = make(tmp_path / "scenes", *scenes)
    assert "did you mean" not in refused(folder, folder, recursive=True)


def test_pictures_that_hold_both_sides_are_to_be_split(tmp_path):
    """MFNet's: colours and infrared as the four channels of a PNG."""
    for name in ("1D.png", "2D.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\x80\0\0\1\xe0\x08\6")
    assert "if its fourth channel is the infrared, as in MFNet, save that in a" in refused(tmp_path, tmp_path)


def test_one_folder_without_any_hint_of_the_sides(tmp_path):
    folder = make(tmp_path, "trainimg/1.jpg", "trainimgr/1.jpg")
    assert "--pair-by 'vis=*_vis,ir=*_ir', say, by a folder or glob" in refused(folder, folder, recursive=True)


def test_a_table_pairs_by_its_columns_and_names(tmp_path):
    make(tmp_path, "v/a.png", "t/7.tif", "v/b.png", "t/9.tif")
    table = tmp_path / "pairs.csv"
    table.write_text("\ufeffir;VIS\r\nt/7.tif;v/a.png\r\n\r\nt/9.tif;v/b.png\r\n", encoding="utf-8")
    assert pairs("", "", pairs_csv=table) == [
        Pair("a", tmp_path / "v" / "a.png", tmp_path / "t" / "7.tif"),
        Pair("b", tmp_path / "v" / "b.png", tmp_path / "t" / "9.tif"),
    ]
    table.write_text("vis,ir,name,weather\nb.png,7.tif,night/1,fog\na.png,9.tif,night/2.png,\n")
    found = pairs(tmp_path / "v", tmp_path / "t", pairs_csv=table)
    assert [(pair.name, pair.first.name, pair.second.name) for pair in found] == [
        ("night/1", "b.png", "7.tif"),
        ("night/2", "a.png", "9.tif"),
    ]


@pytest.mark.parametrize("above", ["\n", "\r\n \r\n", ",,\n", ';;\r\n"";""\n', "\ufeff\n", "\xa0;\xa0\n"])
def test_csv_may_begin_with_blank_lines(tmp_path, above):
    make(tmp_path, "v/a.png", "t/7.tif")
    table = tmp_path / "pairs.csv"
    table.write_bytes(f"{above}vis;ir\nv/a.png;t/7.tif\n\xa0;\xa0\n".encode())
    assert pairs("", "", pairs_csv=table) == [Pair("a", tmp_path / "v/a.png", tmp_path / "t/7.tif")]
    table.write_bytes(f"{above}vis;ir\nv/a.png;gone.tif\n".encode())
    assert f"line {above.count(chr(10)) + 2}: " in refused("", "", pairs_csv=table)


def test_a_table_of_a_spreadsheet_on_windows_is_read(tmp_path):
    make(tmp_path, "v/day/a.png", "t/day/7.tif")
    table = tmp_path / "pairs.csv"
    table.write_text(
        '\ufeff"vis";"ir";"remark, in words, of the crew"\r\n"v\\day\\a.png";t\\day\\7.tif;"x"\r\n', encoding="utf-8"
    )
    assert pairs("", "", pairs_csv=table) == [Pair("a", tmp_path / "v/day/a.png", tmp_path / "t/day/7.tif")]


def test_a_table_may_come_on_stdin(tmp_path, monkeypatch, on_stdin):
    """Of any system: Windows has no /dev/stdin."""
    make(tmp_path, "v/a.png", "t/7.tif")
    on_stdin("\ufeffvis,ir\r\nv/a.png,t/7.tif\r\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # whoever looks for volumes or for pictures in it asks
        assert pairs("v", "t", pairs_csv=Path("-")) == [Pair("a", Path("v/a.png"), Path("t/7.tif"))]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no files of open descriptors")
def test_csv_from_a_pipe(tmp_path, monkeypatch):
    """As shells give it for <(…); it can be read only once."""
    make(tmp_path, "v/a.png", "t/7.tif")
    monkeypatch.chdir(tmp_path)
    end, begin = os.pipe()
    os.write(begin, b"vis,ir\nv/a.png,t/7.tif\n")
    os.close(begin)
    for _ in range(2):
        assert pairs("", "", pairs_csv=Path(f"/dev/fd/{end}")) == [Pair("a", Path("v/a.png"), Path("t/7.tif"))]
    os.close(end)


def test_names_in_a_table_on_windows_stay_in_the_output_folder(tmp_path, monkeypatch):
    make(tmp_path, "v/a.png", "t/a.png")
    table = tmp_path / "pairs.csv"
    monkeypatch.setattr("fusecli.images.pair_table.PurePath", PureWindowsPath)
    table.write_text("vis,ir,name\nv/a.png,t/a.png,day\\a\n")
    assert [pair.name for pair in pairs("", "", pairs_csv=table)] == ["day/a"]
    for name in (r"..\a", r"day\..\..\a", r"C:\a", "C:a", r"\\host\share\a"):
        table.write_text(f"vis,ir,name\nv/a.png,t/a.png,{name}\n")
        assert "inside the output folder" in refused("", "", pairs_csv=table)


def test_accents_in_a_csv_file_match_however_they_are_written(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "Zürich") for form in ("NFC", "NFD"))
    make(tmp_path, f"v/{nfd}.png", f"t/{nfc}.tif")
    table = tmp_path / "pairs.csv"
    for cell in (nfc, nfd):
        table.write_text(f"vis,ir\n{cell}.png,{cell}.tif\n", encoding="utf-8")
        found = pairs(tmp_path / "v", tmp_path / "t", pairs_csv=table)
        assert found == [Pair(nfc, tmp_path / "v" / f"{nfd}.png", tmp_path / "t" / f"{nfc}.tif")]


def test_a_sub_folder_that_vanishes_while_it_is_looked_at_costs_nothing(tmp_path, monkeypatch):
    a, b = (make(tmp_path / side, "new/a.png", "old/a.png") for side in ("vis", "ir"))
    allowed = os.access

    def rotated(path, mode):
        if path.endswith("old"):
            shutil.rmtree(path)
            return True
        return allowed(path, mode)

    monkeypatch.setattr(os, "access", rotated)
    assert [pair.name for pair in pairs(a, b, recursive=True)] == ["new/a"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_refused_before_anyone_waits_for_it(tmp_path):
    vis = make(tmp_path / "vis", "a.png")
    os.mkfifo(tmp_path / "a.png")
    assert "a.png: a pipe or device" in refused(vis, tmp_path / "a.png")


def test_mistakes_in_a_table_are_named(tmp_path):
    make(tmp_path, "v/a.png", "w/a.png", "t/7.tif", "t/9.tif", "note.txt")
    table = tmp_path / "pairs.csv"

    def message(text: str) -> str:
        table.write_text(text)
        return refused("", "", pairs_csv=table)

    assert "vis,ir" in message("v/a.png,t/7.tif\n")
    assert "no pair" in message("vis,ir\n")
    assert "the first line must name the columns" in message("\n,,\n")
    assert "two columns 'ir'" in message("vis,ir,IR\nv/a.png,t/7.tif,t/9.tif\n")
    assert "line 2: a cell is empty" in message("vis,ir\nv/a.png,\n")
    assert "larger than field limit" in message('vis,ir\n"' + 9000 * "v/a.png,t/7.tif\n")  # a quote that nobody closes
    assert "line 3: " in message("vis,ir\nv/a.png,t/7.tif\nv/none.png,t/9.tif\n")
    assert "column called name" in message("vis,ir\nv/a.png,t/7.tif\nw/a.png,t/9.tif\n")
    assert "line 3: --vis and --ir name the same file" in message("vis,ir\nv/a.png,t/7.tif\nt/9.tif,t/9.tif\n")
    assert "not a supported kind of file; fusecli reads .jpg" in message("vis,ir\nv/a.png,note.txt\n")
    assert "cannot be read" in refused("", "", pairs_csv=tmp_path / "gone.csv")
    table.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused("", "", pairs_csv=table)
    table.write_bytes(b"vis,ir,name\na.png,b.png,night\0\n")
    assert "null bytes" in refused("", "", pairs_csv=table)
    assert "leave out one of them" in refused("", "", pairs_csv=table, pair_by="ir=*_IR")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..", ".", "night/.x", "night/"])
def test_csv_names_stay_in_the_output_folder(tmp_path, name):
    make(tmp_path, "a.png", "a.tif")
    table = tmp_path / "pairs.csv"
    table.write_text(f"vis,ir,name\na.png,a.tif,{name}\n")
    assert "inside the output folder" in refused("", "", pairs_csv=table)


STEMS = st.sets(st.text("ab_.-1é ", min_size=1, max_size=4).filter(lambda stem: stem[0] != "."), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEMS, STEMS, st.data())
def test_pairs_are_exactly_the_common_names(scratch, vis, ir, data):
    folder = scratch / f"{len(list(scratch.iterdir()))}"
    ending = st.sampled_from([".png", ".PNG", ".tif", ".jpg"])
    sides = [
        make(folder / side, *(stem + data.draw(ending) for stem in sorted(stems)))
        for side, stems in (("vis", vis), ("ir", ir))
    ]
    if not vis & ir:
        refused(*sides, ignore_unmatched=True)
        return
    found = pairs(*sides, ignore_unmatched=True)
    assert [pair.name for pair in found] == sorted(vis & ir)
    assert all(pair.first.parent == folder / "vis" and pair.second.parent == folder / "ir" for pair in found)
    assert all(pair.first.stem == pair.second.stem == pair.name for pair in found)
    if vis ^ ir:
        assert "no partner" in refused(*sides)
    else:
        assert pairs(*sides) == found


def test_many_files_are_listed_fast(tmp_path):
    vis, ir = (make(tmp_path / side, "000000.png") for side in ("vis", "ir"))
    for side in (vis, ir):
        for index in range(1, 5000):
            os.link(f"{side}/000000.png", f"{side}/{index:06}.png")  # made faster than files
    began = time.process_time()
    assert len(pairs(vis, ir)) == 5000
    assert time.process_time() - began < 1  # 100,000 on each side within some seconds


def test_a_long_list_ends_with_how_many_more_there_are(tmp_path):
    stems = [f"{index:02}.png" for index in range(13)]
    said = refused(make(tmp_path / "vis", *stems), make(tmp_path / "ir", stems[0]))
    assert "10.png\n  … and 2 more" in said
    (tmp_path / "vis" / "11.png").unlink()
    (tmp_path / "vis" / "12.png").unlink()
    said = refused(tmp_path / "vis", tmp_path / "ir")
    assert "10.png" in said
    assert "more" not in said


def test_links_to_nothing_are_named(tmp_path):
    for side in ("vis", "ir"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").touch()
    (tmp_path / "vis" / "b.png").touch()
    (tmp_path / "ir" / "b.png").symlink_to(tmp_path / "moved.png")
    (tmp_path / "ir" / "c.png").symlink_to(tmp_path / "vis")  # a folder is there, whatever its name
    for typed in ("", "/*"):
        with pytest.raises(UsageError, match=r"1 link leads to what is not there, as .*b\.png to .*moved\.png"):
            find_pairs(f"{tmp_path}/vis{typed}", f"{tmp_path}/ir{typed}", endings=[".png"])
    (tmp_path / "vis" / "b.png").unlink()
    (tmp_path / "vis" / "b.png").symlink_to(tmp_path / "moved.png")  # on both sides: no one lacks a partner
    with pytest.raises(UsageError, match="1 link leads to what is not there"):
        find_pairs(str(tmp_path / "vis"), str(tmp_path / "ir"), endings=[".png"])
    (pair,) = find_pairs(str(tmp_path / "vis"), str(tmp_path / "ir"), Pairing(ignore_unmatched=True), endings=[".png"])
    assert pair.name == "a"
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"a link to .*nowhere, which is not there"):
        find_pairs(str(tmp_path / "vis"), str(tmp_path / "lost"), endings=[".png"])

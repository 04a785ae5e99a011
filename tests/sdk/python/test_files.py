"""Files and directories, up to 100 MB at a time."""

import hashlib

import pytest
from e2b import FileNotFoundException, FileType, InvalidArgumentException, NotFoundException
from support import RELEASE

BINARY = bytes(range(256)) * 512


def names(entries):
    return [entry.name for entry in entries]


def test_text_comes_back_as_it_was_written(sandbox):
    text = "first line\nzweite Zeile: äöü €\n"
    written = sandbox.files.write("/tmp/notes.txt", text)
    assert (written.name, written.path) == ("notes.txt", "/tmp/notes.txt")
    assert sandbox.files.read("/tmp/notes.txt") == text


def test_bytes_come_back_as_they_were_written(sandbox):
    sandbox.files.write("/tmp/data.bin", BINARY)
    assert sandbox.files.read("/tmp/data.bin", format="bytes") == BINARY


def test_an_empty_file_is_a_file(sandbox):
    sandbox.files.write("/tmp/empty", "")
    assert sandbox.files.read("/tmp/empty") == ""
    assert sandbox.files.get_info("/tmp/empty").size == 0


def test_writing_again_replaces_everything(sandbox):
    sandbox.files.write("/tmp/file", "a long first text")
    sandbox.files.write("/tmp/file", "short")
    assert sandbox.files.read("/tmp/file") == "short"


def test_missing_directories_are_made_on_the_way(sandbox):
    sandbox.files.write("/tmp/a/b/c/file", "deep")
    assert sandbox.files.read("/tmp/a/b/c/file") == "deep"
    assert sandbox.files.get_info("/tmp/a/b").owner == "user"


def test_a_relative_path_is_below_the_home_directory(sandbox):
    written = sandbox.files.write("project/file", "mine")
    assert written.path == "/home/user/project/file"
    assert sandbox.files.read("~/project/file") == "mine"
    sandbox.files.write("file", "roots", user="root")
    assert sandbox.files.read("/root/file", user="root") == "roots"


def test_a_path_may_hold_spaces_and_other_alphabets(sandbox):
    path = "/tmp/my files/größe & 价格 100%+1?.txt"
    sandbox.files.write(path, "here")
    assert sandbox.files.read(path) == "here"
    assert names(sandbox.files.list("/tmp/my files")) == ["größe & 价格 100%+1?.txt"]


def test_a_file_belongs_to_the_user_who_wrote_it(sandbox):
    sandbox.files.write("/tmp/user-file", "")
    sandbox.files.write("/tmp/root-file", "", user="root")
    owners = sandbox.commands.run("stat -c %U:%G:%a /tmp/user-file /tmp/root-file").stdout
    assert owners == "user:user:644\nroot:root:644\n"


def test_several_files_are_written_at_once(sandbox):
    files = [{"path": f"/tmp/many/{n}", "data": f"file {n}"} for n in range(20)]
    written = sandbox.files.write_files(files)
    assert [info.path for info in written] == [file["path"] for file in files]
    assert sandbox.commands.run("cat /tmp/many/7 /tmp/many/19").stdout == "file 7file 19"


@pytest.mark.parametrize("octet_stream", [False, True])
def test_both_ways_of_uploading_write_the_same(sandbox, octet_stream):
    sandbox.files.write("/tmp/data.bin", BINARY, use_octet_stream=octet_stream)
    digest = sandbox.commands.run("sha256sum < /tmp/data.bin").stdout.split()[0]
    assert digest == hashlib.sha256(BINARY).hexdigest()


def test_compressed_transfers_arrive_uncompressed(sandbox):
    text = "the same line again\n" * 50_000
    sandbox.files.write("/tmp/text", text, gzip=True)
    assert sandbox.commands.run("wc -c < /tmp/text").stdout.strip() == str(len(text))
    assert sandbox.files.read("/tmp/text", gzip=True) == text


def test_a_hundred_megabytes_go_up_and_down_unharmed(sandbox, tmp_path):
    block = hashlib.shake_256(b"cofferdam").digest(1 << 20)
    source = tmp_path / "source"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for n in range(100):
            numbered = n.to_bytes(4, "big") + block[4:]
            file.write(numbered)
            digest.update(numbered)
    with source.open("rb") as file:
        sandbox.files.write("/home/user/big", file, request_timeout=100)
    inside = sandbox.commands.run("sha256sum < /home/user/big", timeout=100).stdout.split()[0]
    assert inside == digest.hexdigest()
    back, size = hashlib.sha256(), 0
    for chunk in sandbox.files.read("/home/user/big", format="stream", request_timeout=100):
        back.update(chunk)
        size += len(chunk)
    assert (size, back.hexdigest()) == (100 << 20, digest.hexdigest())


def test_a_missing_file_is_not_found(sandbox):
    with pytest.raises(FileNotFoundException) as missing:
        sandbox.files.read("/tmp/missing")
    assert isinstance(missing.value, NotFoundException)
    assert "/tmp/missing" in str(missing.value)
    with pytest.raises(FileNotFoundException):
        sandbox.files.get_info("/tmp/missing")
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("/tmp/missing")
    with pytest.raises(FileNotFoundException):
        sandbox.files.rename("/tmp/missing", "/tmp/other")


def test_a_directory_is_not_read_or_written_as_a_file(sandbox):
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read("/tmp")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write("/tmp", "text")


def test_existence_is_told(sandbox):
    assert sandbox.files.exists("/tmp/file") is False
    sandbox.files.write("/tmp/file", "")
    assert sandbox.files.exists("/tmp/file") is True
    assert sandbox.files.exists("/tmp") is True


def test_a_directory_is_made_once(sandbox):
    assert sandbox.files.make_dir("/tmp/one/two") is True
    assert sandbox.files.make_dir("/tmp/one/two") is False
    assert sandbox.files.get_info("/tmp/one/two").type == FileType.DIR
    sandbox.files.write("/tmp/file", "")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir("/tmp/file")


def test_a_file_is_renamed_with_what_is_in_it(sandbox):
    sandbox.files.write("/tmp/old", "content")
    entry = sandbox.files.rename("/tmp/old", "/tmp/sub/new")
    assert (entry.name, entry.path) == ("new", "/tmp/sub/new")
    assert sandbox.files.exists("/tmp/old") is False
    assert sandbox.files.read("/tmp/sub/new") == "content"


def test_files_and_whole_directories_are_removed(sandbox):
    sandbox.files.write("/tmp/tree/a/b", "")
    sandbox.files.remove("/tmp/tree/a/b")
    assert sandbox.files.exists("/tmp/tree/a/b") is False
    sandbox.files.write("/tmp/tree/c", "")
    sandbox.files.remove("/tmp/tree")
    assert sandbox.files.exists("/tmp/tree") is False
    sandbox.files.remove("/tmp/tree")


def test_information_about_a_file_is_that_of_the_system(sandbox):
    sandbox.files.write("/tmp/file", "12345")
    sandbox.commands.run("chmod 640 /tmp/file; touch -d @1700000000 /tmp/file")
    info = sandbox.files.get_info("/tmp/file")
    assert (info.name, info.path, info.type) == ("file", "/tmp/file", FileType.FILE)
    assert (info.size, info.mode, info.permissions) == (5, 0o640, "-rw-r-----")
    assert (info.owner, info.group) == ("user", "user")
    assert info.modified_time.timestamp() == 1_700_000_000


def test_a_link_tells_where_it_leads(sandbox):
    sandbox.files.write("/tmp/target", "text")
    sandbox.commands.run("ln -s /tmp/target /tmp/link")
    info = sandbox.files.get_info("/tmp/link")
    assert info.symlink_target == "/tmp/target"
    assert sandbox.files.read("/tmp/link") == "text"


def test_a_directory_is_listed_in_order_and_as_deep_as_asked(sandbox):
    for path in ("b/x/y", "a", "c"):
        sandbox.files.write(f"/tmp/tree/{path}", "")
    assert names(sandbox.files.list("/tmp/tree")) == ["a", "b", "c"]
    deep = sandbox.files.list("/tmp/tree", depth=3)
    expected = ["a", "b", "b/x", "b/x/y", "c"]
    assert [entry.path.removeprefix("/tmp/tree/") for entry in deep] == expected
    assert deep[1].type == FileType.DIR
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list("/tmp/tree/a")


def test_user_metadata_stays_with_a_file(sandbox):
    written = sandbox.files.write("/tmp/file", "text", metadata={"Origin": "test", "part": "1 of 2"})
    assert written.metadata == {"origin": "test", "part": "1 of 2"}
    assert sandbox.files.get_info("/tmp/file").metadata == {"origin": "test", "part": "1 of 2"}
    sandbox.files.write("/tmp/file", "text")
    assert not sandbox.files.get_info("/tmp/file").metadata


def test_an_iterator_is_uploaded_as_it_yields(sandbox):
    if RELEASE < (2, 63, 0):
        pytest.skip("skipped, because this release uploads only strings, bytes and files")
    sandbox.files.write("/tmp/parts", (b"%d," % n for n in range(1000)))
    assert sandbox.files.read("/tmp/parts") == "".join(f"{n}," for n in range(1000))

"""Every call of `sandbox.git`, on real repositories in a sandbox (docs/methods.md)."""

import pytest
from e2b import CommandExitException, InvalidArgumentException

ORIGIN = "/home/user/origin.git"
WORK = "/home/user/work"
CLONE = "/home/user/clone"
WHO = "Ada"
MAIL = "ada@example.com"


@pytest.fixture
def git(sandbox):
    """A repository with one commit, pushed to another."""
    git = sandbox.git
    git.configure_user(WHO, MAIL)
    git.init(ORIGIN, bare=True, initial_branch="main")
    git.init(WORK, initial_branch="main")
    git.remote_add(WORK, "origin", ORIGIN)
    sandbox.files.write(f"{WORK}/file", "one")
    git.add(WORK)
    git.commit(WORK, "first")
    git.push(WORK, remote="origin", branch="main")
    return git


def said(sandbox, command):
    return sandbox.commands.run(command, cwd=WORK).stdout.strip()


def test_a_change_travels_from_one_repository_to_another(sandbox, git):
    assert git.remote_get(WORK, "origin") == ORIGIN
    assert git.remote_get(WORK, "nowhere") is None
    git.clone(ORIGIN, CLONE)
    assert sandbox.files.read(f"{CLONE}/file") == "one"
    sandbox.files.write(f"{WORK}/file", "two")
    git.add(WORK, files=["file"], all=False)
    git.commit(WORK, "second", author_name="Grace", author_email="grace@example.com")
    assert said(sandbox, "git log --format=%an").splitlines() == ["Grace", WHO]
    git.push(WORK, remote="origin", branch="main")
    git.pull(CLONE, remote="origin", branch="main")
    assert sandbox.files.read(f"{CLONE}/file") == "two"


def test_what_has_changed_is_told_staged_and_taken_back(sandbox, git):
    assert git.status(WORK).is_clean
    sandbox.files.write(f"{WORK}/file", "two")
    sandbox.files.write(f"{WORK}/new", "x")
    status = git.status(WORK)
    assert (status.has_changes, status.has_untracked, status.has_staged) == (True, True, False)
    assert status.current_branch == "main"
    git.add(WORK)
    status = git.status(WORK)
    assert (status.staged_count, status.untracked_count) == (2, 0)
    git.reset(WORK, paths=["new"])
    assert git.status(WORK).has_untracked
    git.restore(WORK, paths=["file"], staged=True)
    git.restore(WORK, paths=["file"])
    assert sandbox.files.read(f"{WORK}/file") == "one"
    git.commit(WORK, "empty", allow_empty=True)
    git.reset(WORK, mode="hard", target="HEAD~1")
    assert said(sandbox, "git log --format=%s") == "first"


def test_branches_are_made_listed_changed_and_deleted(sandbox, git):
    git.create_branch(WORK, "topic")
    assert said(sandbox, "git branch --show-current") == "topic"
    git.checkout_branch(WORK, "main")
    branches = git.branches(WORK)
    assert (sorted(branches.branches), branches.current_branch) == (["main", "topic"], "main")
    git.delete_branch(WORK, "topic")
    assert git.branches(WORK).branches == ["main"]


def test_settings_and_credentials_are_kept(sandbox, git):
    assert git.get_config("user.name") == WHO
    git.set_config("user.name", "Other", scope="local", path=WORK)
    assert git.get_config("user.name", scope="local", path=WORK) == "Other"
    assert git.get_config("user.nothing") is None
    git.dangerously_authenticate("ada", "secret", host="git.example.com")
    assert "ada:secret@git.example.com" in sandbox.files.read("/home/user/.git-credentials")


def test_mistakes_are_errors_of_their_kind(sandbox, git):
    with pytest.raises(InvalidArgumentException):
        git.reset(WORK, mode="sideways")
    with pytest.raises(CommandExitException) as failed:
        git.checkout_branch(WORK, "nowhere")
    assert "nowhere" in failed.value.stderr

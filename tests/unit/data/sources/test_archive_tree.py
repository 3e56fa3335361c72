"""Tests of fcnet.data.sources.archive_tree: links lead where they lead after unpacking, in any order of the members."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fcnet.data.sources.archive_member import ArchiveMember, MemberKind
from fcnet.data.sources.archive_tree import ArchiveTree, LinkedNames
from fcnet.runtime.errors import UserError

Entry = tuple[str, MemberKind, str]
FILE: MemberKind = "file"
LINK: MemberKind = "link"


def follow(*entries: Entry) -> LinkedNames:
    """Follows the links of an archive; the position of a member is its place."""
    tree = ArchiveTree(Path("x.tar"))
    for position, (name, kind, target) in enumerate(entries):
        tree.add(name, ArchiveMember(name, kind, position, 0, target, bytes))
    return tree.follow_links()


def test_the_order_of_the_members_does_not_matter() -> None:
    entries: list[Entry] = [
        ("real/cat/1.png", FILE, ""),
        ("train/cat", LINK, "../hop/cat"),
        ("hop", LINK, "real"),
        ("train/1.png", LINK, "cat/1.png"),
    ]
    for order in itertools.permutations(range(len(entries))):
        found = follow(*(entries[place] for place in order))
        assert set(found.files) == {"hop/cat/1.png", "train/cat/1.png", "train/1.png"}
        assert set(found.files.values()) == {order.index(0)}
        assert found.folders == {"real", "real/cat", "train", "hop", "hop/cat", "train/cat"}
        assert not found.broken


def test_a_hard_link_is_relative_to_the_root_and_a_symbolic_link_to_its_folder() -> None:
    found = follow(("a/1.png", FILE, ""), ("a/2.png", "hard link", "a/1.png"), ("a/3.png", LINK, "1.png"))
    assert found.files == {"a/2.png": 0, "a/3.png": 0}


def test_the_last_member_of_a_name_counts() -> None:
    assert follow(("a.png", FILE, ""), ("b.png", LINK, "a.png"), ("a.png", FILE, "")).files == {"b.png": 2}
    assert follow(("a.png", FILE, ""), ("b.png", LINK, "a.png"), ("b.png", FILE, "")).files == {}


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("gone.png", "which leads to nothing in the archive"),
        ("../../x.png", "which leads out of the archive"),
        ("/etc/x.png", "which leads out of the archive"),
        ("b.png", "which leads in a loop"),
        ("a.png/c.png", "which leads to nothing in the archive"),
    ],
)
def test_a_link_that_leads_nowhere_is_described(target: str, fault: str) -> None:
    found = follow(("t/a.png", FILE, ""), ("t/b.png", LINK, target))
    assert found.files == {}
    assert found.broken == {"t/b.png": f"links to {target}, {fault}; store the file or folder itself"}


def test_a_chain_of_forty_links_is_followed_and_a_longer_one_is_not() -> None:
    def chain(length: int) -> LinkedNames:
        links: list[Entry] = [(f"{n}.png", LINK, f"{n - 1}.png") for n in range(1, length + 1)]
        return follow(("0.png", FILE, ""), *links)

    assert len(chain(40).files) == 40
    longer = chain(41)
    assert len(longer.files) == 40
    assert longer.broken["41.png"].startswith("links to 40.png, which leads through more than 40 links")


def test_a_folder_that_links_to_one_around_it_is_a_loop() -> None:
    found = follow(("a/1.png", FILE, ""), ("a/b", LINK, "../a"))
    assert found.broken["a/b"].startswith("links to ../a, which leads in a loop")


def test_links_that_multiply_names_are_refused() -> None:
    # Each folder links twice to the next one: 2^30 names from 61 members.
    links: list[Entry] = [(f"{n}/{side}", LINK, f"../{n + 1}") for n in range(30) for side in "ab"]
    with pytest.raises(UserError, match=r"the folders and links in x\.tar must give at most 64 MiB of names, got more"):
        follow(*links, ("30/1.png", FILE, ""))


def test_a_member_below_a_link_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a in x\.tar must be a link or a folder, got both$"):
        follow(("b/1.png", FILE, ""), ("a", LINK, "b"), ("a/2.png", FILE, ""))

from __future__ import annotations

import contextlib
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway.cli.main import GLOBAL_OPTIONS, app, hoisted
from gateway.dialects import otapi, problem, top
from gateway.failures import Failure
from gateway.proxy.tally import HELP
from policies.decision import Reason
from policies.waiver import Waiver

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFUSALS = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made from headings on code hosts."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            broken.append(target)
    return broken


def rows(name: str) -> list[list[str]]:
    """Return the cells of the rows of docs/refusals.md whose first cell is `name`."""
    lines = [line for line in REFUSALS.splitlines() if line.startswith(f"| `{name}` |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that exists, and a heading that stands in it."""
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    """Links to missing files and to missing headings are found, those to other sites are left alone."""
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A heading: with, marks\n", encoding="utf-8")
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-with-marks) [c](https://example.com/x) "
        "[d](missing.md) [e](other.md#nothing) [f](#nowhere)\n```\n[g](code.md)\n```\n",
        encoding="utf-8",
    )
    assert broken_links(page) == ["missing.md", "other.md#nothing", "#nowhere"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_stands_in_a_table(page: Path) -> None:
    """A row behind a paragraph would be read as a part of it."""
    lines = ["", *FENCED.sub("", page.read_text(encoding="utf-8")).splitlines()]
    stray = [row for above, row in pairwise(lines) if row.startswith("|") and above and above[0] != "|"]
    assert stray == []


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_documented_in_every_dialect(reason: Reason) -> None:
    """A client finds each reason with the codes that its dialect really sends, and with what to do."""
    [[_, otapi_form, top_form, status, advice]] = rows(reason.value)
    assert otapi_form == written_as_otapi(reason)
    assert top_form == written_as_top(reason)
    assert status == str(problem.STATUSES[reason])
    assert len(advice) > 10


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value.name)
def test_every_failure_is_documented_in_every_dialect(failure: Failure) -> None:
    """A client finds each failure with whose fault it is, its codes, and what to do."""
    [[_, fault, otapi_form, top_form, status, advice]] = [
        row for row in rows(failure.value.name) if len(row) == 6
    ]
    assert fault == failure.value.fault
    assert otapi_form == written_as_otapi(failure)
    assert top_form == written_as_top(failure)
    assert status == str(failure.value.status)
    assert len(advice) > 10
    assert ("`Retry-After`" in advice) == (failure.value.retry_after_s is not None)


@pytest.mark.parametrize("waiver", Waiver)
def test_every_waiver_is_documented_with_its_quota(waiver: Waiver) -> None:
    """Each waiver says what happened; only free methods keep the quota they used."""
    [[_, meaning, quota]] = [row for row in rows(waiver.value) if len(row) == 3]
    assert len(meaning) > 10
    assert quota == ("used" if waiver is Waiver.FREE_METHOD else "given back")


@pytest.mark.parametrize("waiver", Waiver)
def test_the_contract_names_every_waiver(waiver: Waiver) -> None:
    """The page of the contract tells of each waiver in its table of costs."""
    assert f"`{waiver.value}`" in (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")


def test_every_metric_of_a_worker_is_documented() -> None:
    """An operator finds each figure that workers tell in the table of metrics."""
    told = re.findall(r"^\| `(tallygate_\w+)` \|", OPERATIONS, re.MULTILINE)
    assert set(HELP) <= set(told)


def test_alarms_ask_for_metrics_that_exist() -> None:
    """Every metric and every result that an alarm names stands in the table of metrics or in the refusals."""
    told = set(re.findall(r"^\| `(tallygate_\w+)` \|", OPERATIONS, re.MULTILINE))
    assert set(re.findall(r"tallygate_\w+", OPERATIONS)) <= told
    results = {*Reason, *(failure.value.name for failure in Failure), "answered"}
    for pattern in re.findall(r'result=~?"([^"]+)"', OPERATIONS):
        assert any(re.fullmatch(pattern, result) for result in results), pattern


def test_all_decisions_are_listed() -> None:
    """Each page of a decision is linked from their list."""
    folder = ROOT / "docs" / "decisions"
    listed = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= listed


def written_as_otapi(cause: Reason | Failure) -> str:
    code, sub_code = otapi.CODES[cause]
    return f"`{code}` / `{sub_code}`" if sub_code else f"`{code}`"


def written_as_top(cause: Reason | Failure) -> str:
    code, _, sub_code = top.CODES[cause]
    return f"`{code}` `{sub_code}`"


def commands() -> list[tuple[str, str]]:
    """Return every `tallygate ...` of the pages, with the page it stands in."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            for text in re.findall(r"`(tallygate [^`]+)`", line):
                found.append((str(page.relative_to(ROOT)), text))
            typed = re.match(r"(?: {4}|\| )(?:\.venv/bin/)?(tallygate .+)", line)
            if typed:
                found.append((str(page.relative_to(ROOT)), re.split(r"\s+#|\s[|>]", typed[1])[0]))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_in_the_pages_exist(page: str, line: str) -> None:
    """Each command that a page names is one of the program, and takes what it is given."""
    command: Any = typer.main.get_command(app)
    # A file that has to be there stands for those of whoever reads the page.
    words = [__file__ if word == "FILE" else word for word in shlex.split(line)[1:]]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        subcommand = command.commands.get(words[0])
        assert subcommand is not None or words[0] == "...", f"{page}: {line}: no command {words[0]}"
        if subcommand is None:
            return
        command, words = subcommand, words[1:]
    words = hoisted(words)
    while words and words[0] in GLOBAL_OPTIONS:
        words = words[2:]
    with contextlib.suppress(typer.Exit):  # an option that shows something and is done
        command.make_context(line, words)

"""README and docs/ say what is true of the repository."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.docs.claims import check
from tests.docs.pages import Page, read_pages

ROOT = Path(__file__).parents[2]
PAGES = read_pages(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path))
def test_a_page_names_only_what_exists(page: Page) -> None:
    """A reader would copy a command that fails, or follow a link to nowhere."""
    found = check(page, ROOT)
    assert not found, "\n".join(found)


def test_every_page_is_in_the_menu_of_the_site() -> None:
    """A page that is never found, or an entry that the build leads nowhere with."""
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    listed: list[str] = []
    for entry in config["project"]["nav"]:
        (below,) = entry.values()
        entries = [{"": below}] if isinstance(below, str) else below
        listed += [path for item in entries for path in item.values()]
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in docs.glob("**/*.md")]
    assert sorted(listed) == sorted(pages)


def test_the_index_leads_to_every_page() -> None:
    """A newcomer who looks by task would miss a page."""
    (index,) = [page for page in PAGES if page.path == Path("docs/index.md")]
    linked = {link.text.partition("#")[0] for link in index.links()}
    pages = {page.path.name for page in PAGES if page.path.parent == Path("docs")}
    assert pages - linked == {"index.md", "mini_table.md", "changelog.md"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\npython -m psl.trian x\n```", "2: no module psl.trian"),
        ("```sh\npython -m psl.train\\\n  seeds=1 ...\n```", "2: psl.train: seeds: "),
        ("```sh\npython -m psl.train epochs=x ...\n```", "2: psl.train: epochs: "),
        ("```sh\npython -m psl.label audio=a out=o\n```", "2: psl.label: teacher: "),
        (
            "```sh\npython -m shards.pack --wav x\n```",
            "2: shards.pack has no flag --wav",
        ),
        ("```sh\nx; torchrun -m psl.tran my.yaml\n```", "2: no module psl.tran"),
        ("```sh\npsl trian\n```", "2: no command psl trian"),
        ("```sh\nmake\nmake tset\n```", "2: no target tset in the Makefile"),
        (
            "```sh\nsbatch launch/slurm/train.sbatch sed=1 ...\n```",
            "2: psl.train: sed: ",
        ),
        ("one\n\nuse `psl trian x`", "3: no command psl trian"),
        ("`python -m tests.nothing`", "1: no module tests.nothing"),
        ("`data.blance=1`", "1: no key data.blance"),
        ("`data.blance`", "1: no key data.blance"),
        ("`optimizer=adam`", "1: no key optimizer"),
        ("```yaml\ndata: {label: [a]}\n```", "2: data.label: "),
        ("`launch/slurm/pack.sbatch`", "1: no launch/slurm/pack.sbatch"),
        ("`configs/table9/ROW.yaml`", "1: no configs/table9/ROW.yaml"),
        ("```\npsl/nothing.py\n```", "2: no psl/nothing.py"),
        ("`psl.config.no_such_name`", "1: no psl.config.no_such_name"),
        ("`psl.build_modle(1)`", "1: no psl.build_modle"),
        ("`test_nothing`: a", "1: no test_nothing.py in tests"),
        (
            "`test_plan`: the_same_sed",
            "1: no test in test_plan has the_same_sed in its name",
        ),
        ("```python\nx = 1\nx = = 2\n```", "3: Python: invalid syntax"),
        ('```json\n{"a": 1,}\n```', "2: JSON: "),
        ("[a](docs/nothing.md)", "1: link to docs/nothing.md: no such file"),
        ("![a](docs/images/no.png)", "1: link to docs/images/no.png: no such file"),
        ("[a](docs/best.md#no)", "1: link to docs/best.md#no: no such heading"),
        ("one\n[a](#nowhere)", "2: link to #nowhere: no such heading"),
    ],
)
def test_a_wrong_claim_is_found_at_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    """The checks above could pass whatever the pages say."""
    (found,) = check(Page(Path("README.md"), text + "\n"), ROOT)
    assert found.startswith(f"README.md:{problem}")


@pytest.mark.parametrize(
    "text",
    [
        "```sh\npython -m psl.train my.yaml epochs=3    # seeds=1\n```",
        "```sh\npython -m psl.train configs/mini/base.yaml run_dir=r epochs=1 ...\n```",
        "```sh\npython -m psl.label --status data/x --json\n```",
        "```sh\npip install --no-deps x; git clone --depth 1 y\n```",
        "`data/labels`, `runs/x/y.json`, `HF_HUB_OFFLINE=1`, `torch.load(x=True)`",
        "`data.balance`, `optim.*`, `model.safetensors`, `average.steps`",
        "`psl.build_model`, `psl.label_report`, `test_plan`: the_same_seed",
        "`configs/table2/ROW.yaml`, `launch/accelerate/zero*.yaml`, `psl COMMAND`",
        "[a](https://example.org/x#y), [b](docs/best.md#measured), `[c](nowhere.md)`",
        "`python -m psl.label`, `psl.build_model(num_classes=5)`, `python -m venv x`",
        "```sh\npsl label audio=a out=o 'teacher={path: x, sha256: 0...}'\n```",
        "[a](#two-commands)",
    ],
)
def test_true_claims_and_names_of_the_reader_s_own_pass(text: str) -> None:
    """Checks that object to correct pages would be switched off."""
    assert check(Page(Path("README.md"), text + "\n"), ROOT) == []

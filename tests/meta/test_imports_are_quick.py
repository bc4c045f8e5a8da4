"""Help, listings and `import lgkd` answer at once: they do not wait for torch."""

import ast
from pathlib import Path

import pytest

import lgkd
from tests.support.small import python

HEAVY = "{'torch', 'torchvision', 'timm', 'numpy', 'accelerate', 'sklearn', 'PIL', 'matplotlib', 'safetensors'}"


def test_help_and_listings_do_not_wait_for_torch(tmp_path: Path) -> None:
    done = python(
        "import sys\n"
        "from lgkd.cli import run\n"
        "for words in ([], ['--help'], ['--version'], ['distill', '--help'], ['students'], ['students', 'pvtv2'],\n"
        "              ['teachers'], ['teachers', 'resnet56', '--json'], ['datasets'], ['datasets', 'digits'],\n"
        "              ['reproduce'], ['reproduce', 'digits', '--dry-run'],\n"
        "              ['recipes'], ['recipes', '--json'], ['recipes', 'teacher'], ['arrange', '--help']):\n"
        "    assert run(words) == 0, words\n"
        f"    assert not {HEAVY} & set(sys.modules), (words, {HEAVY} & set(sys.modules))\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""


def test_the_list_of_commands_imports_no_command(tmp_path: Path) -> None:
    """Half a second for `lgkd --help` on the machine that lgkd is developed on; a clock would be a matter of luck."""
    loaded = "{name.split('.')[1] for name in sys.modules if name.startswith('lgkd.')}"
    done = python(
        "import sys\n"
        "from lgkd.cli import run\n"
        "from lgkd.cli.app import COMMANDS\n"
        "for words in ([], ['--help'], ['--version']):\n"
        "    assert run(words) == 0\n"
        f"assert {loaded} == {{'errors', '_internal', 'cli'}}, {loaded}\n"
        "assert not {'pydantic', 'yaml', 'matplotlib'} & set(sys.modules)\n"
        "assert not {f'lgkd.cli.{module}' for module, _ in COMMANDS.values()} & set(sys.modules)\n"
        "assert run(['students', '--help']) == 0\n"
        "assert 'lgkd.cli.catalogue' in sys.modules and 'lgkd.cli.train' not in sys.modules\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "code",
    [
        "import lgkd; lgkd.__version__; dir(lgkd)",
        "import lgkd; lgkd.Recipe; lgkd.load_recipe('teacher')",
        "import lgkd.cli",
        "import lgkd.runner.resolve",
    ],
)
def test_an_import_does_not_wait_for_torch(tmp_path: Path, code: str) -> None:
    done = python(f"import sys; {code}; assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_public_name_can_be_had() -> None:
    assert set(lgkd.__all__) <= set(dir(lgkd))
    for name in lgkd.__all__:
        assert getattr(lgkd, name) is not None


def test_type_checkers_read_the_names_that_are_there() -> None:
    tree = ast.parse(Path(lgkd.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    read = {alias.name: node.module for node in checked.body for alias in node.names if alias.asname == alias.name}
    assert read == {"losses": "lgkd", **lgkd._HOME_OF}
    assert lgkd.__all__ == sorted(read) and len(lgkd.__all__) == 48


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'lgkd' has no attribute 'distil'"):
        _ = lgkd.distil

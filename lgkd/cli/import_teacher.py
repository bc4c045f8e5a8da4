"""Implement `lgkd import-teacher`."""

from typing import Annotated

import typer

from lgkd.cli import completion
from lgkd.cli import options as o
from lgkd.cli.display import Display, console, line_of, show_json
from lgkd.cli.summary import next_command
from lgkd.errors import InputError
from lgkd.models.registry import find
from lgkd.runner.find_teacher import free_place
from lgkd.runner.resolve import check_dataset
from lgkd.runs.statistics import in_percent


@o.takes_dataset("cifar100")
def import_teacher(
    teacher: Annotated[
        str,
        typer.Argument(
            help="A name of `lgkd teachers`, timm:NAME or package.module:factory.", autocompletion=completion.teachers
        ),
    ],
    weights: Annotated[str, typer.Argument(help="A file of weights, or its https address.")],
    dataset: str,
    sha256: Annotated[str, typer.Option("--sha256", metavar="HEX", help="Expected SHA-256 of the file.")],
    normalize: Annotated[
        str | None, typer.Option("--normalize", help="imagenet or dataset, as in the weights' training.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", metavar="R,G,B", help="Instead of --normalize, for values 0 to 1.")
    ] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="R,G,B", help="Standard deviation for --mean.")] = None,
    expect: Annotated[
        float | None, typer.Option("--expect", metavar="SHARE", help="Published top-1, 0 to 1; another one is refused.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the store.", show_default="the architecture's")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of its training; 0: unknown.")] = 0,
    size: Annotated[
        int | None, typer.Option("--size", metavar="BYTES", help="Size of the file, for an https address.")
    ] = None,
    teacher_option: o.TeacherOption = None,
    image_size: o.ImageSize = None,
    data_dir: o.DataDir = None,
    device: o.Device = None,
    offline: o.Offline = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a teacher of that name in the store.")] = False,
    quiet: o.Quiet = False,
    as_json: o.Json = False,
) -> None:
    """Import published weights as a teacher.

    No code in the file is run. Layers are renamed from the layouts of pytorch-cifar-models,
    RepDistiller, mdistiller, torchvision and tiny-transformers; accuracy is measured on the
    test split, with the given normalisation.

    Example: lgkd import-teacher resnet56 model.pth --sha256 0123abcd --normalize imagenet
    """
    find(teacher)
    check_dataset(dataset, data_dir)
    free_place(name or teacher, dataset, None, replace=replace)
    options = o.key_values(teacher_option, "--teacher-option")
    means, deviations = _channels(mean, "--mean"), _channels(std, "--std")
    remote = "://" in weights
    if remote and size is None:
        raise InputError(f"the size of {weights} is unknown; give its bytes with --size (`curl -sIL` shows them)")
    with Display(f"import {teacher}", quiet=quiet or as_json) as display:
        from lgkd.runner import import_teacher as teacher_import

        file = weights
        if remote:
            assert size is not None
            file = str(
                teacher_import.fetch_weights(
                    weights, sha256=sha256, size=size, downloading=display.downloading, offline=offline
                )
            )
        card, folder = teacher_import.import_teacher(
            teacher,
            file,
            dataset,
            sha256=sha256,
            normalize=normalize,  # type: ignore[arg-type]
            mean=means,
            std=deviations,
            image_size=image_size,
            options=options,
            name=name,
            expect=expect,
            epochs=epochs,
            data_dir=data_dir,
            device=device,
            offline=offline,
            replace=replace,
            progress=display.decoded,
            downloading=display.downloading,
            say=display.say,
        )
    if as_json:
        show_json({**card.model_dump(mode="json", exclude={"classes"}), "folder": str(folder)})
        return
    out = console()
    out.print(
        f"test top-1 {in_percent(card.accuracy.top1)}%, {card.parameters:,} parameters, taps {', '.join(card.taps)}"
    )
    out.print(f"kept in {folder}", markup=False)
    if not quiet:
        line = next_command(card.name, dataset, size=card.image_size, data_dir=data_dir)
        out.print(line_of(f"next: {line}"), soft_wrap=True)


def _channels(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise InputError(f"{option} is {text!r}, expected three numbers such as 0.507,0.487,0.441")
    return values

"""Build the live objects of one bench, and run one step of each of their parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice

from torch import nn

from lgkd._internal.rng import preserved_generators
from lgkd.benchmark.options import Choices
from lgkd.benchmark.synthetic import made_dataset, made_teacher
from lgkd.benchmark.timer import Part, timed
from lgkd.data.batch import Batch
from lgkd.data.prepare import Data, make_class_balance, make_test_batches, make_train_loader, prepare_data
from lgkd.distillation.guide import Guide
from lgkd.errors import InputError
from lgkd.models.factory import default_image_size, pair
from lgkd.models.memory_format import lay_out, prefers_channels_last
from lgkd.runner.batches import Batches
from lgkd.runner.build import check_precision, make_guides, make_plan, make_student, make_task
from lgkd.training.compile import choose_compile
from lgkd.training.compile_blocks import repeated_blocks
from lgkd.training.evaluate import score
from lgkd.training.memory import keep_freed_memory
from lgkd.training.metrics import RunningMean
from lgkd.training.precision import choose_device
from lgkd.training.train_step import Engine

PARTS = ("data", "student", "guided", "whole", "evaluation")
_FIXED_BATCHES = 2
# Whether compiling pays depends on the length of a training; of made images, as if they were those of CIFAR.
_USUAL_IMAGES = 50_000


def load_data(choices: Choices) -> Data:
    """Load the images: made ones, or those of a data set.

    Raises:
        InputError: an image has several labels.
    """
    data = prepare_data(
        choices.dataset if choices.dataset is not None else made_dataset(choices),
        normalize=choices.resolved.view.normalize,
        channels=choices.resolved.view.channels,
        data_dir=choices.data_dir,
    )
    if data.multi_label:
        raise InputError(
            f"{data.source} has several labels an image, and a benchmark trains on one; expected a "
            "folder of classes: see the costs of this training by --dry-run"
        )
    return data


def load_pair(choices: Choices, data: Data) -> tuple[nn.Module, Guide | None, tuple[int, int]]:
    """Load the model to train, its guide if there is one, and the (height, width) of its images; all on the CPU."""
    recipe = choices.resolved
    size = pair(recipe.view.image_size or default_image_size(choices.model))
    model = make_student(
        choices.model, recipe, classes=len(data.classes), seed=choices.seed, options=choices.student_options
    )
    teachers = []
    if choices.guided:
        assert choices.teacher is not None
        teachers.append(made_teacher(choices.teacher, data, choices.seed))
    guides = make_guides(model, teachers, recipe, data, image_size=size, taps=None, seed=choices.seed)
    guide = guides[0] if guides else None
    lay_out(model, choose_device(choices.device))
    return model, guide, size


class Subject:
    """Run a training as `lgkd distill`, `train` and `train-teacher` build it, one step at a time.

    Args:
        choices: what is measured.

    Attributes:
        loader, engine, guide: of the training; no guide without terms.
        batch_size: images a step.
        compiled: what `compile()` compiles; False where the training is one that it is not to be called for.
        model: the trained model, inside the engine's task.
    """

    def __init__(self, choices: Choices) -> None:
        recipe = choices.resolved
        self.choices, self.device = choices, choose_device(choices.device)
        check_precision(recipe, self.device)
        self._generators = ExitStack()
        self._generators.enter_context(preserved_generators(self.device))
        if self.device == "cpu":
            keep_freed_memory()
        data = load_data(choices)
        self.model, self.guide, self.image_size = load_pair(choices, data)
        self._balance = make_class_balance(recipe, data)
        self.loader = make_train_loader(
            recipe,
            data,
            image_size=self.image_size,
            seed=choices.seed,
            device=self.device,
            teacher_sizes=[
                guide.teacher.image_size for guide in [self.guide] if guide is not None and guide.has_teacher
            ],
            class_weights=self._balance.weights,
        )
        self.batch_size = self.loader.batch_size
        self.plan = make_plan(
            recipe,
            steps_per_epoch=self.loader.steps_per_epoch,
            seed=choices.seed,
            device=self.device,
            channels_last=prefers_channels_last(self.model, self.device),
            compiled=False,  # the step is timed part by part before it is compiled
        )
        images = max(len(data.train), _USUAL_IMAGES) if choices.dataset is None else len(data.train)
        self.compiled = choose_compile(
            choices.compile,
            self.device,
            int(self.plan.length * images),
            cuda_graphs=choices.cuda_graphs,
            has_blocks=bool(repeated_blocks(self.model)),
        )
        self.engine = Engine(
            make_task(self.model, [self.guide] if self.guide is not None else [], recipe, self._balance),
            self.plan,
            names=self.loader.names,
        )
        self.engine.task.train()
        self._data, self._recipe = data, recipe
        self._batches = Batches(self.loader)
        self._meters = RunningMean()
        self._unguided: Engine | None = None
        self._fixed: Iterator[Batch] | None = None

    def draw(self) -> Batch:
        """Draw the next batch."""
        return next(self._batches)

    def train(self, batch: Batch) -> None:
        """Run one step of the training itself, on a batch."""
        self._step(self.engine, batch)

    def whole(self) -> None:
        """Run one step, batch and all."""
        self.train(self.draw())

    def fixed(self) -> Batch:
        """Return one of two batches that were drawn before."""
        if self._fixed is None:
            self._fixed = cycle([self.draw() for _ in range(_FIXED_BATCHES)])
        return next(self._fixed)

    def parts(self, wanted: Sequence[str] = PARTS) -> list[Part]:
        """Return the timed parts.

        "student" is the model alone, "guided" the model and its guide, both on batches drawn before;
        "whole" is the training. Without a guide there is no "guided".

        Args:
            wanted: names out of `PARTS`.
        """
        steps: dict[str, Callable[[], object]] = {"data": self.draw, "student": self._alone, "whole": self.whole}
        if self.guide is not None:
            steps["guided"] = lambda: self.train(self.fixed())
        images = dict.fromkeys(steps, self.batch_size)
        if "evaluation" in wanted:
            steps["evaluation"], images["evaluation"] = self._evaluation()
        return [
            Part(name, images[name], timed(steps[name], self.device))
            for name in PARTS
            if name in wanted and name in steps
        ]

    def compile(self) -> None:
        """Translate the step by torch.compile; it happens at the next step."""
        self.engine.compile(self.compiled, cuda_graphs=self.choices.cuda_graphs)

    def close(self) -> None:
        """Remove hooks and wrappers, and stop the threads of the loader."""
        self._batches.close()
        for engine in (self.engine, self._unguided):
            if engine is not None:
                engine.close()
        if self.guide is not None:
            self.guide.remove()
        self._generators.close()

    def _step(self, engine: Engine, batch: Batch) -> None:
        # Always the first step of a training: its rate is the warm-up's, so that nothing diverges.
        engine.step(batch, 0, 0, self._meters)

    def _alone(self) -> None:
        """Return a step of the same model in a training without a guide."""
        if self.guide is None:
            self.train(self.fixed())
            return
        if self._unguided is None:
            model = make_student(
                self.choices.model,
                self._recipe,
                classes=len(self._data.classes),
                seed=self.choices.seed,
                options=self.choices.student_options,
            )
            lay_out(model, self.device)
            self._unguided = Engine(
                make_task(model, [], self._recipe, self._balance), self.plan, names=self.loader.names
            )
            self._unguided.task.train()
            self._unguided.compile(self.compiled, cuda_graphs=self.choices.cuda_graphs)
        self._step(self._unguided, self.fixed())

    def _evaluation(self) -> tuple[Callable[[], object], int]:
        """Return a step that scores one batch of the test split as evaluation does, its batch size included."""
        batches = make_test_batches(
            self._data.test,
            image_size=self.image_size,
            mean=self._data.mean,
            std=self._data.std,
            interpolation=self._recipe.test_interpolation,
            device=self.device,
        )
        some = list(islice(batches, 1))

        def evaluate() -> None:
            score(self.engine.eval_model, some, precision=self.plan.precision, channels_last=self.plan.channels_last)

        return evaluate, len(some[0][0])

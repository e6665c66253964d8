"""Does a loss along dependency trees carry syntax? Smoothness, arcs against whole trees, and a structural probe.

What is studied: a small encoder with an arc scorer (Dozat and Manning 2017, arXiv:1611.01734) learns by the
cross-entropy of each word's head or by the likelihood of whole trees (Koo et al. 2007). Smoothness along the tree is
added to the first, and to an encoder that only learns tags. The control is the same loss along the chain of words,
because most tree neighbours are neighbours in the sentence. Are tree neighbours closer than other words equally far
apart in the sentence, does a probe (Hewitt and Manning 2019, NAACL) find more arcs, and is attachment better?
Baselines: the usual distance of a head (the next word), logistic regression over distances, an untrained encoder. Arcs
within words (`ig`) and to punctuation are not scored. Rates and weights are chosen by attachment on validation
sentences, with separate seeds; for tags, rates by tag errors, weights by the probe. "Few" is 200 trees, drawn per seed.

Data: turkish-treebanks (Apache-2.0), with web pages for training, other web pages and Wikipedia for tests; without it,
or with `--trees ast`, statements of Python's standard library (PSF-2.0).

    python -m experiments.syntax_tree
    python -m experiments.syntax_tree --data.path my.conllu

Expected: if tags are learnt, smoothness along trees brings tree neighbours in unseen web text closer (0.89 of the
distance of other words, instead of 0.98), and the probe finds 0.335 of the arcs instead of 0.290, but no more than in
an untrained encoder (0.334). If arcs are learnt, it does not help the parser: attachment is 0.680, without it 0.688;
the tree CRF has 0.689, logistic regression 0.612. With 200 trees the parsers are no better than logistic regression
(0.559 and 0.557; on Wikipedia 0.531 and 0.561), and the best weight of chain smoothness is the lowest tried, so this
control equals the plain arm. 11 minutes of processor time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

import lossfns
from experiments import study
from experiments.baselines.heads import measure_baseline
from experiments.data.treebank import TreebankConfig, TreeData, describe, read_arrays
from experiments.evaluation.parsers import Arm, Lab, tune_arms
from experiments.evaluation.structural_probe import measure_states, outputs, probe_trainer, tag_accuracy
from experiments.evaluation.tree_pictures import draw_distances, draw_examples, table_of
from experiments.evaluation.trees import measure_arcs
from experiments.models.parser import Parser
from experiments.study import Question, Row, Training, TrainingConfig, axis, many
from experiments.study.many import Bench
from train.errors import UsageError
from train.objective import Context, Objective, Term, term
from train.optimizers import OptimizerConfig

ARC, CRF, TAGS, UNTRAINED = "arc cross-entropy", "tree CRF", "tags", "untrained"
TREE, CHAIN = "tree smoothness", "chain smoothness"
USUAL, LINEAR = "usual distance", "logistic regression"
FEW, ALL = "few trees", "all trees"
ARMS = {ARC: Arm("arc"), CRF: Arm("tree_crf"), TAGS: Arm("tag")}
ARMS |= {f"{arm} + {extra}": Arm(ARMS[arm].main, extra, arm) for arm in (ARC, TAGS) for extra in (TREE, CHAIN)}
LOOKS = 10
"""Number of points of a learning curve."""


@dataclasses.dataclass(frozen=True)
class Config(study.StudyConfig):
    """Small parsers."""

    trees: Literal["turkish", "ast"] = "turkish"
    """The trees: a Turkish treebank, or the syntax of Python's statements."""
    data: TreebankConfig = TreebankConfig()
    """Limits of the data, or a file of your own."""
    methods: tuple[str, ...] = axis((*ARMS, UNTRAINED, USUAL, LINEAR))
    """Arms and baselines to run."""
    seeds: int = axis(6)
    """Number of networks of each arm."""
    tuning_seeds: int = 2
    """Number of further networks to choose each rate and weight."""
    few: int = 200
    """Number of training trees in the arms with few."""
    width: int = 64
    """Size of a word's state."""
    depth: int = 3
    """Number of layers; the last sees 7 words to each side."""
    rank: int = 32
    """Dimensions of the probe."""
    probe_steps: int = 200
    """Updates of the probe."""
    training: Training = TrainingConfig(
        OptimizerConfig(name="adam", learning_rate=1.0, schedule="cosine", warmup=0.05), 240, batch_size=16, devices=1
    )
    """Training of all arms; its learning rate multiplies the rates tried."""

    def __post_init__(self) -> None:
        study.check_known("--methods", self.methods, (*ARMS, UNTRAINED, USUAL, LINEAR))
        if self.training.steps % LOOKS:
            raise UsageError(f"--steps must be a multiple of {LOOKS}, but it is {self.training.steps}")

    def fast(self) -> Config:
        """The same path on less of everything."""
        data = dataclasses.replace(self.data, longest=8, longest_test=12, most=40, most_test=20)
        small: Any = {"few": 10, "width": 8, "depth": 1, "rank": 4, "probe_steps": 2, "seeds": 2, "tuning_seeds": 1}
        training = dataclasses.replace(self.training, steps=10, batch_size=4)
        return dataclasses.replace(self, data=data, training=training, **small)


def make_data(config: Config) -> TreeData:
    """Reads the trees."""
    return read_arrays(config.trees, config.data)


def make_model(config: Config, tags: int) -> Parser:
    """The encoder and its scorer."""
    return Parser(config.width, config.depth, tags)


def make_objective(model: Parser, main: str) -> Objective:
    """The likelihood of trees; or all other losses, with separate weights in each run."""

    def objective(params: Any, batch: Any, ctx: Context) -> dict[str, Term]:
        words, heads = batch["words"], batch["heads"]
        states, arcs, tags = model.apply({"params": params}, batch["parts"], words)  # type: ignore[misc]
        if main == "tree_crf":
            return {main: term(lossfns.dependency_tree_crf, arcs, heads, words)}
        place = jnp.broadcast_to(jnp.arange(heads.shape[-1]), heads.shape)

        def smoothness(other: jax.Array, there: jax.Array) -> Term:
            weights = jnp.where(there, 1 / jnp.maximum(1, there.sum(-1, keepdims=True)), 0)
            edges = jnp.stack([place, jnp.maximum(other, 0)], -1)
            return term(lossfns.tree_smoothness, states / states.shape[-1] ** 0.5, edges, weights, there)

        return {
            "arc": term(lossfns.arc_cross_entropy, arcs, heads, words, exclude_self=True),
            "tag": term(lossfns.softmax_cross_entropy, tags, batch["tags"], where=words),
            TREE: smoothness(heads - 1, words & (heads > 0)),
            CHAIN: smoothness(place - 1, words & (place > 0)),
        }

    return objective


def make_trainers(config: Config, model: Parser) -> dict[str, many.Trainer]:
    """The programs, by the main loss of an arm."""
    every, optimizer = config.training.steps // LOOKS, config.training.optimizer
    arcs, whole = (
        many.make_trainer(make_objective(model, name), {name: 1.0}, optimizer, every=every)
        for name in ("arc", "tree_crf")
    )
    return {"arc": arcs, "tag": arcs, "tree_crf": whole, "probe": probe_trainer(model, config.probe_steps)}


def evaluate(lab: Lab, **arm: Any) -> list[Row]:
    """A baseline, or all networks of an arm: attachment, and probes of their states."""
    method, config = arm["method"], lab.bench.config
    if method in (USUAL, LINEAR):
        seeds = range(config.seeds) if arm["trained_on"] == FEW else ()
        return measure_baseline(lab.data, method == LINEAR, seeds, config.few)
    if method in ARMS:
        end = lab.train(arm)
        params = end.params
        lab.bench.write_curves(arm, config.training.steps // LOOKS, end.curves)
    else:
        params = lab.runs({**arm, "method": ARC}).params
    if arm == {"method": ARC, "trained_on": ALL}:
        lab.bench.run.save(jax.tree.map(lambda leaf: leaf[0], params), len(lab.data.treebank.tags))
    probes = lab.probes(params).projections if arm["trained_on"] == ALL else None
    rows = []
    for text, gold in lab.data.tests.items():
        for seed, (states, arcs, tags) in enumerate(zip(*outputs(lab.model, params, gold), strict=True)):
            found = measure_states(states, probes[seed], gold) if probes is not None else {}
            found |= measure_arcs(arcs, gold) if method.startswith((ARC, CRF)) else {}
            found |= {"tag_accuracy": tag_accuracy(tags, gold)} if method.startswith(TAGS) else {}
            rows.append({"text": text, "seed": seed, **found})
    return rows


def of(trained_on: str, *methods: str) -> tuple[Row, ...]:
    """Settings of methods."""
    return tuple({"trained_on": trained_on, "method": method} for method in methods)


def ask(metric: str, treatment: Any, baselines: Any, claim: str, **more: Any) -> Question:
    """A question on each text of the test."""
    return Question(metric, treatment, baselines, by="text", claim=claim, **more)


ARC_TREE, ARC_CHAIN, TAGS_TREE, TAGS_CHAIN = (f"{arm} + {extra}" for arm in (ARC, TAGS) for extra in (TREE, CHAIN))
CLOSER: Any = {"metric": "closeness", "better": "lower"}
QUESTIONS = (
    ask(treatment=of(ALL, TAGS_TREE), baselines=of(ALL, TAGS, TAGS_CHAIN), **CLOSER,
        claim="Smoothness along trees brings neighbours in unseen trees closer, where tags are learnt"),
    ask(treatment=of(ALL, ARC_TREE), baselines=of(ALL, ARC, ARC_CHAIN), **CLOSER,
        claim="It brings them closer where arcs are learnt"),
    ask("uuas", of(ALL, TAGS_TREE), of(ALL, TAGS, TAGS_CHAIN, UNTRAINED, USUAL),
        "It carries syntax where tags are learnt: a probe finds more arcs"),
    ask("uuas", of(ALL, ARC_TREE), of(ALL, ARC, ARC_CHAIN), "It carries syntax that learning arcs does not"),
    ask("attachment", of(FEW, ARC_TREE), of(FEW, ARC, ARC_CHAIN), "It helps attachment where trees are few"),
    ask("attachment", of(ALL, ARC_TREE), of(ALL, ARC, ARC_CHAIN), "It helps attachment where there are all trees"),
    ask("attachment", of(FEW, CRF), of(FEW, ARC), "The likelihood of trees attaches better where trees are few"),
    ask("attachment", of(ALL, CRF), of(ALL, ARC), "The likelihood of trees attaches better where there are all trees"),
    ask("gain", of(FEW, ARC, CRF) + of(ALL, ARC, CRF), (0.0,), "A spanning tree is better than the best head of each"),
    ask("attachment", of(FEW, ARC, CRF), of(FEW, LINEAR) + of(ALL, USUAL), "With few trees parsers beat the baselines"),
    ask("attachment", of(ALL, ARC, CRF), of(ALL, LINEAR, USUAL), "With all trees parsers beat the baselines"),
    ask("uuas", of(ALL, ARC, TAGS), of(ALL, UNTRAINED, USUAL), "A probe finds more arcs than in an untrained encoder"),
)  # fmt: skip


def main(config: Config) -> dict[str, Any]:
    """Runs the study and returns its summary."""
    with study.open_study(config, __doc__) as run:
        data = make_data(config)
        run.uses(data.pool, data.tests)
        model = make_model(config, len(data.treebank.tags))
        grid = [*of(FEW, *(method for method in ARMS if TAGS not in method)), *of(ALL, *ARMS)]
        grid = [arm for arm in grid if arm["method"] in config.methods]
        lab = tune_arms(Lab(Bench(config, run, make_trainers(config, model)), data, model, ARMS), grid)
        others = [*of(FEW, LINEAR), *of(ALL, LINEAR, USUAL, UNTRAINED)]
        grid += [arm for arm in others if arm["method"] in config.methods]
        results = run.all(grid, lambda **arm: evaluate(lab, **arm), on=lab.chosen)
        drawn = [row for row in results if (row["trained_on"], row["method"]) == (ALL, ARC)]
        plots = run.path / "plots"
        panels = {
            "arcs are learnt": (ARC, ARC_TREE, ARC_CHAIN),
            "tags are learnt": (UNTRAINED, TAGS, TAGS_TREE, TAGS_CHAIN),
        }
        return run.report(
            results,
            QUESTIONS,
            notes=[describe(data), lab.table, lambda: table_of(results)],
            figures=[
                lambda: draw_examples(plots / "trees.png", data, drawn),
                lambda: draw_distances(plots / "distances.png", results, panels),
            ],
        )


if __name__ == "__main__":
    study.run(main, Config, __doc__)

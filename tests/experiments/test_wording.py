"""What a report says of its data follows the data."""

import dataclasses

import pytest

from experiments import bert_pretrain, bert_report, causal_lm, causal_report
from experiments.data.load import DataConfig, wording
from experiments.data.tokenizers import make_tokenizer
from train import MetricsWriter

OF_THE_BIBLE = ("Bible", "books", "chapter")
MEASURED = {"mlm": 2.0, "mlm_accuracy": 0.5, "nsp": 0.6, "nsp_accuracy": 0.7}
BASELINES = {
    "ngram": {"validation": [3.0, 2.0], "test": [3.0, 2.0]},
    "ngram_order": 2,
    "xz": 2.5,
    "xz_after_train": 2.0,
}


def shown(study, data, folder, capsys):
    """What the report of made-up results says, and what is printed."""
    folder.mkdir()
    with MetricsWriter(folder) as writer:
        for split in ("train", "validation"):
            for step in (1, 2):
                writer.write(step, split, MEASURED | {"next_token": 1.0, "accuracy": 0.5, "bits_per_byte": 2.0})
    if study == "bert_pretrain":
        config = dataclasses.replace(bert_pretrain.Config(), data=data)
        tokenizer = make_tokenizer(DataConfig(tokenizer="bytes"), ["some text"])
        edges = bert_pretrain.FREQUENCY_EDGES
        test = MEASURED | {f"mlm_accuracy_bin{i}": 0.5 for i in range(len(edges) + 1)}
        bert_report.report(config, tokenizer, 10, test, None, edges, folder)
    else:
        config = dataclasses.replace(causal_lm.Config(), data=data)
        result = {"test_bits_per_byte": 1.9, "test_next_token": 2.0, "test_accuracy": 0.5}
        sizes = {"train": 10, "validation": 10, "test": 10}
        causal_report.report(config, sizes, 10, [result], BASELINES, ["It said."], [folder], folder)
    return (folder / "report.md").read_text(), capsys.readouterr().out


@pytest.mark.parametrize("study", ["bert_pretrain", "causal_lm"])
@pytest.mark.parametrize("data", [DataConfig(path="letters/mine.txt"), DataConfig(name="lm1b")], ids=["file", "TFDS"])
def test_of_other_texts_nothing_is_said_that_is_true_of_the_bible_alone(study, data, tmp_path, capsys):
    report, printed = shown(study, data, tmp_path / "run", capsys)
    assert report.splitlines()[0].endswith(f" {wording(data).title}")
    assert "test text" in printed or "held-out text" in printed
    left_out = f"The fine-tuning is left out: no passage read from {wording(data).title} has a label."
    assert (left_out in report, left_out in printed) == (study == "bert_pretrain",) * 2
    reason = "Labels are the groups of books in bible_web and bible_kjv."
    for text in (report.replace("\\", ""), printed):
        assert not [word for word in OF_THE_BIBLE if word in text.replace(reason, "")]


@pytest.mark.parametrize("study", ["bert_pretrain", "causal_lm"])
@pytest.mark.parametrize(
    ("data", "title"), [(DataConfig(), "World English Bible"), (DataConfig(name="bible_kjv"), "King James Bible")]
)
def test_a_bible_has_books(study, data, title, tmp_path, capsys):
    report, printed = shown(study, data, tmp_path / "run", capsys)
    assert report.splitlines()[0].endswith(title)
    assert "books" in printed

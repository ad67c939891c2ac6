"""Where settings come from, which wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.config import Config, ScoreName, build_config, load_config, parse_toml, render_toml, setting_names
from skinvae.errors import ConfigError
from skinvae.model.scorer import ScoringSettings
from skinvae.records import SCORES

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [*sorted((ROOT / "configs").glob("*.toml")), ROOT / "skinvae" / "demo.toml"]


def test_the_defaults_are_the_paper_s() -> None:
    config = build_config({})
    assert config.model.model_dump() == {"image_size": 128, "base_channels": 64, "num_latents": 300}
    train = config.train
    assert (train.num_epochs, train.batch_size, train.learning_rate, train.sigma) == (40, 32, 1e-4, 0.1)
    assert (config.score.mode, config.score.num_samples, config.score.max_rejects) == ("exact", 15, 0.01)


def test_the_scoring_part_is_exactly_what_a_score_depends_on() -> None:
    score = build_config({}, ["score.num_samples=4", "score.slice_size=9", "score.seed=2"]).score
    scoring = score.scoring("float32")
    assert scoring == ScoringSettings(num_samples=4, seed=2)
    assert type(scoring) is ScoringSettings


def test_assignments_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file_values = {"train": {"num_epochs": 1, "batch_size": 2}, "model": {"num_latents": 7}}
    assert build_config(file_values).train.num_epochs == 1
    monkeypatch.setenv("SKINVAE_TRAIN__NUM_EPOCHS", "5")
    assert build_config(file_values).train.num_epochs == 5
    config = build_config(file_values, ["train.num_epochs=9"])
    # Each source overrides single settings, never a whole section.
    assert (config.train.num_epochs, config.train.batch_size, config.train.sigma) == (9, 2, 0.1)
    assert (config.model.num_latents, config.model.image_size) == (7, 128)


def test_the_last_of_two_assignments_wins() -> None:
    assert build_config({}, ["train.num_epochs=1", "train.num_epochs=2"]).train.num_epochs == 2


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.num_epochs=0", 0),
        ("train.beta=0.5", 0.5),
        ("train.learning_rate=1e-3", 1e-3),
        ("storage.anonymous=true", True),
        ("storage.anonymous=True", True),
        ("images.strict=false", False),
        ("score.mode=released", "released"),
        ('score.mode="released"', "released"),
        ("ray.address=auto", "auto"),
        ("ray.address=ray://10.0.0.1:10001", "ray://10.0.0.1:10001"),
        ("ray.address=a=b", "a=b"),
        (" train.num_epochs = 3", 3),
    ],
)
def test_assigned_values_are_read_as_toml_or_as_plain_text(assignment: str, expected: Any) -> None:
    config = build_config({}, [assignment])
    section, name = assignment.partition("=")[0].strip().split(".")
    value = getattr(getattr(config, section), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("assignment", "nearest"),
    [
        ("score.num_sample=3", "score.num_samples"),
        ("train.epochs=3", "train.num_epochs"),
        ("train.num_epochs.x=3", "train.num_epochs"),
        ("score.slicesize=3", "score.slice_size"),
        ("trian.num_epochs=3", "train"),
        ("file_values.x=3", "evaluate"),
    ],
)
def test_an_unknown_setting_names_the_nearest(assignment: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown setting '\w+.*': the nearest is '{nearest}[.\w]*'; `--print"):
        build_config({}, [assignment])


def test_unknown_settings_are_found_in_every_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'train\.epoch'"):
        build_config({"train": {"epoch": 3}})
    with pytest.raises(ConfigError, match="unknown setting 'trian'"):
        build_config({"trian": {"num_epochs": 3}})
    with monkeypatch.context() as patch:
        patch.setenv("SKINVAE_TRAIN__NUM_EPOCHSS", "3")
        with pytest.raises(ConfigError, match=r"'train\.num_epochss': the nearest is 'train\.num_epochs'"):
            build_config({})
    with monkeypatch.context() as patch:
        patch.setenv("SKINVAE_TRIAN__NUM_EPOCHS", "3")
        with pytest.raises(ConfigError, match="unknown setting 'trian': the nearest is 'train'"):
            build_config({})


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("score.num_samples=many", r"setting score\.num_samples = 'many': input should be a valid integer"),
        ("score.num_samples=0", r"setting score\.num_samples = 0: input should be greater than or equal to 1"),
        ("model.image_size=48", r"setting model\.image_size = 48: .*power of two"),
        ("score.mode=exakt", r"setting score\.mode = 'exakt': input should be 'exact' or 'released'"),
        ("ray.address=3", r"setting ray\.address = 3: input should be a valid string"),
        ("score.max_rejects=1.5", r"setting score\.max_rejects = 1\.5: input should be less than or equal to 1"),
        (
            "train.mlflow=https://me:pw@host/",
            r"setting train\.mlflow = \(not shown\): value error, must hold no credentials",
        ),
        ("train.beta=inf", r"setting train\.beta = inf: input should be a finite number"),
        ("train.learning_rate=nan", r"setting train\.learning_rate = nan: input should be"),
    ],
)
def test_a_bad_value_names_the_setting_the_value_and_the_bound(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config({}, [assignment])


@pytest.mark.parametrize("assignment", ["train", "train.num_epochs", "num_epochs=3", "=3", "train.=3", ""])
def test_a_malformed_assignment_shows_the_form(assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"write section\.key=value, for example|unknown setting"):
        build_config({}, [assignment])


def test_a_section_that_is_no_table_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="setting train = 3"):
        build_config({"train": 3})
    monkeypatch.setenv("SKINVAE_TRAIN", "3 epochs")
    with pytest.raises(ConfigError, match=r'environment: .*"train".*write SKINVAE_SECTION__KEY=value'):
        build_config({})


def test_bad_files_are_config_errors(tmp_path: Path) -> None:
    (tmp_path / "syntax.toml").write_text("[train\nnum_epochs = 3")
    (tmp_path / "latin.toml").write_bytes("[train] # Überlänge".encode("latin-1"))
    for name, words in {
        "gone.toml": r"--config: cannot read '.*gone\.toml': it does not exist",
        "syntax.toml": r"syntax\.toml' is no valid TOML: .*line 1",
        "latin.toml": r"latin\.toml' is no text file in UTF-8",
        "": r"a file was expected where a folder is",
    }.items():
        with pytest.raises(ConfigError, match=words):
            load_config(str(tmp_path / name))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_loads_and_says_something(path: Path) -> None:
    assert load_config(str(path)) != build_config({}) or path.name == "paper.toml"


def test_the_paper_s_file_is_the_defaults() -> None:
    paper, default = load_config(str(ROOT / "configs" / "paper.toml")), build_config({})
    assert (paper.model, paper.score) == (default.model, default.score)
    assert paper.train.model_copy(update={"data_licence": None}) == default.train


changes = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries({}, optional={"image_size": st.sampled_from([32, 64, 256])}),
        "train": st.fixed_dictionaries(
            {},
            optional={
                "learning_rate": st.floats(1e-300, 1e300),
                "beta": st.floats(1e-12, 1e3),
                "seed": st.integers(0, 2**63 - 1),
            },
        ),
        "score": st.fixed_dictionaries(
            {}, optional={"mode": st.sampled_from(["exact", "released"]), "max_rejects": st.floats(0, 1)}
        ),
        "storage": st.fixed_dictionaries({}, optional={"anonymous": st.booleans()}),
        "ray": st.fixed_dictionaries({}, optional={"address": st.text(st.characters(max_codepoint=0xFFF))}),
    },
)


@settings(max_examples=60, deadline=None)
@given(values=changes)
def test_rendered_settings_read_back_the_same(values: dict[str, Any]) -> None:
    config = build_config(values)
    assert build_config(parse_toml(render_toml(config), origin="rendered")) == config


def test_rendering_shows_every_setting_with_its_meaning() -> None:
    text = render_toml(build_config({}))
    for name in setting_names():
        section, key = name.split(".")
        assert f"[{section}]" in text
        assert f"\n{key} = " in text or f"\n# {key}: " in text, name
    assert "None" not in text


def test_every_setting_says_what_it_means() -> None:
    for name, field in Config.model_fields.items():
        for key, setting in type(field.default).model_fields.items():
            assert setting.description, f"{name}.{key}"


def test_the_scores_that_settings_name_are_the_table_s() -> None:
    assert get_args(ScoreName) == SCORES

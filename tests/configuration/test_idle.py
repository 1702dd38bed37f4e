"""A setting that somebody says and that nothing reads is refused with what it needs; nobody else is troubled."""

from __future__ import annotations

import pytest

from fedveil import checks, config
from fedveil.commands.sweep import grid
from fedveil.configuration import files, idle, settings

CLIENT = "privacy.client.epsilon=8"
CASES = [
    # what does nothing, what it needs
    ("partition.exponent=2", "partition.kind=long_tailed"),
    ("train.cohort.rate=0.5 train.cohort.kind=fixed train.cohort.size=3", "train.cohort.kind=poisson"),
    ("train.cohort.size=3", "train.cohort.kind=fixed"),
    ("train.local.steps=3 train.local.epochs=1", "train.local.epochs to be left out"),
    ("train.local.epochs=3 train.local.steps=1", "train.local.steps to be left out"),
    ("train.schedule.final=0.1 train.schedule.kind=steps", "train.schedule.kind=cosine"),
    ("train.schedule.milestones=[0.4] train.schedule.kind=cosine", "train.schedule.kind=steps"),
    ("train.schedule.factor=0.5", "train.schedule.kind=steps"),
    ("train.proximal=0.1 train.local.steps=1", "train.local.steps above 1"),
    ("train.average=0.5 train.rounds=1", "train.rounds above 1"),
    ("train.warm_steps=3", "train.warm_start=public"),
    ("train.warm_lr=0.1 train.warm_start=some-run", "train.warm_start=public"),
    ("train.warm_start_is_public=true", "train.warm_start=RUN_ID"),
    ("train.warm_start_is_public=true train.warm_start=public", "train.warm_start=RUN_ID"),
    ("train.warm_start_is_public=true train.warm_start=synthetic train.synthetic=f.npz", "train.warm_start=RUN_ID"),
    ("train.identity_bank=synthetic", "train.bank_identities above 0"),
    ("train.synthetic=f.npz train.bank_identities=3", "train.identity_bank=synthetic"),
    ("train.bank_sha256=00 train.bank_identities=3", "train.identity_bank=synthetic"),
    (f"privacy.client.quantile_share=0.1 {CLIENT}", "privacy.client.quantile=0.5"),
    (f"privacy.client.quantile_lr=0.1 {CLIENT}", "privacy.client.quantile=0.5"),
    ("privacy.client.clip=0.1", CLIENT),
    ("privacy.client.delta=1e-6 privacy.client.epsilon=none", CLIENT),
    ("privacy.client.quantile=0.5", CLIENT),
    ("privacy.client.on_exhausted=stop privacy.client.noise_multiplier=1", CLIENT),
    ("privacy.client.bands=4 privacy.client.epsilon=inf", "a finite privacy.client.epsilon"),
    ("privacy.client.clip=1 privacy.client.epsilon=8 privacy.client=none", CLIENT),
    ("privacy.noise=grid protection=none", "privacy.client.epsilon=8 or protection=dctdp"),
    ("evaluation.pairs_are_public=true", "evaluation.pairs=FILE"),
    ("data.pairs=100 evaluation.pairs=lfw.bin", "evaluation.pairs=none"),
    ("data.evaluation_identities=100 evaluation.pairs=lfw.bin", "evaluation.pairs=none"),
    ("data.evaluation_images=4 evaluation.pairs=lfw.bin", "evaluation.pairs=none"),
    ("evaluation.reference=true protection=none", "a protection"),
    ("evaluation.reference=true policy.max_total_epsilon=8", "no limit of policy"),
    ("engine.workers=2 engine=inline", "engine=pool"),
    ("evaluation.gallery=clean protection=none", "a protection"),
    ("policy.image_delta=1e-6 policy.max_client_epsilon=8", "policy.max_total_epsilon"),
    ("policy.client_delta=1e-6 policy.max_epsilon=8", "policy.max_client_epsilon"),
    ("tracking.uri=http://a tracking=none", "tracking=mlflow"),
    ("tracking.experiment=a tracking=none", "tracking=mlflow"),
    ("tracking.log_model=true tracking=none", "tracking=mlflow"),
    ("tracking.model=full tracking.log_model=false", "tracking.log_model=true"),
    ("data.evaluation_fraction=0.3 data=folder data.evaluation=procedural", "data.evaluation=held_out"),
    ("data.declared_public_evaluation=true data=packed data.evaluation=procedural", "data.evaluation=held_out"),
    ("data.held_fold=3 data=lfw data.view=1", "data.view=2"),
    ("protection.total_epsilon=8 protection.mode=coefficient", "protection.mode=image"),
    ("protection.radius_quantile=0.5 protection.mode=coefficient", "protection.mode=image"),
    *(
        (f"{word} generator=id3 generator.shared=true protection=none", "generator=none: a generator has no")
        for word in ("train.head_lr=0.1", "head.margin=0.1", "head.scale=8")
    ),
    ("protection.input_layout=pixels protection.mode=coefficient", "protection.mode=image"),
    ("protection.mean_epsilon=8", "protection.mode=coefficient"),
    ("protection.delta=1e-6", "protection.noise=gaussian"),
    ("protection.align_corners=false", "protection.input_layout=upsampled"),
    ("protection.fit_lr=0.1 protection.fit_steps=0", "protection.fit_steps above 0"),
]

STEPS = {
    "clip": "2", "delta": "1e-6", "sampling_rate": "0.5", "expected_batch": "8", "clipping": "layers", "head": "fixed",
    "rows": "8", "gradients": "loop", "images_per_step": "2",
}  # fmt: skip
for unit in ("image", "identity"):
    own = {name: value for name, value in STEPS.items() if name != "images_per_step" or unit == "identity"}
    CASES += [(f"privacy.{unit}.{name}={value}", f"privacy.{unit}.epsilon=8") for name, value in own.items()]
    CASES.append((f"privacy.{unit}.views=2 privacy.{unit}.epsilon=8", "train.augment.flip=true"))
    CASES.append((f"privacy.{unit}.noise_end=2 privacy.{unit}.epsilon=inf", "train.rounds above 1"))


@pytest.mark.parametrize(("words", "needs"), CASES)
def test_what_does_nothing_is_refused_by_name_with_what_it_needs(words: str, needs: str) -> None:
    said = words.split()
    with pytest.raises(checks.UserError) as caught:
        config.load(said)
    assert str(caught.value).startswith(f"{said[0]} does nothing here: it needs ")
    assert needs in str(caught.value)
    assert config.compose(said)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("privacy.client={}", "holds no setting"),
        ("privacy.client={clip:1,delta:1e-5}", "privacy.client.clip=1 does nothing here: it needs privacy.client.eps"),
        ("train.cohort={kind: poisson, rate: 1.0, size: 2}", "train.cohort.size=2 does nothing here"),
        ("train.cohort={kind: poisson, rate: 0.5, rate: 1.0}", "names rate twice"),
    ],
)
def test_what_does_nothing_in_a_block_is_refused_as_a_word_is(word: str, reason: str) -> None:
    with pytest.raises(checks.UserError, match=reason):
        config.load([word])
    with pytest.raises(checks.UserError, match=reason):
        grid.expand(["seed=1,2", '{}="{}"'.format(*word.split("=", 1))])


def test_every_rule_has_a_case_and_names_settings_that_exist() -> None:
    named = {key for rule in idle.RULES for key in rule.keys}
    assert named == {words.partition("=")[0] for words, _ in CASES}
    assert named <= set(settings.every())


@pytest.mark.parametrize(
    "words",
    [
        "train.schedule.kind=cosine train.schedule.final=0.1", "train.proximal=0.1",
        "train.proximal=0.1 train.local.epochs=1", "train.schedule.warm_up=0.1",
        "train.schedule.kind=steps train.schedule.milestones=[0.5] train.schedule.factor=0.2",
        "train.cohort.rate=0.5", "train.cohort.kind=fixed train.cohort.size=3", "train.local.epochs=1",
        "train.warm_start=public train.warm_steps=3 train.warm_lr=0.1", "data.difficulty=1",
        "train.warm_start=synthetic train.synthetic=f.npz train.warm_steps=3",
        "train.identity_bank=synthetic train.bank_identities=3 train.synthetic=f.npz", "train.identity_bank=public",
        "train.warm_start=some-run train.warm_start_is_public=true", f"{CLIENT} privacy.client.clip=1",
        "privacy.client.noise_multiplier=1 privacy.client.quantile=0.5 privacy.client.quantile_lr=0.1",
        "tracking=none tracking.log_model=false", "engine=pool engine.workers=2", "evaluation.reference=false",
        "protection.noise=gaussian protection.delta=1e-6",
        "protection.input_layout=upsampled protection.align_corners=true",
        "protection.mode=coefficient protection.mean_epsilon=1 protection.align_corners=true",
        "data=lfw data.held_fold=3", "data=folder data.evaluation_fraction=0.3", "study=clients", "study=quick",
        "privacy.noise=real protection=none", f"{CLIENT} privacy.noise=grid protection=none", "privacy.noise=grid",
        "study=clients privacy.client=none", "study=quick protection=none", "privacy.client.epsilon=none",
    ],
)  # fmt: skip
def test_what_is_read_or_was_not_said_is_taken(words: str) -> None:
    assert config.load(words.split())


@pytest.mark.parametrize("group", ["protection", "data", "model", "head", "aggregation", "engine", "tracking"])
def test_no_default_has_to_be_said(group: str) -> None:
    for name in files.choices(group):
        assert config.load([f"{group}={name}"])


def test_words_on_top_of_a_configuration_are_read_beside_its_settings() -> None:
    kept = config.load(["protection.mode=coefficient", "engine=inline"])
    assert config.load(["protection.mean_epsilon=3"], on=kept).protection.settings["mean_epsilon"] == 3
    with pytest.raises(checks.UserError, match=r"needs protection\.mode=image"):
        config.load(["protection.total_epsilon=8"], on=kept)
    with pytest.raises(checks.UserError, match="needs engine=pool"):
        config.load(["engine.workers=2"], on=kept)


def test_a_cell_of_a_sweep_leaves_out_what_does_nothing_in_it() -> None:
    made = grid.expand(["train.cohort.kind=poisson,fixed", "train.cohort.rate=0.1,0.2", "train.cohort.size=3"])
    assert [cell.label for cell in made.cells] == [
        "kind=poisson rate=0.1", "kind=poisson rate=0.2", "kind=fixed",
    ]  # fmt: skip
    assert [cell.settings.train.cohort.size for cell in made.cells] == [None, None, 3]
    assert "4 combinations are 3 runs" in made.notes[0]
    assert "train.cohort.rate needs train.cohort.kind=poisson" in made.notes[0]
    both = ["protection.total_epsilon=8", "protection.mean_epsilon=1"]
    modes = grid.expand(["protection.mode=image,coefficient", *both])
    assert [cell.settings for cell in modes.cells] == [
        config.load(["protection.mode=image", "protection.total_epsilon=8"]),
        config.load(["protection.mode=coefficient", "protection.mean_epsilon=1"]),
    ]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("seed=1,2 protection.delta=1e-6", "protection.delta=1e-6 does nothing here"),
        ("protection=none,dctdp protection.delta=1e-6,1e-5", "protection.delta=1e-6,1e-5 does nothing here"),
        ("seed=1,2 engine.workers=3", "use --workers N"),
    ],
)
def test_a_sweep_refuses_what_does_nothing_in_any_cell(words: str, named: str) -> None:
    with pytest.raises(checks.UserError, match=named):
        grid.expand(words.split())


def test_what_a_study_holds_stays_in_its_cells() -> None:
    cells = grid.expand(["study=client_frontier", "privacy.client.epsilon=none,8", "seed=1"]).cells
    assert {cell.settings.train.warm_steps for cell in cells} == {100}

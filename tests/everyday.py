"""What `make test` runs of the tests: everything once. `make test-all` repeats it in every combination.

scripts/test.py says which by DEFT_TEST, "everyday" or "all"; pytest by itself runs all of the files that it is given.
Every day these are left out, and counted:

* In tests/comfy, where a case makes networks: of a test's parameters that stand on top of each other, the combinations
  whose values all occur in combinations that are run. A row of one list is one value. An object that has an `everyday`
  has the values of that mapping in its own place.
* Of the tests in CHOSEN all cases but those.
* The tests in ONLY_IN_ALL, each with the reason.
* On an older ComfyUI all tests but CONTRACT's, and of those all cases but the first.

An older ComfyUI never runs what it has no part in (OF_COMFYUI), and few cases of the rest. Nothing is random. It is an
error when a name here is not in its test file, and when nothing of a file is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SIZES = ("everyday", "all")
COMBINED = "comfy/"  # where combinations are left out, and where there is an older ComfyUI


def one_of_each_name(ids: list[str]) -> list[str]:
    """The last of each group of cases that differ by what stands before the first hyphen."""
    return list({each.partition("-")[2]: each for each in ids}.values())


def all_but(*names: str) -> Callable[[list[str]], list[str]]:
    """All but these."""
    return lambda ids: [each for each in ids if each not in names]


# Of these tests only these cases, by the ids of their parameters. What the others show is shown by these and by the
# tests that are named.
CHOSEN: dict[str, tuple[str, ...] | Callable[[list[str]], list[str]]] = {
    # The oldest front end with the canvas' nodes and the newest with Vue's; test_front_end.py has ComfyUI 0.30.0's own.
    "server/test_first_training.py::test_from_odd_photos_to_a_picture": ("canvas-1.45.15", "vue-1.58.1"),
    # Both formats of an example are one prompt, and test_front_end.py runs the other examples from the page.
    "server/test_server.py::test_comfy_cli_runs": (
        "api/compare_methods.json",
        "deft_against_lora.json",
        "api/scene_personalisation.json",
        "strength_ladder.json",
        "api/train_with_previews.json",
    ),
    # What is on the canvas is the same as with Vue's nodes, whose page has all examples.
    "server/test_front_end.py::test_opens": lambda ids: [
        each for each in ids if each.startswith("vue-") or each == "canvas-compare_methods"
    ],
    # Three examples run in both kinds of nodes, of which every day with Vue's, all others in one.
    "server/test_front_end.py::test_runs_from_the_page": one_of_each_name,
    "server/test_front_end.py::test_widgets_appear_where_they_apply": ("vue",),
    "server/test_runs_page.py::test_the_tab": ("vue",),
    "server/test_stack.py::test_rows_that_are_set_in_the_page_run": ("vue",),
    # ComfyUI 0.24.0 is started with the pack in test_sweeps.py.
    "install/test_install.py::test_zip_and_git_checkout": ("0.30.0",),
    # What these four train is in the others, too: each method and each option once.
    "comfy/test_devices.py::test_training": all_but("deft qr", "para", "lora", "flow"),
    "comfy/test_devices.py::test_how_often_a_step_waits": all_but("lokr", "svdiff", "para"),
    # One adapter of every kind at once.
    "comfy/test_devices.py::test_applying_to_weights": ("every kind-sequential", "every kind-from_base"),
    "comfy/test_devices.py::test_export": ("every kind-0", "every kind-2"),
    "comfy/test_devices.py::test_adapter_info": ("every kind",),
    # The gradients of each are in the test after it.
    "comfy/test_training_runs.py::test_text_encoders_are_trained_with_the_model": ("svdiff-everything",),
    # The others have the same nodes with other values; tests/server runs table 1's methods (compare_all_methods).
    "comfy/test_tables.py::test_the_examples_run": ("deft_table2_repository",),
    # The other kinds are in test_batches_of_one_and_eight.
    "unit/test_scoring_exactness.py::test_features_of_every_kind_of_picture": ("square", "odd", "alpha"),
    # Each method goes through the nodes in test_every_method.py.
    "comfy/test_finished_runs.py::test_all_outputs_are_those_of_the_training": ("deft", "dreambooth"),
}
# Not every day at all, and why.
SWEEPS, RAY = "server/test_sweeps.py::", "server/test_sweep_ray.py::"
ONLY_IN_ALL: dict[str, str] = {
    f"{SWEEPS}test_a_server_that_dies": "test_killed_and_run_again has a server that dies in the same way",
    f"{SWEEPS}test_a_cell_that_kills_its_server_is_not_tried_for_ever": "unit/test_sweep_runner.py has it, without one",
    f"{SWEEPS}test_two_servers_of_one_runner": "a runner has two servers in test_sweep_ray.py, and two runners have "
    "one each in test_two_runners_share_a_store",
    "comfy/test_finished_runs.py::test_after_a_restart": "what another process has left is gone on with in "
    "test_killed_and_resumed_is_bit_for_bit_the_same, and the tests before it find a finished run",
    "comfy/test_checkpoints.py::test_overfitting_is_named": "unit/test_checkpoint_choice.py has the rule, and "
    "test_a_training_that_goes_too_far the node",
    "unit/test_scoring_exactness.py::test_plain_gelu_is_another_model": "test_plain_gelu_would_be_another_model of "
    "test_scoring_backbones.py has it, smaller",
    "comfy/test_docs_adding.py::test_each_walk_says_what_is_left_to_do": "a server is asked after each walk, and "
    "test_generated.py has a new method, option and input",
    "comfy/test_docs_adding.py::test_the_types_are_right": "it takes a minute, and the walks rarely change",
    "comfy/test_gpu_benchmark.py::test_every_line_runs": "it is a script for people who measure a GPU",
    f"{RAY}test_a_cell_is_cancelled": "test_control_c cancels cells over HTTP, which these workers talk, too",
    f"{RAY}test_a_token_is_sent": "test_a_token_is_trained_once sends one to an address, and "
    "test_files_travel_and_a_server_dies sends files to a cluster",
}

# What makes the list of bases in tests/comfy is ComfyUI 0.30.0's.
NEWEST = (0, 30)
# On an older ComfyUI a test runs with so many of its cases, the first, the last and those between evenly spread:
# what one case shows of that ComfyUI the others show, too. Those of these files are chosen by what ComfyUI has.
MOST_CASES = 3
EVERY_CASE = ("test_architectures.py", "test_bases.py", "test_conversions.py", "test_quantised.py")
# Every day an older ComfyUI trains one of its bases: it is the trainer that has an interface with it.
ONE_CASE = ("test_bases.py",)
# Of these files an older ComfyUI runs these tests only: where ComfyUI has a part. The others are of the pack's own
# files, texts and sums, and of PyTorch's, which are the same there.
OF_COMFYUI: dict[str, set[str]] = {
    "test_devices.py": set(),  # of a GPU, or of PyTorch's pretended one
    "test_docs_adding.py": set(),
    "test_score_table.py": set(),
    # Sizes, identities and messages are the pack's; rows, areas, masks and ranges are compared with ComfyUI's sampler.
    "test_captions.py": {
        "test_rows_of_a_batch_are_captions_one_a_picture",
        "test_row_i_is_what_the_sampler_gives_to_picture_i",
        "test_prior_and_empty_captions_have_rows_too",
        "test_an_area_is_trained_as_that_part_alone",
        "test_an_area_is_shown_to_the_network_as_by_the_sampler",
        "test_the_area_of_a_video",
        "test_the_mask_of_a_caption_is_one_of_the_loss",
        "test_noise_levels_are_those_of_the_captions_range",
        "test_a_shifted_models_range_is_its_own",
        "test_what_changes_the_model_is_refused",
        "test_hooks_that_are_none_are_no_hooks",
        "test_videos_on_a_video_base",
        "test_a_model_that_reads_the_area_gets_it_in_latent_pixels",
    },
    # A run's folder is the pack's; a run that goes on in another process is one of test_training_runs.py.
    "test_finished_runs.py": {"test_all_outputs_are_those_of_the_training", "test_in_a_loop", "test_by_its_name"},
    # That the nodes' definitions come out the same; what is told of a changed one is of the scripts.
    "test_generated.py": {"test_nothing_is_stale"},
    "test_help.py": {"test_pages_and_nodes_are_the_same", "test_every_text_is_there"},
    "test_help_lists.py": set(),
    # Names and marks of files are the pack's.
    "test_named_adapters.py": {
        "test_a_named_adapter_is_listed_and_loads_and_is_as_save_adapter_writes_it",
        "test_a_connected_name_is_that_of_training_settings",
        "test_the_last_preview_lies_beside_it",
        "test_a_file_of_another_folder_is_not_put_in_the_shade",
    },
    "test_optimizers.py": set(),  # PyTorch's steps
    # The scale and its overflows are the pack's; test_bases.py has the gradients of each class of model in bf16, too.
    "test_precision.py": {
        "test_float32_is_float32_whatever_is_stored",
        "test_what_auto_is",
        "test_a_picture_that_overflows_is_passed_over_and_counted",
        "test_a_model_that_comfyui_moves_while_it_trains",
    },
    # What a saved file says of its base is read of ComfyUI's models; PEFT's folders and foreign headers are not.
    "test_saving_messages.py": {
        "test_every_base_is_one_of_comfyuis",
        "test_models_of_comfyuis_own_making",
        "test_the_connected_model_names_the_base_of_an_adapter_that_does_not",
        "test_captions_that_reach_the_nodes_as_text",
        "test_a_coarse_base_could_be_another",
        "test_a_fine_base_is_told_and_nothing_is_said",
    },
}
# Every day an older ComfyUI runs of these files all of the above, of the others nothing: the interfaces that the pack
# has with it. Names of files of which some tests are enough have them.
EVERYTHING = None
CONTRACT: dict[str, set[str] | None] = {
    # It is loaded; its nodes, their inputs and what they say
    "test_harness.py": EVERYTHING,
    "test_core_symbols.py": EVERYTHING,
    "test_nodes_schema.py": EVERYTHING,
    "test_interface.py": EVERYTHING,
    "test_generated.py": EVERYTHING,
    "test_run_routes.py": EVERYTHING,
    "test_live.py": EVERYTHING,
    # Names and storage of weights
    "test_names.py": EVERYTHING,
    "test_titles.py": EVERYTHING,
    "test_architectures.py": {
        "test_an_adapter_does_the_same_in_both",
        "test_an_adapter_of_a_text_encoder_does_the_same_in_both",
    },
    "test_conversions.py": EVERYTHING,
    "test_quantised.py": EVERYTHING,
    # Applying
    "test_patches.py": EVERYTHING,
    "test_activations.py": EVERYTHING,
    "test_bypass.py": EVERYTHING,
    "test_hooks.py": EVERYTHING,
    "test_stack.py": EVERYTHING,
    "test_stacking.py": EVERYTHING,
    "test_failed_patches.py": EVERYTHING,
    "test_inference_only.py": EVERYTHING,
    # Training
    "test_bases.py": EVERYTHING,
    "test_training.py": EVERYTHING,
    "test_captions.py": EVERYTHING,
    "test_guidance.py": EVERYTHING,
    "test_core_training.py": EVERYTHING,
    "test_precision.py": EVERYTHING,
    "test_training_runs.py": {
        "test_interrupted_and_resumed",
        "test_pytorch_s_attention_for_the_time_of_a_training",
        "test_a_preview_is_what_the_adapter_makes",
        "test_text_encoders_are_trained_with_the_model",
    },
    "test_textual_inversion.py": {
        "test_the_vectors_do_what_comfyui_does_with_the_file",
        "test_the_node_learns_saves_and_is_used_at_once",
    },
    "test_reference.py": {
        "test_loss_and_gradients_are_those_of_apply_model",
        "test_the_examples_run_and_share_one_adapter",
    },
    # Whole graphs through ComfyUI's executor
    "test_adapter_nodes.py": {
        "test_a_trained_adapter_works_in_our_nodes_and_in_core_nodes",
        "test_a_list_from_core_dataset_nodes",
        "test_interruption_through_the_executor",
        "test_round_trip_of_a_native_file",
    },
    "test_training_nodes.py": {
        "test_settings_reach_the_trainer",
        "test_previews_are_shown_and_come_out_as_a_sheet",
        "test_prior_pictures_masks_and_the_text_encoder",
        "test_too_little_memory_through_the_executor",
    },
    "test_training_pictures.py": {"test_latents_and_captions_are_those_of_comfyui_s_nodes"},
    "test_export.py": {"test_core_loader_gives_the_picture_of_the_adapter"},
    "test_scoring_nodes.py": {
        "test_scores_come_out_as_numbers_and_text",
        "test_a_clip_vision_measures_clip_i",
        "test_comfyuis_memory_management_has_the_encoders",
    },
}


def is_everyday() -> bool:
    """Whether this is `make test`."""
    return size_of_run() == "everyday"


def size_of_run() -> str:
    """Which of SIZES this is."""
    size = os.environ.get("DEFT_TEST") or "all"
    if size not in SIZES:
        raise pytest.UsageError(f"DEFT_TEST is {size!r}; it can be {' or '.join(SIZES)}")
    return size


@dataclass
class Choice:
    """What of the collected tests is run. `repeats` are those that only `make test-all` runs."""

    kept: list[pytest.Item]
    repeats: list[pytest.Item] = field(default_factory=list)
    foreign: list[pytest.Item] = field(default_factory=list)  # what an older ComfyUI has no part in, in no size


def name_of(item: pytest.Item) -> str:
    """The test function's name, without its parameters."""
    return getattr(item, "originalname", None) or item.name


def place_of(item: pytest.Item) -> str:
    """The folder and file of a test: "comfy/test_bases.py"."""
    return item.path.relative_to(TESTS).as_posix()


def values_of(item: pytest.Item) -> frozenset[tuple[str, Hashable]]:
    """A case's values: one for each list of parameters, an object's own where it has some. Of one list they are told
    apart as objects, so that rows with equal words in them stay rows."""
    if not hasattr(item, "callspec"):
        return frozenset()
    params, values, listed = item.callspec.params, set(), set()
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        listed |= set(names)
        own = getattr(params[names[0]], "everyday", None) if len(names) == 1 else None
        if isinstance(own, Mapping):
            values |= set(own.items())
        else:
            values.add((",".join(names), tuple(id(params[name]) for name in names)))
    return frozenset(values | {(name, id(value)) for name, value in params.items() if name not in listed})


def covering(cases: list[frozenset[tuple[str, Hashable]]]) -> list[int]:
    """The places of few cases that have all values: each time the first with the most of those that are lacking."""
    lacking, chosen = set().union(*cases), []
    while lacking:
        place = max(range(len(cases)), key=lambda at: (len(cases[at] & lacking), -at))
        chosen.append(place)
        lacking -= cases[place]
    return chosen or [0]


def check_names(tests: Mapping[tuple[str, str], list[pytest.Item]]) -> None:
    """An error for a name of the tables that its file lacks, of the files that are collected."""
    modules = {place: cases[0].module for (place, _), cases in tests.items()}
    named = [tuple(test.split("::")) for test in (*CHOSEN, *ONLY_IN_ALL)]
    named += [
        (f"comfy/{file}", name)
        for table in (OF_COMFYUI, CONTRACT)
        for file, names in table.items()
        for name in names or ()
    ]
    if lacking := [
        f"{place}::{name}" for place, name in named if place in modules and not hasattr(modules[place], name)
    ]:
        raise pytest.UsageError(f"tests/everyday.py names tests that are not there: {', '.join(lacking)}")


def usual(place: str, name: str, cases: list[pytest.Item], older: bool) -> list[pytest.Item]:
    """The cases of a test that `make test-all` runs."""
    file = Path(place).name
    if not older:
        return cases
    if name not in OF_COMFYUI.get(file, {name}):
        return []
    if file in EVERY_CASE or len(cases) <= MOST_CASES:
        return cases
    return [cases[at] for at in sorted({at * (len(cases) - 1) // (MOST_CASES - 1) for at in range(MOST_CASES)})]


def once(place: str, name: str, cases: list[pytest.Item], older: bool) -> list[pytest.Item]:
    """The cases that `make test` runs."""
    test, file = f"{place}::{name}", Path(place).name
    if not cases or test in ONLY_IN_ALL:
        return []
    if older:
        of_file = CONTRACT.get(file, set())
        if of_file is not EVERYTHING and name not in of_file:
            return []
        if file not in EVERY_CASE or file in ONE_CASE:
            return cases[:1]
    if test in CHOSEN:
        by_id = {case.callspec.id: case for case in cases}
        rule = CHOSEN[test]
        ids = rule(list(by_id)) if callable(rule) else rule
        if lacking := set(ids) - set(by_id):
            raise pytest.UsageError(f"tests/everyday.py: {test} has no case {', '.join(sorted(lacking))}")
        return [by_id[each] for each in ids]
    if place.startswith(COMBINED):
        chosen = set(covering([values_of(case) for case in cases]))
        return [case for at, case in enumerate(cases) if at in chosen]
    return cases


def choose(items: Iterable[pytest.Item], size: str, version: tuple[int, ...] = NEWEST) -> Choice:
    """Sort the collected tests by whether they are run in a size of the run, on ComfyUI of a version."""
    tests: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        tests.setdefault((place_of(item), name_of(item)), []).append(item)
    check_names(tests)
    choice, older = Choice([]), version < NEWEST
    for (place, name), cases in tests.items():
        of_all = usual(place, name, cases, older and place.startswith(COMBINED))
        kept = of_all if size == "all" else once(place, name, of_all, older and place.startswith(COMBINED))
        in_all, run = set(map(id, of_all)), set(map(id, kept))
        for case in cases:
            (choice.kept if id(case) in run else choice.repeats if id(case) in in_all else choice.foreign).append(case)
    if not older and (empty := {place for place, _ in tests} - {place_of(case) for case in choice.kept}):
        raise pytest.UsageError(f"tests/everyday.py leaves nothing of {', '.join(sorted(empty))}")
    return choice
